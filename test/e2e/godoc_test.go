package e2e

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestExamplesOfTheClient runs what the documentation of package client shows.
func TestExamplesOfTheClient(t *testing.T) {
	binaries(t)
	program := filepath.Join(t.TempDir(), "client.test")
	if output, err := exec.CommandContext(t.Context(), "go", "test", "-c", "-o", program, "../../client").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	eachRuntime(t, func(t *testing.T, runtime string) {
		w := newWorld(t, runtime)
		w.output(t, "ls") // has a daemon begin
		cmd := exec.CommandContext(t.Context(), program, "-test.run", "^Example", "-test.v")
		cmd.Env = append(cmd.Environ(), "COVE_URL="+w.dirs.URL())
		output, err := cmd.CombinedOutput()
		if err != nil || strings.Count(string(output), "--- PASS") < 7 {
			t.Errorf("%v: %s", err, output)
		}
		if left := w.output(t, "ls", "-q"); left != "" {
			t.Errorf("sandboxes: got %s, want none", left)
		}
	})
}
