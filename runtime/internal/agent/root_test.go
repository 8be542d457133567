package agent

import (
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/covehq/cove/runtime/internal/process"
)

// waitVariable makes this program a process that does nothing until its input ends.
const waitVariable = "COVE_TEST_WAIT"

// TestMain is also that process.
func TestMain(m *testing.M) {
	if os.Getenv(waitVariable) != "" {
		_, _ = os.Stdout.Write([]byte{1})
		_, _ = os.Stdin.Read(make([]byte, 1))
		return
	}
	os.Exit(m.Run())
}

// inRoot starts a process with a root directory of its own, and holds it.
func inRoot(t *testing.T, root string) *process.Process {
	t.Helper()
	program, err := os.ReadFile("/proc/self/exe")
	must(t, err)
	must(t, os.WriteFile(root+"/program", program, 0o700))
	cmd := exec.CommandContext(t.Context(), "/program")
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root}
	cmd.Env = []string{waitVariable + "=1"}
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
