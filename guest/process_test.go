package guest_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/guest"
	"github.com/covehq/cove/guest/dial"
)

func TestStdin(t *testing.T) {
	c := newClient(t)
	start := func(t *testing.T, line string) *dial.Stream {
		t.Helper()
		s := shell(line)
		s.Stdin = true
		stream, err := c.Start(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		return stream
	}
	t.Run("reaches the command in pieces", func(t *testing.T) {
		stream := start(t, "read a; echo got $a; read b; echo got $b")
		for _, line := range []string{"one\n", "two\n"} {
			if err := c.Write(t.Context(), stream.PID, strings.NewReader(line)); err != nil {
				t.Fatal(err)
			}
		}
		if got := drain(t, stream).stdout; got != "got one\ngot two\n" {
			t.Errorf("got %q", got)
		}
	})
	t.Run("can be large, and ends", func(t *testing.T) {
		const size = 32 << 20
		stream := start(t, "wc -c")
		if err := c.Write(t.Context(), stream.PID, io.LimitReader(zeros{}, size)); err != nil {
			t.Fatal(err)
		}
		if err := c.CloseStdin(t.Context(), stream.PID); err != nil {
			t.Fatal(err)
		}
		if err := c.CloseStdin(t.Context(), stream.PID); err != nil {
			t.Errorf("closing again: %v", err)
		}
		if err := c.Write(t.Context(), stream.PID, strings.NewReader("more")); !errors.Is(err, cove.Conflict) && !errors.Is(err, cove.NotFound) {
			t.Errorf("writing after the end: got %v, want conflict or not found", err)
		}
		if got := strings.TrimSpace(drain(t, stream).stdout); got != fmt.Sprint(size) {
			t.Errorf("got %q bytes, want %d", got, size)
		}
	})
	t.Run("is refused where a command has none", func(t *testing.T) {
		stream, err := c.Start(t.Context(), shell("sleep 300"))
		if err != nil {
			t.Fatal(err)
		}
		defer stream.Close()
		if err := c.Write(t.Context(), stream.PID, strings.NewReader("x")); !errors.Is(err, cove.Conflict) {
			t.Errorf("got %v, want conflict", err)
		}
		_, _ = c.KillTree(t.Context(), stream.PID)
	})
	t.Run("is refused by a process that is not there", func(t *testing.T) {
		if err := c.Write(t.Context(), 1<<30, strings.NewReader("x")); !errors.Is(err, cove.NotFound) {
			t.Errorf("got %v, want not found", err)
		}
		if err := c.CloseStdin(t.Context(), 1<<30); !errors.Is(err, cove.NotFound) {
			t.Errorf("got %v, want not found", err)
		}
	})
	t.Run("that nobody reads ends with the context", func(t *testing.T) {
		stream := start(t, "sleep 300")
		defer stream.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		if err := c.Write(ctx, stream.PID, zeros{}); !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, cove.Timeout) {
			t.Errorf("got %v, want the context's end", err)
		}
		// The next writer is not blocked by the one that left.
		done := make(chan error, 1)
		go func() { done <- c.Write(t.Context(), stream.PID, zeros{}) }()
		_, _ = c.KillTree(t.Context(), stream.PID)
		if err := <-done; err == nil {
			t.Error("writing to a killed process succeeded")
		}
	})
}

