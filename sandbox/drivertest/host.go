package drivertest

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/sandbox/driver"
)

// binVariable names a directory with the helper programs, built already.
const binVariable = "COVE_BIN"

// Programs returns a directory with the helper programs of these names: COVE_BIN, or built
// for the test.
func Programs(t *testing.T, names ...string) string {
	t.Helper()
	if dir := os.Getenv(binVariable); dir != "" {
		return dir
	}
	dir := t.TempDir()
	if err := build(t.Context(), dir, names...); err != nil {
		t.Fatal(err)
	}
	return dir
}

// build builds programs of this module into dir.
func build(ctx context.Context, dir string, names ...string) error {
	args := []string{"build", "-trimpath", "-o", dir + "/"}
	for _, name := range names {
		args = append(args, "github.com/covehq/cove/cmd/"+name)
	}
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	cmd.WaitDelay = time.Second
	if output, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", strings.Join(names, ", "), err, output)
	}
	return nil
}

// rigVariable tells a program that was started to be killed on what it is to open a driver.
const rigVariable = "COVE_DRIVERTEST_RIG"

// CrashRig is CrashWhenAsked for a driver that open opens again on what RigCrasher was given:
// an installation's directories and names, as exported fields.
func CrashRig[R any](open func(R) (driver.Driver, error)) {
	text := os.Getenv(rigVariable)
	if text == "" {
		return
	}
	var rig R
	err := json.Unmarshal([]byte(text), &rig)
	if err == nil {
		var d driver.Driver
		if d, err = open(rig); err == nil {
			CrashWhenAsked(d)
			return
		}
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// RigCrasher is Crasher for a TestMain that calls CrashRig.
func RigCrasher[R any](rig R) func(context.Context, string, *cove.Spec, time.Duration) ([]byte, error) {
	text, err := json.Marshal(rig)
	if err != nil {
		return func(context.Context, string, *cove.Spec, time.Duration) ([]byte, error) { return nil, err }
	}
	return Crasher(rigVariable + "=" + string(text))
}

// MountsBelow returns where something is mounted in a directory, in the order in which it was.
func MountsBelow(dir string) []string {
	file, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	defer file.Close()
	var mounts []string
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if fields := strings.Fields(lines.Text()); len(fields) > 4 && strings.HasPrefix(fields[4], dir+"/") {
			mounts = append(mounts, fields[4])
		}
	}
	return mounts
}

// LoopsOf counts the loop devices over files in a directory.
func LoopsOf(dir string) int { return count("/sys/block/loop*/loop/backing_file", dir) }

// ProcessesNaming counts the processes that have a text in their arguments.
func ProcessesNaming(text string) int { return count("/proc/[0-9]*/cmdline", text) }

// count counts the files that have a text in them.
func count(pattern, text string) int {
	n := 0
	paths, _ := filepath.Glob(pattern)
	for _, path := range paths {
		if content, err := os.ReadFile(path); err == nil && strings.Contains(string(content), text) {
			n++
		}
	}
	return n
}

// Present returns those of paths at which there is something.
func Present(paths ...string) []string {
	return slices.DeleteFunc(slices.Clone(paths), func(path string) bool {
		_, err := os.Lstat(path)
		return errors.Is(err, os.ErrNotExist)
	})
}

// EntriesOf counts what is in directories, without gVisor's empty network namespace, which is
// one for all sandboxes.
func EntriesOf(dirs ...string) int {
	n := 0
	for _, dir := range dirs {
		entries, _ := os.ReadDir(dir)
		for _, entry := range entries {
			if entry.Name() != "null-netns" {
				n++
			}
		}
	}
	return n
}
