package process

import (
	"errors"
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"
)

// child starts a process that lasts, and holds it.
func child(t *testing.T) *Process {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sleep", "600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	p, err := Open(cmd.Process.Pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

func TestAWaitEndsWithTheProcessOrWithItsHolder(t *testing.T) {
	for name, test := range map[string]struct {
		end  func(*Process) error
		want error
	}{
		"the process is killed": {func(p *Process) error { p.Kill(); return nil }, nil},
		"it is let go":          {(*Process).Close, os.ErrClosed},
	} {
		t.Run(name, func(t *testing.T) {
			p := child(t)
			began, waited := make(chan struct{}), make(chan error, 1)
			go func() {
				close(began)
				waited <- p.Wait()
			}()
			<-began
			if err := test.end(p); err != nil {
				t.Fatal(err)
			}
			if err := <-waited; !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
			if err := p.Wait(); !errors.Is(err, test.want) {
				t.Errorf("once more: got %v, want %v", err, test.want)
			}
		})
	}
}

func TestAProcessIsTheOneThatBeganThen(t *testing.T) {
	p := child(t)
	same, err := Open(p.PID, p.Started)
	if err != nil {
		t.Fatal(err)
	}
	defer same.Close()
	if _, err := Open(p.PID, p.Started+1); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("of another time: got %v, want that it is done", err)
	}
	p.Kill()
	if err := p.Wait(); err != nil {
		t.Fatal(err)
	}
	if p.Alive() {
		t.Error("it is alive after its end")
	}
	if _, err := Open(p.PID, p.Started); err == nil {
		t.Error("a dead process was opened")
	}
	if status, known := p.Status(); !known || status.Signal() != unix.SIGKILL {
		t.Errorf("status: got %v, %v; want the signal of a child", status, known)
	}
}