// zeros is an endless input.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestTerminal(t *testing.T) {
	for where, c := range map[string]*dial.Client{"in this process": newClient(t), "as a program": boot(t).client(t)} {
		t.Run(where, func(t *testing.T) {
			start := dial.Start{Argv: []string{"/bin/sh"}, TTY: &cove.TerminalSize{Cols: 100, Rows: 40}, Env: map[string]string{"PS1": "$ "}}
			stream, err := c.Start(t.Context(), start)
			if err != nil {
				t.Fatal(err)
			}
			defer stream.Close()
			terminal := &expecter{t: t, stream: stream}
			say := func(line string) {
				if err := c.Write(t.Context(), stream.PID, strings.NewReader(line)); err != nil {
					t.Fatal(err)
				}
			}
			say("tty; stty size; echo term=$TERM\n")
			terminal.expect("/dev/pts/")
			terminal.expect("40 100")
			terminal.expect("term=xterm-256color")
			if err := c.Resize(t.Context(), stream.PID, cove.TerminalSize{Cols: 81, Rows: 25}); err != nil {
				t.Fatal(err)
			}
			say("stty size\n")
			terminal.expect("25 81")
			say("echo contr$((1))olling >/dev/tty\n") // what is typed shows too, and is not this
			terminal.expect("contr1olling")
			say("sleep 300\n")
			terminal.expect("sleep 300")
			eventually(t, "control-C ends the sleep", func() bool {
				say("\x03")
				say("echo in$((1))terrupted\n")
				return terminal.sees("in1terrupted")
			})
			if err := c.CloseStdin(t.Context(), stream.PID); !errors.Is(err, cove.Invalid) {
				t.Errorf("closing a terminal's stdin: got %v, want invalid", err)
			}
			say("exit 5\n")
			if got := drain(t, stream); got.exit.Code != 5 {
				t.Errorf("got exit %+v, want 5", got.exit)
			}
			if err := c.Resize(t.Context(), stream.PID, cove.TerminalSize{Cols: 1, Rows: 1}); !errors.Is(err, cove.NotFound) {
				t.Errorf("resize after the end: got %v, want not found", err)
			}
		})
	}
}

// expecter reads a terminal until it shows something.
type expecter struct {
	t      testing.TB
	stream *dial.Stream
	seen   string
}

func (e *expecter) expect(text string) {
	e.t.Helper()
	for !strings.Contains(e.seen, text) {
		output, err := e.stream.Next()
		if err != nil || output.Exit != nil {
			e.t.Fatalf("got %+v, %v while waiting for %q; seen: %q", output.Exit, err, text, e.seen)
		}
		if output.Stream != cove.PTY {
			e.t.Fatalf("got stream %q of a terminal", output.Stream)
		}
		e.seen += string(output.Data)
	}
	_, e.seen, _ = strings.Cut(e.seen, text)
}

// sees reads one more piece.
func (e *expecter) sees(text string) bool {
	e.t.Helper()
	output, err := e.stream.Next()
	if err != nil {
		e.t.Fatal(err)
	}
	e.seen += string(output.Data)
	return strings.Contains(e.seen, text)
}

func TestResizeWithoutTerminal(t *testing.T) {
	c := newClient(t)
	stream, err := c.Start(t.Context(), shell("sleep 300"))
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	if err := c.Resize(t.Context(), stream.PID, cove.TerminalSize{Cols: 1, Rows: 1}); !errors.Is(err, cove.Invalid) {
		t.Errorf("got %v, want invalid", err)
	}
}

func TestFollow(t *testing.T) {
	c := newClient(t)
	first, err := c.Start(t.Context(), shell("echo one; echo two >&2; read x </dev/zero & sleep 300 & wait"))
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	for seen := 0; seen < 8; {
		output, err := first.Next()
		if err != nil {
			t.Fatal(err)
		}
		seen += len(output.Data)
	}
	zero, two := uint64(0), uint64(2)
	for _, test := range []struct {
		name           string
		from           cove.Offsets
		stdout, stderr string
	}{
		{"from the start", cove.FromStart(), "one\n", "two\n"},
		{"from an offset", cove.Offsets{Stdout: &two, Stderr: &zero}, "e\n", "two\n"},
		{"one stream alone", cove.Offsets{Stdout: &zero}, "one\n", ""},
		{"from now on", cove.Offsets{}, "", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			stream, err := c.Follow(t.Context(), first.PID, test.from, true)
			if err != nil {
				t.Fatal(err)
			}
			got := drain(t, stream)
			if got.stdout != test.stdout || got.stderr != test.stderr || got.pid != first.PID {
				t.Errorf("got %+v, want %q and %q", got, test.stdout, test.stderr)
			}
			if got.exit != (cove.Exit{}) {
				t.Errorf("got exit %+v of a running process", got.exit)
			}
		})
	}
	following, err := c.Follow(t.Context(), first.PID, cove.FromStart(), false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.KillTree(t.Context(), first.PID); err != nil {
		t.Fatal(err)
	}
	if got := drain(t, following); got.stdout != "one\n" || got.exit.Signal != "SIGKILL" {
		t.Errorf("following to the end: got %+v", got)
	}
	if got := drain(t, first); got.exit.Signal != "SIGKILL" {
		t.Errorf("the first stream: got %+v", got)
	}
	for _, noFollow := range []bool{false, true} {
		again, err := c.Follow(t.Context(), first.PID, cove.FromStart(), noFollow)
		if err != nil {
			t.Fatal(err)
		}
		if got := drain(t, again); got.stdout != "one\n" || got.stderr != "two\n" || got.exit.Signal != "SIGKILL" {
			t.Errorf("after the end, noFollow %v: got %+v", noFollow, got)
		}
	}
	if _, err := c.Follow(t.Context(), 1<<30, cove.FromStart(), true); !errors.Is(err, cove.NotFound) {
		t.Errorf("following nobody: got %v, want not found", err)
	}
}

