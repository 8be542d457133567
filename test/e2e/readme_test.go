package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

var (
	console = regexp.MustCompile("(?ms)^```\n(\\$ .*?)^```$")
	golang  = regexp.MustCompile("(?ms)^```go\n(.*?)^```$")
)

// TestReadme types what the README shows into a shell, in a copy of what it is about.
func TestReadme(t *testing.T) {
	binaries(t)
	t.Parallel()
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, "")
	dir := t.TempDir()
	if err := os.CopyFS(filepath.Join(dir, "examples"), os.DirFS("../../examples")); err != nil {
		t.Fatal(err)
	}
	blocks := console.FindAllStringSubmatch(string(readme), -1)
	var script strings.Builder
	for _, block := range blocks {
		script.WriteString(typed(block[1]))
	}
	// The socket is root's in the README, and the terminal is one that says nothing.
	text := strings.NewReplacer("/run/cove/cove.sock", filepath.Join(w.dirs.State, "cove.sock"),
		"cove exec -it dev -- bash", "script -qec 'cove exec -it dev -- bash' /dev/null <<<'exit'", "curl -s ", "curl -sS ").Replace(script.String())
	output := w.bash(t, dir, text)
	for _, want := range []string{
		"42\n", "FAILED (failures=1)\n1\n", "\nOK\n", "# Free time", `"name":"web","state":"running"`, `"exit_code":0,"stdout":"42\n"`,
	} {
		if !strings.Contains(output, want) {
			t.Errorf("the output lacks %q:\n%s", want, output)
		}
	}
	patch, err := os.ReadFile(filepath.Join(dir, "examples/fixbug/fix.patch"))
	if err != nil || !bytes.Contains(patch, []byte("+Finds the time that is free in a calendar")) {
		t.Errorf("the patch: %v: %s", err, patch)
	}
	if _, err := os.Stat(filepath.Join(dir, "examples/fixbug/result/report.md")); err != nil {
		t.Error(err)
	}
}

// typed is what somebody types: the lines of a block after "$ ", and what goes on on the next.
func typed(block string) string {
	var lines []string
	more := false
	for line := range strings.Lines(block) {
		rest, begins := strings.CutPrefix(line, "$ ")
		if begins || more {
			lines = append(lines, rest)
		}
		more = (begins || more) && strings.HasSuffix(strings.TrimRight(line, "\n"), "\\")
	}
	return strings.Join(lines, "")
}

// bash runs a script in a directory, and returns what it writes.
func (w *world) bash(t *testing.T, dir, script string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", script)
	cmd.Dir, cmd.WaitDelay = dir, 5*time.Second
	cmd.Env = append(os.Environ(), w.env...)
	output, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v:\n%s", err, output)
	}
	return string(output)
}

// TestReadmeGo runs the lines of Go that the README shows.
func TestReadmeGo(t *testing.T) {
	binaries(t)
	t.Parallel()
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	lines := golang.FindSubmatch(readme)
	if lines == nil {
		t.Fatal("the README shows no Go")
	}
	w := newWorld(t, "")
	dir := t.TempDir()
	program := `package main

import (
	"context"
	"fmt"

	"github.com/covehq/cove"
	"github.com/covehq/cove/client"
)

func main() {
	ctx := context.Background()
	` + string(lines[1]) + `
	fmt.Print(string(out), err)
	c.Close()
}
`
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{abs(t, "../../examples/readme/main.go"): filepath.Join(dir, "main.go")}})
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{"main.go": []byte(program), "overlay.json": overlay} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	build := exec.CommandContext(t.Context(), "go", "build", "-overlay", filepath.Join(dir, "overlay.json"), "-o", filepath.Join(dir, "readme"), "./examples/readme")
	build.Dir, build.Env = "../..", append(os.Environ(), "CGO_ENABLED=0")
	if output, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, output)
	}
	w.output(t, "ls") // starts the daemon, which a program in Go expects to run
	if got := w.bash(t, dir, "./readme"); got != "42\n<nil>" {
		t.Errorf("got %q, want 42", got)
	}
}

func abs(t *testing.T, path string) string {
	t.Helper()
	whole, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	return whole
}
