package e2e

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/covehq/cove"
)

// gigabyte is a stream that fits nowhere: not into memory, nor into a ring.
const gigabyte = 1 << 30

func TestStreams(t *testing.T) {
	eachRuntime(t, func(t *testing.T, runtime string) {
		w := newWorld(t, runtime)
		t.Run("bytes of every kind come back as they went", func(t *testing.T) { echoesBytes(t, w) })
		t.Run("output comes when it is written", func(t *testing.T) { comesAtOnce(t, w) })
		t.Run("a gigabyte of standard input", func(t *testing.T) { takesGigabyte(t, w) })
		t.Run("a gigabyte of output", func(t *testing.T) { givesGigabyte(t, w) })
		t.Run("every kind of standard input", func(t *testing.T) { takesEveryStdin(t, w) })
		t.Run("a reader that leaves", func(t *testing.T) { endsQuietly(t, w) })
		t.Run("a command that does not read", func(t *testing.T) { ignoresInput(t, w) })
		t.Run("a path with NUL", func(t *testing.T) { refusesNUL(t, w) })
		t.Run("too many labels", func(t *testing.T) { refusesLabels(t, w) })
		if left := w.output(t, "ls", "-q"); left != "" {
			t.Errorf("sandboxes are left: %s", left)
		}
	})
}

func echoesBytes(t *testing.T, w *world) {
	data := make([]byte, 8<<20)
	random := rand.NewChaCha8([32]byte{1})
	random.Read(data)
	cmd := w.command(t, "run", "--", "cat")
	cmd.Stdin = bytes.NewReader(data)
	got, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, data) {
		t.Errorf("got %d bytes with sum %x, want %d with %x", len(got), sha256.Sum256(got), len(data), sha256.Sum256(data))
	}
}

// comesAtOnce holds a conversation: each side waits for the other's line.
func comesAtOnce(t *testing.T, w *world) {
	cmd := w.command(t, "run", "--", "sh", "-c", `while read -r line; do echo "heard $line"; done`)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"one", "two"} {
		io.WriteString(stdin, line+"\n")
		want := "heard " + line + "\n"
		got := make([]byte, len(want))
		if _, err := io.ReadFull(stdout, got); err != nil || string(got) != want {
			t.Errorf("got %q, %v, want %q", got, err, want)
		}
	}
	stdin.Close()
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

func takesGigabyte(t *testing.T, w *world) {
	cmd := w.command(t, "run", "--", "wc", "-c")
	cmd.Stdin = &io.LimitedReader{R: zeroes{}, N: gigabyte}
	got, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	if strings.TrimSpace(string(got)) != "1073741824" {
		t.Errorf("%s bytes arrived, want %d", got, gigabyte)
	}
}

func givesGigabyte(t *testing.T, w *world) {
	cmd := w.command(t, "run", "--", "head", "-c", "1073741824", "/dev/zero")
	var count counter
	cmd.Stdout = &count
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	if count != gigabyte {
		t.Errorf("got %d bytes, want %d", count, gigabyte)
	}
}

type zeroes struct{}

func (zeroes) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

type counter int64

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}

func takesEveryStdin(t *testing.T, w *world) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("from a file"), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct{ shell, want string }{
		"closed":            {"cove run -- cat <&-", ""},
		"empty":             {"cove run -- cat </dev/null", ""},
		"a pipe":            {"printf piped | cove run -- cat", "piped"},
		"a pipe of nothing": {"true | cove run -- cat", ""},
		"a file":            {"cove run -- cat <" + file, "from a file"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if got := w.shell(t, test.shell); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
	t.Run("a directory", func(t *testing.T) {
		cmd := w.command(t, "run", "--", "cat")
		dir, err := os.Open(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		defer dir.Close()
		cmd.Stdin = dir
		output, err := cmd.CombinedOutput()
		if exitCode(err) != 125 || !strings.Contains(string(output), "is a directory") {
			t.Errorf("got %v, %s, want an error that says so", err, output)
		}
	})
}

// shell runs a line of shell that must succeed without a word on standard error.
func (w *world) shell(t *testing.T, line string) string {
	t.Helper()
	cmd := w.command(t)
	cmd.Path, cmd.Args = "/bin/bash", []string{"bash", "-o", "pipefail", "-c", line}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil || stderr.Len() > 0 {
		t.Fatalf("%s: %v\n%s", line, err, stderr.String())
	}
	return string(out)
}

// endsQuietly is a pipe to somebody who has heard enough.
func endsQuietly(t *testing.T, w *world) {
	if got := w.shell(t, `cove run -- yes | head -1; echo "${PIPESTATUS[0]}"; true`); got != "y\n141\n" {
		t.Errorf("got %q, want a line and the status of a broken pipe", got)
	}
}

func ignoresInput(t *testing.T, w *world) {
	cmd := w.command(t, "run", "--", "true")
	cmd.Stdin = &io.LimitedReader{R: zeroes{}, N: 64 << 20}
	if output, err := cmd.CombinedOutput(); err != nil && !errors.Is(err, syscall.EPIPE) {
		t.Errorf("%v: %s", err, output)
	}
}

func refusesNUL(t *testing.T, w *world) {
	id := w.output(t, "create")
	defer w.output(t, "rm", id)
	files := w.client(t).Handle(id).Files()
	if _, err := files.ReadFile(t.Context(), "/etc/passwd\x00.txt"); !errors.Is(err, cove.Invalid) || cove.HintOf(err) == "" {
		t.Errorf("read: got %v, want an error that is invalid, with a hint", err)
	}
	if _, err := files.WriteFile(t.Context(), "a\x00b", strings.NewReader("x"), 0); !errors.Is(err, cove.Invalid) {
		t.Errorf("write: got %v, want an error that is invalid", err)
	}
	cmd := w.client(t).Handle(id).Command("tr\x00ue")
	if err := cmd.Run(); !errors.Is(err, cove.Invalid) {
		t.Errorf("command: got %v, want an error that is invalid", err)
	}
}

func refusesLabels(t *testing.T, w *world) {
	args := []string{"create"}
	for i := range 300 {
		args = append(args, "--label", "l"+string(rune('a'+i%26))+strings.Repeat("x", i/26)+"=v")
	}
	output, err := w.command(t, args...).CombinedOutput()
	if exitCode(err) != 1 || !strings.Contains(string(output), "label") || !strings.Contains(string(output), "hint: ") {
		t.Errorf("got %v, %s, want an error with a hint", err, output)
	}
}

// exitCode is that of a command's error: 0 for nil, -1 for a signal or another error.
func exitCode(err error) int {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.ExitCode()
	}
	return -1
}

// soon is how long something takes at most that happens at once, on a busy machine.
const soon = 20 * time.Second