func TestOutputAfterTheEndIsForLaterReaders(t *testing.T) {
	c := newClient(t)
	gate := filepath.Join(t.TempDir(), "gate")
	got := run(t, c, shell(fmt.Sprintf("echo before; (until test -e %s; do sleep 0.01; done; echo after) &", gate)))
	if got.stdout != "before\n" || got.exit.Code != 0 {
		t.Fatalf("got %+v", got)
	}
	if err := os.WriteFile(gate, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	eventually(t, "what came after the end is retained", func() bool {
		stream, err := c.Follow(t.Context(), got.pid, cove.FromStart(), true)
		if err != nil {
			t.Fatal(err)
		}
		return drain(t, stream).stdout == "before\nafter\n"
	})
}

func TestReaderThatLeavesAndComesBack(t *testing.T) {
	const size = 8 << 20
	c := newClient(t)
	stream, err := c.Start(t.Context(), dial.Start{Argv: []string{"sh", "-c", fmt.Sprintf("yes | head -c %d", size)}})
	if err != nil {
		t.Fatal(err)
	}
	want := bytes.Repeat([]byte("y\n"), size/2)
	var got []byte
	for len(got) < size {
		output, err := stream.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, output.Data...)
		if output.Exit == nil && len(got) < size { // leave after every piece
			_ = stream.Close()
			at, none := uint64(len(got)), uint64(0)
			if stream, err = c.Follow(t.Context(), stream.PID, cove.Offsets{Stdout: &at, Stderr: &none}, false); err != nil {
				t.Fatal(err)
			}
		}
	}
	_ = stream.Close()
	if !bytes.Equal(got, want) {
		t.Errorf("got %d bytes, want %d, each in its place", len(got), len(want))
	}
}

func TestProcessThatNobodyReadsEnds(t *testing.T) {
	d := newAgent(t, guest.Options{Memory: 1 << 20})
	c := initialized(t, d)
	stream, err := c.Start(t.Context(), dial.Start{Argv: []string{"head", "-c", "100000000", "/dev/zero"}})
	if err != nil {
		t.Fatal(err)
	}
	_ = stream.Close()
	eventually(t, "it has ended", func() bool {
		list, err := c.List(t.Context())
		return err == nil && len(list) == 1 && !list[0].Running
	})
	stream, err = c.Follow(t.Context(), stream.PID, cove.FromStart(), true)
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	output, err := stream.Next()
	if err != nil || output.Offset == 0 {
		t.Errorf("got offset %d, %v; want a jump", output.Offset, err)
	}
}

