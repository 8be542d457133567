package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
)

// terminal is a person's: a cove runs in it.
type terminal struct {
	cmd     *exec.Cmd
	control *os.File // the side on which somebody types and looks
	tty     *os.File // the side that the program has

	mu     sync.Mutex
	screen bytes.Buffer // everything ever shown
	done   chan struct{}
}

// terminal runs a cove in a terminal of 80 by 24.
func (w *world) terminal(t *testing.T, args ...string) *terminal {
	t.Helper()
	control, tty, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	if err := pty.Setsize(control, &pty.Winsize{Cols: 80, Rows: 24}); err != nil {
		t.Fatal(err)
	}
	cmd := w.command(t, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	term := &terminal{cmd: cmd, control: control, tty: tty, done: make(chan struct{})}
	go term.watch()
	t.Cleanup(func() {
		if cmd.ProcessState == nil { // the test failed before its end
			_ = cmd.Process.Signal(syscall.SIGTERM)
			_ = cmd.Wait()
		}
		tty.Close() // the last one: then the reader ends
		<-term.done
		control.Close()
	})
	return term
}

func (x *terminal) watch() {
	defer close(x.done)
	buf := make([]byte, 4096)
	for {
		n, err := x.control.Read(buf)
		x.mu.Lock()
		x.screen.Write(buf[:n])
		x.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func (x *terminal) shown() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.screen.String()
}

func (x *terminal) expect(t *testing.T, want string) {
	t.Helper()
	eventually(t, soon, "the screen shows "+want, func() bool { return strings.Contains(x.shown(), want) })
}

func (x *terminal) write(t *testing.T, keys string) {
	t.Helper()
	if _, err := x.control.WriteString(keys); err != nil {
		t.Fatal(err)
	}
}

func (x *terminal) raw(t *testing.T) bool {
	t.Helper()
	state, err := unix.IoctlGetTermios(int(x.tty.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return state.Lflag&(unix.ICANON|unix.ECHO) == 0
}

func (x *terminal) wait(t *testing.T, want int) {
	t.Helper()
	if got := exitCode(x.cmd.Wait()); got != want {
		t.Errorf("cove exited with %d, want %d; the screen:\n%s", got, want, x.shown())
	}
	if x.raw(t) {
		t.Error("the terminal is left raw")
	}
}

func TestTerminals(t *testing.T) {
	eachRuntime(t, func(t *testing.T, runtime string) {
		w := newWorld(t, runtime)
		t.Run("an interactive shell", func(t *testing.T) { usesShell(t, w) })
		t.Run("Ctrl-C in an interactive shell is the shell's", func(t *testing.T) { interruptsInside(t, w) })
		t.Run("Ctrl-C without a terminal inside interrupts the command", func(t *testing.T) { interruptsOutside(t, w) })
		t.Run("a terminal is given back also after SIGTERM", func(t *testing.T) { restores(t, w) })
		t.Run("without -i the terminal is not read", func(t *testing.T) { leavesInput(t, w) })
		t.Run("logs do not obey what was logged", func(t *testing.T) { filtersLogs(t, w) })
		t.Run("the terminal inside is not this one", func(t *testing.T) { injectsNothing(t, w) })
		w.output(t, "rm", "--all")
	})
}

func usesShell(t *testing.T, w *world) {
	x := w.terminal(t, "run", "-it", "--", "sh")
	x.write(t, "stty size; tty; test -t 0 && test -t 1 && test -t 2 && echo all-three\n")
	x.expect(t, "24 80")
	x.expect(t, "/dev/pts/")
	x.expect(t, "all-three")
	if !x.raw(t) {
		t.Error("the terminal outside is not raw")
	}
	if err := pty.Setsize(x.control, &pty.Winsize{Cols: 132, Rows: 43}); err != nil {
		t.Fatal(err)
	}
	eventually(t, soon, "the new size arrives", func() bool {
		x.write(t, "stty size\n")
		return strings.Contains(x.shown(), "43 132")
	})
	x.write(t, "exit 7\n")
	x.wait(t, 7)
}

func interruptsInside(t *testing.T, w *world) {
	x := w.terminal(t, "run", "-it", "--", "sh")
	x.write(t, "echo be''gun; sleep 600\n")
	x.expect(t, "begun")
	eventually(t, soon, "the shell goes on", func() bool {
		// Not once: what comes between two commands of a line interrupts neither.
		x.write(t, "\x03echo still-''here\n")
		return strings.Contains(x.shown(), "still-here")
	})
	x.write(t, "exit 8\n")
	x.wait(t, 8)
}

func interruptsOutside(t *testing.T, w *world) {
	x := w.terminal(t, "run", "--", "sh", "-c", "echo begun; exec sleep 600")
	x.expect(t, "begun")
	x.write(t, "\x03")
	x.wait(t, 130)
}

func restores(t *testing.T, w *world) {
	x := w.terminal(t, "run", "-t", "--", "sh", "-c", "echo begun; exec sleep 600")
	x.expect(t, "begun")
	if err := x.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	x.wait(t, 143)
}

func leavesInput(t *testing.T, w *world) {
	x := w.terminal(t, "run", "--", "wc", "-c")
	x.wait(t, 0)
	x.expect(t, "0")
}

func filtersLogs(t *testing.T, w *world) {
	id := w.output(t, "create")
	pid := w.output(t, "exec", "-d", id, "--", "printf", `plain \033[31mred\033[0m \033]52;c;ZXZpbA==\007end\n`)
	eventually(t, soon, "the log is there", func() bool { return strings.Contains(w.output(t, "logs", id, pid), "end") })
	if raw := w.output(t, "logs", id, pid); !strings.Contains(raw, "\x1b[31m") {
		t.Errorf("a pipe gets %q, want every byte", raw)
	}
	x := w.terminal(t, "logs", id, pid)
	x.wait(t, 0)
	x.expect(t, "plain red ")
	if strings.ContainsAny(x.shown(), "\x1b\x07") {
		t.Errorf("the terminal was sent %q", x.shown())
	}
}

// injectsNothing types into the command's own terminal, as an attacker would who hopes
// that it is the operator's (CVE-2017-5226).
func injectsNothing(t *testing.T, w *world) {
	const inject = `
import fcntl, termios
for c in b"echo injected\n":
    try:
        fcntl.ioctl(0, termios.TIOCSTI, bytes([c]))
    except OSError as e:
        print("refused"); break
print("do" + "ne")
`
	x := w.terminal(t, "run", "-it", "--", "python3", "-c", inject)
	x.expect(t, "done")
	x.wait(t, 0)
	// What was typed into this terminal would be waiting here now.
	if n, err := unix.IoctlGetInt(int(x.tty.Fd()), unix.TIOCINQ); n != 0 || err != nil {
		t.Errorf("%d bytes wait in the terminal outside, %v", n, err)
	}
}
