package agent

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/covehq/cove/runtime/internal/process"
)

// rootVariable makes this program a process with that root directory, which does nothing
// until its input ends.
const rootVariable = "COVE_TEST_ROOT"

// TestMain is also that process.
func TestMain(m *testing.M) {
	if root := os.Getenv(rootVariable); root != "" {
		if err := syscall.Chroot(root); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		_, _ = os.Stdout.Write([]byte{1})
		_, _ = os.Stdin.Read(make([]byte, 1))
		return
	}
	os.Exit(m.Run())
}

// inRoot starts a process with a root directory of its own, and holds it.
func inRoot(t *testing.T, root string) *process.Process {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
	cmd.Env = append(os.Environ(), rootVariable+"="+root)
	stdin, err := cmd.StdinPipe()
	must(t, err)
	stdout, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() {
		stdin.Close()
		_ = cmd.Wait()
	})
	if _, err := stdout.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	first, err := process.Open(cmd.Process.Pid, 0)
	must(t, err)
	t.Cleanup(func() { first.Close() })
	return first
}