func TestList(t *testing.T) {
	c := newClient(t)
	begun := time.Now()
	start := dial.Start{Argv: []string{"/bin/sh", "-c", "echo four; sleep 300"}, Tag: "mine", Cwd: "/usr", Env: map[string]string{"SECRET": "x"}}
	stream, err := c.Start(t.Context(), start)
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	if _, err := stream.Next(); err != nil {
		t.Fatal(err)
	}
	list, err := c.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(list) != 1 {
		t.Fatalf("got %+v, want one", list)
	}
	p := list[0]
	if p.PID != stream.PID || strings.Join(p.Command, " ") != "/bin/sh -c echo four; sleep 300" || p.Cwd != "/usr" || p.Tag != "mine" ||
		p.User == "" || p.TTY || !p.Running || p.Exit != nil || p.StdoutBytes != 5 || p.StderrBytes != 0 || p.StartedAt.Before(begun.Add(-time.Second)) {
		t.Errorf("got %+v", p)
	}
	if _, err := c.KillTree(t.Context(), stream.PID); err != nil {
		t.Fatal(err)
	}
	drain(t, stream)
	list, err = c.List(t.Context())
	if err != nil || len(list) != 1 || list[0].Running || list[0].Exit == nil || list[0].Exit.Signal != "SIGKILL" {
		t.Errorf("after the end: got %+v, %v", list, err)
	}
}

func TestUsers(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can become another user")
	}
	dir := t.TempDir()
	passwd, group := filepath.Join(dir, "passwd"), filepath.Join(dir, "group")
	err := errors.Join(
		os.WriteFile(passwd, []byte("root:x:0:0:root:/root:/bin/bash\nuser:x:1000:1000::/home/user:/bin/zsh\nnohome:x:1001:1001:::\n# comment\nbroken\n"), 0o644),
		os.WriteFile(group, []byte("root:x:0:\nuser:x:1000:\naudio:x:29:user,other\nvideo:x:44:other,user\n"), 0o644),
	)
	if err != nil {
		t.Fatal(err)
	}
	c := dial.New(newAgent(t, guest.Options{Passwd: passwd, Group: group}))
	if err := c.Init(t.Context(), dial.Init{User: "user", Workdir: "/"}); err != nil {
		t.Fatal(err)
	}
	const who = `echo $(id -u):$(id -g) $(id -G) $HOME $USER $LOGNAME $SHELL`
	for _, test := range []struct{ name, user, want string }{
		{"the default", "", "1000:1000 1000 29 44 /home/user user user /bin/zsh"},
		{"by name", "root", "0:0 0 /root root root /bin/bash"},
		{"by number", "1000", "1000:1000 1000 29 44 /home/user user user /bin/zsh"},
		{"by a number without an entry", "4242", "4242:4242 4242 / 4242 4242 /bin/sh"},
		{"by both numbers", "1000:7", "1000:7 7 /home/user user user /bin/zsh"},
		{"by name and group", "user:audio", "1000:29 29 /home/user user user /bin/zsh"},
		{"with empty fields", "nohome", "1001:1001 1001 / nohome nohome /bin/sh"},
	} {
		t.Run(test.name, func(t *testing.T) {
			start := shell(who)
			start.User = test.user
			if got := strings.TrimSpace(run(t, c, start).stdout); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
	t.Run("have no capabilities unless root", func(t *testing.T) {
		got := run(t, c, shell("grep -E 'Cap(Inh|Prm|Eff|Amb)' /proc/self/status | tr -d '\\t\\n'")).stdout
		if want := "CapInh:0000000000000000CapPrm:0000000000000000CapEff:0000000000000000CapAmb:0000000000000000"; got != want {
			t.Errorf("got %s", got)
		}
	})
	t.Run("own their terminal", func(t *testing.T) {
		start := shell("stat -c %u $(tty); echo by name >$(tty)")
		start.TTY = &cove.TerminalSize{Cols: 80, Rows: 24}
		if got := run(t, c, start).tty; got != "1000\r\nby name\r\n" {
			t.Errorf("got %q", got)
		}
	})
	t.Run("that are added later are found", func(t *testing.T) {
		if err := os.WriteFile(passwd, []byte("late:x:1234:1234::/:/bin/sh\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		start := shell("id -u")
		start.User = "late"
		if got := run(t, c, start).stdout; got != "1234\n" {
			t.Errorf("got %q", got)
		}
	})
}
