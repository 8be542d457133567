package server

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/client"
)

func TestCommandOutput(t *testing.T) {
	box := newWorld(t, Options{}).sandbox()
	out, err := box.Command("sh", "-c", "echo $0 $1; echo err >&2", "a b", "c").Output()
	if err != nil || string(out) != "a b c\n" {
		t.Errorf("Output: %q, %v", out, err)
	}
	out, err = box.Command("sh", "-c", "echo out; sleep 0.05; echo err >&2; exit 7").CombinedOutput()
	var exit *client.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 7 || exit.Error() != "exit status 7" || string(out) != "out\nerr\n" {
		t.Errorf("CombinedOutput: %q, %v", out, err)
	}
	_, err = box.Command("sh", "-c", "head -c 200000 /dev/zero | tr '\\0' x >&2; echo last >&2; exit 1").Output()
	if !errors.As(err, &exit) || !bytes.HasSuffix(exit.Stderr, []byte("last\n")) || !bytes.Contains(exit.Stderr, []byte("omitting")) || len(exit.Stderr) > 70<<10 {
		t.Errorf("a long stderr: %v with %d bytes", err, len(exit.Stderr))
	}
	cmd := box.Command("sh", "-c", "kill -KILL $$")
	if err := cmd.Run(); !errors.As(err, &exit) || exit.Signal != "SIGKILL" || cmd.Exit == nil || cmd.Process == nil || cmd.Process.PID == 0 {
		t.Errorf("a signal: %v, %+v", err, cmd.Exit)
	}
}

func TestCommandFields(t *testing.T) {
	box := newWorld(t, Options{}).sandbox()
	cmd := box.Command("sh", "-c", "echo $A $B; pwd; cat")
	cmd.Env = []string{"A=1", "B=1", "B=2=3"}
	cmd.Dir = "/usr"
	cmd.Stdin = strings.NewReader("from stdin")
	out, err := cmd.Output()
	if err != nil || string(out) != "1 2=3\n/usr\nfrom stdin" {
		t.Errorf("got %q, %v", out, err)
	}
	cmd = box.Command("sleep", "60")
	cmd.Timeout = cove.Duration(100 * time.Millisecond)
	var exit *client.ExitError
	if err := cmd.Run(); !errors.As(err, &exit) || !exit.TimedOut || exit.Error() != "timed out" {
		t.Errorf("with a timeout: %v", err)
	}
}

