package e2e

import (
	"bufio"
	"io"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/covehq/cove"
)

// talker is a run whose command tells what it sees, line by line.
type talker struct {
	cmd   *exec.Cmd
	lines *bufio.Reader
	stdin io.Closer
}

// talk runs python in a sandbox and returns once it has printed "ready".
func (w *world) talk(t *testing.T, verb []string, program string) *talker {
	t.Helper()
	cmd := w.command(t, append(verb, "--", "python3", "-uc", program)...)
	// A group of its own, so that the test can signal cove alone.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
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
	talker := &talker{cmd: cmd, lines: bufio.NewReader(stdout), stdin: stdin}
	talker.expect(t, "ready")
	return talker
}

func (r *talker) expect(t *testing.T, want string) {
	t.Helper()
	if got, err := r.lines.ReadString('\n'); strings.TrimSpace(got) != want {
		t.Fatalf("heard %q, %v, want %q", got, err, want)
	}
}

func (r *talker) signal(t *testing.T, signal syscall.Signal) {
	t.Helper()
	if err := r.cmd.Process.Signal(signal); err != nil {
		t.Fatal(err)
	}
}

func (r *talker) wait(t *testing.T, want int) {
	t.Helper()
	if got := exitCode(r.cmd.Wait()); got != want {
		t.Errorf("cove exited with %d, want %d", got, want)
	}
}

// obedient says which signal it got and goes on, until it gets SIGTERM.
const obedient = `
import signal, sys
def hear(number, _):
    print(signal.Signals(number).name)
    if number == signal.SIGTERM:
        sys.exit(9)
for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGQUIT):
    signal.signal(s, hear)
print("ready")
while True:
    signal.pause()
`

func TestSignals(t *testing.T) {
	eachRuntime(t, func(t *testing.T, runtime string) {
		w := newWorld(t, runtime)
		t.Run("reach the command, whose answer counts", func(t *testing.T) {
			r := w.talk(t, []string{"run"}, obedient)
			for _, s := range []syscall.Signal{syscall.SIGUSR1, syscall.SIGQUIT, syscall.SIGINT} {
				r.signal(t, s)
				r.expect(t, map[syscall.Signal]string{syscall.SIGUSR1: "SIGUSR1", syscall.SIGQUIT: "SIGQUIT", syscall.SIGINT: "SIGINT"}[s])
			}
			r.signal(t, syscall.SIGTERM)
			r.expect(t, "SIGTERM")
			r.wait(t, 9)
		})
		t.Run("interrupt a command that does not mind them", func(t *testing.T) {
			r := w.talk(t, []string{"run"}, "import time; print('ready'); time.sleep(600)")
			r.signal(t, syscall.SIGINT)
			if got := exitCode(r.cmd.Wait()); got != 1 && got != 130 { // Python's choice
				t.Errorf("cove exited with %d, want 130", got)
			}
		})
		t.Run("kill a stubborn command the second time", func(t *testing.T) {
			r := w.talk(t, []string{"run"}, obedient)
			r.signal(t, syscall.SIGINT)
			r.expect(t, "SIGINT")
			r.signal(t, syscall.SIGINT)
			r.wait(t, 137)
		})
		t.Run("of a terminal that hangs up end it", func(t *testing.T) {
			r := w.talk(t, []string{"run"}, "import time; print('ready'); time.sleep(600)")
			r.signal(t, syscall.SIGHUP)
			r.wait(t, 129)
		})
		t.Run("that were to be ignored are", func(t *testing.T) {
			// nohup ignores SIGHUP on behalf of what it runs.
			got := w.shell(t, `nohup cove run -- sh -c 'echo ready; cat; echo done' < <(sleep 0.2; kill -HUP $(pgrep -P $$ -x cove); sleep 0.2)`)
			if got != "ready\ndone\n" {
				t.Errorf("got %q", got)
			}
		})
		if left := w.output(t, "ls", "-q"); left != "" {
			t.Errorf("sandboxes are left: %s", left)
		}
	})
}

// TestAKilledClientLeavesNothing kills the program itself: the command dies at once, and
// the sandbox of a run soon after, since nobody renews its lease.
func TestAKilledClientLeavesNothing(t *testing.T) {
	eachRuntime(t, func(t *testing.T, runtime string) {
		w := newWorld(t, runtime)
		const stubborn = "import os, time; print('ready') if os.fork() else os.setsid(); time.sleep(600)"
		w.output(t, "create", "--name", "box")
		r := w.talk(t, []string{"exec", "box"}, stubborn)
		r.signal(t, syscall.SIGKILL)
		r.wait(t, -1)
		eventually(t, soon, "the command and what it started are dead", func() bool {
			return !strings.Contains(w.output(t, "exec", "box", "--", "sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"), "time.sleep(600)")
		})
		r = w.talk(t, []string{"run", "--name", "orphan"}, stubborn)
		r.signal(t, syscall.SIGKILL)
		r.wait(t, -1)
		const lease = 30 * time.Second
		eventually(t, lease+soon, "the sandbox is gone", func() bool {
			return !strings.Contains(w.output(t, "ls", "--state", string(cove.StateRunning)), "orphan")
		})
	})
}

// TestAKilledDaemonLosesNothing kills the daemon while sandboxes are being made: those
// that were acknowledged work afterwards, and of the others nothing is left.
func TestAKilledDaemonLosesNothing(t *testing.T) {
	eachRuntime(t, func(t *testing.T, runtime string) {
		w := newWorld(t, runtime)
		for delay := 20 * time.Millisecond; delay < 300*time.Millisecond; delay *= 3 {
			w.output(t, "ls")
			created := make(chan string)
			create := w.command(t, "create")
			go func() {
				out, err := create.Output()
				if err != nil {
					out = nil
				}
				created <- strings.TrimSpace(string(out))
			}()
			time.Sleep(delay) // any moment is as good as another
			w.stop(t, syscall.SIGKILL)
			id := <-created
			if got := w.output(t, "ls", "-q", "--state", string(cove.StateRunning)); got != id {
				t.Errorf("after %v: %q runs, want %q, which was acknowledged", delay, got, id)
			}
			if got := w.output(t, "ls", "-q", "--state", string(cove.StateCreating)); got != "" {
				t.Errorf("after %v: %q is half made", delay, got)
			}
			if id != "" {
				if got := w.output(t, "exec", id, "--", "echo", "works"); got != "works" {
					t.Errorf("after %v: got %q", delay, got)
				}
				w.output(t, "rm", id)
			}
		}
		// The end of the test looks for leftovers.
	})
}