func TestCommandsThatNeverStart(t *testing.T) {
	box := newWorld(t, Options{}).sandbox()
	badEnv := box.Command("true")
	badEnv.Env = []string{"no equals sign"}
	twice := box.Command("true")
	if err := twice.Run(); err != nil {
		t.Fatal(err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for name, test := range map[string]struct {
		cmd  *client.Cmd
		want error
	}{
		"an unknown program":   {box.Command("no-such-program"), cove.Invalid},
		"an empty name":        {box.Command(""), cove.Invalid},
		"a broken environment": {badEnv, cove.Invalid},
		"a second start":       {twice, cove.Invalid},
		"an ended context":     {box.CommandContext(ended, "true"), context.Canceled},
	} {
		if err := test.cmd.Run(); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
	}
	if err := box.Command("true").Wait(); !errors.Is(err, cove.Invalid) {
		t.Errorf("Wait before Start: %v", err)
	}
}

func TestCommandPipes(t *testing.T) {
	box := newWorld(t, Options{}).sandbox()
	cmd := box.Command("sh", "-c", "while read l; do echo \"<$l>\"; done; echo end >&2")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if _, err := cmd.StderrPipe(); !errors.Is(err, cove.Invalid) {
		t.Errorf("StderrPipe with Stderr set: %v", err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	// A conversation: each answer comes before the next question.
	buf := make([]byte, 100)
	for _, line := range []string{"a", "b", "c"} {
		if _, err := io.WriteString(stdin, line+"\n"); err != nil {
			t.Fatal(err)
		}
		n, err := io.ReadFull(stdout, buf[:4])
		if err != nil || string(buf[:n]) != "<"+line+">\n" {
			t.Fatalf("%s is answered by %q, %v", line, buf[:n], err)
		}
	}
	stdin.Close()
	if rest, err := io.ReadAll(stdout); err != nil || len(rest) != 0 {
		t.Errorf("the rest is %q, %v", rest, err)
	}
	if err := cmd.Wait(); err != nil || stderr.String() != "end\n" {
		t.Errorf("at the end: %v, stderr %q", err, stderr.String())
	}
}

func TestCommandContext(t *testing.T) {
	w := newWorld(t, Options{})
	box := w.sandbox()
	for name, prepare := range map[string]func(*client.Cmd){
		"killed by default": func(*client.Cmd) {},
		"terminated by Cancel": func(c *client.Cmd) {
			c.Cancel = func() error { return c.Process.Signal(context.Background(), "TERM") }
		},
	} {
		t.Run(name, func(t *testing.T) {
			mark := filepath.Join(t.TempDir(), "runs")
			ctx, cancel := context.WithCancel(t.Context())
			cmd := box.CommandContext(ctx, "sh", "-c", "touch "+mark+"; exec sleep 300")
			prepare(cmd)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the command runs", func() bool { return exists(mark) })
			cancel()
			var exit *client.ExitError
			if err := cmd.Wait(); !errors.As(err, &exit) || exit.Signal == "" {
				t.Errorf("Wait: %v, want a signal", err)
			}
		})
	}
	t.Run("ends well after Cancel", func(t *testing.T) {
		mark := filepath.Join(t.TempDir(), "runs")
		ctx, cancel := context.WithCancel(t.Context())
		cmd := box.CommandContext(ctx, "sh", "-c", "trap 'exit 0' TERM; touch "+mark+"; while :; do sleep 0.01; done")
		cmd.Cancel = func() error { return cmd.Process.Signal(context.Background(), "TERM") }
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the command runs", func() bool { return exists(mark) })
		cancel()
		if err := cmd.Wait(); !errors.Is(err, context.Canceled) || cmd.Exit == nil || cmd.Exit.Code != 0 {
			t.Errorf("Wait: %v with %+v, want the context's error", err, cmd.Exit)
		}
	})
	t.Run("ignores Cancel for longer than WaitDelay", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cmd := box.CommandContext(ctx, "sleep", "300")
		cmd.Cancel, cmd.WaitDelay = func() error { return nil }, 50*time.Millisecond
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		cancel()
		if err := cmd.Wait(); !errors.Is(err, exec.ErrWaitDelay) {
			t.Errorf("Wait: %v, want exec.ErrWaitDelay", err)
		}
	})
}

func TestACommandWhoseOutputNobodyTakesIsKilled(t *testing.T) {
	box := newWorld(t, Options{}).sandbox()
	cmd := box.Command("yes")
	cmd.Stdout = failingWriter{}
	var exit *client.ExitError
	if err := cmd.Run(); !errors.As(err, &exit) || exit.Signal != "SIGKILL" {
		t.Errorf("got %v, want a kill", err)
	}
}

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, io.ErrShortWrite }

func TestACommandDoesNotWaitForInputThatItDoesNotRead(t *testing.T) {
	box := newWorld(t, Options{}).sandbox()
	r, w := io.Pipe() // a terminal at which nobody types
	defer w.Close()
	cmd := box.Command("echo", "done")
	cmd.Stdin = r
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := cmd.Run(); err != nil || out.String() != "done\n" {
		t.Errorf("got %q, %v", out.String(), err)
	}
	// And one that gets far more than it reads.
	cmd = box.Command("head", "-c", "3")
	cmd.Stdin = io.LimitReader(&pattern{}, 1<<30)
	if out, err := cmd.Output(); err != nil || len(out) != 3 {
		t.Errorf("got %q, %v", out, err)
	}
}

func TestInputThatFails(t *testing.T) {
	box := newWorld(t, Options{}).sandbox()
	broken := errors.New("the disk is on fire")
	cmd := box.Command("cat")
	cmd.Stdin = io.MultiReader(strings.NewReader("begin"), failingReader{broken})
	out, err := cmd.Output()
	if string(out) != "begin" || !errors.Is(err, broken) {
		t.Errorf("got %q, %v", out, err)
	}
}

type failingReader struct{ err error }

func (f failingReader) Read([]byte) (int, error) { return 0, f.err }

func TestMuchInputAndOutput(t *testing.T) {
	box := newWorld(t, Options{}).sandbox()
	const size = 16 << 20
	cmd := box.Command("cat")
	cmd.Stdin = io.LimitReader(&pattern{}, size)
	check := &patternWriter{}
	cmd.Stdout = check
	if err := cmd.Run(); err != nil || check.n != size || check.bad {
		t.Errorf("%d of %d bytes came back, altered: %v; %v", check.n, size, check.bad, err)
	}
}

// patternWriter checks that it gets what pattern gives.
type patternWriter struct {
	next pattern
	buf  []byte
	n    int
	bad  bool
}

func (w *patternWriter) Write(p []byte) (int, error) {
	w.buf = append(w.buf[:0], p...)
	w.next.Read(w.buf)
	w.n += len(p)
	w.bad = w.bad || !bytes.Equal(p, w.buf)
	return len(p), nil
}

func TestARemovedSandboxEndsItsCommands(t *testing.T) {
	box := newWorld(t, Options{}).sandbox()
	cmd := box.Command("sleep", "300")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := box.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Error("the command ended well")
	}
}

func TestCommandWithTerminal(t *testing.T) {
	box := newWorld(t, Options{}).sandbox()
	cmd := box.Command("sh", "-c", "stty size; tty >/dev/null && echo yes; cat; exit 4")
	cmd.TTY = &cove.TerminalSize{Cols: 91, Rows: 17}
	cmd.Stdin = strings.NewReader("typed\n")
	var out bytes.Buffer
	cmd.Stdout = &out
	var exit *client.ExitError
	if err := cmd.Run(); !errors.As(err, &exit) || exit.Code != 4 {
		t.Errorf("it ended with %v", err)
	}
	got := strings.ReplaceAll(out.String(), "\r\n", "\n")
	for _, part := range []string{"17 91\n", "yes\n", "typed\n"} {
		if !strings.Contains(got, part) {
			t.Errorf("it shows %q, without %q", got, part)
		}
	}
}
