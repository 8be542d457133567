package guest_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/guest/dial"
)

// naps makes the argument of each sleep in these tests one of a kind.
var naps atomic.Int64

// nap returns a sleep that can be told from all others on the machine.
func nap() string { return fmt.Sprintf("sleep 86400.%d%d", os.Getpid(), naps.Add(1)) }

// alive returns how many processes run a command line that contains text.
func alive(text string) int {
	needle := []byte(strings.ReplaceAll(text, " ", "\x00"))
	count := 0
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range files {
		if line, err := os.ReadFile(file); err == nil && bytes.HasPrefix(line, needle) {
			count++
		}
	}
	return count
}

// shapes are the ways in which a command leaves something behind. %[1]s is what stays.
var shapes = []struct {
	name, line string
	count      int
	exits      bool // the command itself ends at once
	needsInit  bool // it is found only by an agent that inherits orphans
}{
	{name: "a plain child", line: "exec %[1]s", count: 1},
	{name: "a background child that is waited for", line: "%[1]s & wait", count: 1},
	{name: "nohup", line: "nohup %[1]s >/dev/null 2>&1 & %[1]s", count: 2},
	{name: "a session of its own", line: "setsid %[1]s & wait", count: 1},
	{name: "a double fork", line: "(setsid sh -c '%[1]s & exit' &) ; wait; %[1]s", count: 2},
	{name: "a daemon with closed stdio", line: "setsid sh -c 'exec 0<&- 1>&- 2>&-; %[1]s' & %[1]s", count: 2},
	{name: "nohup, and the command has ended", line: "nohup %[1]s >/dev/null 2>&1 & exit 0", count: 1, exits: true},
	{name: "a daemon, and the command has ended", line: "(setsid sh -c 'exec 0<&- 1>&- 2>&-; %[1]s & exit' &)", count: 1, exits: true},
	{name: "a double fork without environment, and the command has ended", line: "(env -i setsid sh -c '%[1]s & exit' &) ; sleep 0.1", count: 1, exits: true, needsInit: true},
	{name: "descendants in several sessions", line: "setsid sh -c 'setsid %[1]s & env -i setsid %[1]s & wait' & wait", count: 2},
	{name: "a child without environment", line: "env -i sh -c 'PATH=/bin:/usr/bin; %[1]s & wait' & wait", count: 1},
}

func TestKillTree(t *testing.T) {
	agents := map[string]*dial.Client{"in this process": newClient(t), "as a program": boot(t).client(t)}
	for where, c := range agents {
		for _, shape := range shapes {
			if shape.needsInit && where == "in this process" {
				continue // an agent that inherits no orphans can't tell whose they are
			}
			t.Run(where+"/"+shape.name, func(t *testing.T) {
				sleep := nap()
				stream, err := c.Start(t.Context(), shell(fmt.Sprintf(shape.line, sleep)))
				if err != nil {
					t.Fatal(err)
				}
				defer stream.Close()
				eventually(t, "all of the tree runs", func() bool { return alive(sleep) == shape.count })
				if shape.exits {
					drain(t, stream)
				}
				killed, err := c.KillTree(t.Context(), stream.PID)
				if err != nil {
					t.Fatal(err)
				}
				if left := alive(sleep); left != 0 {
					t.Errorf("%d processes are left", left)
				}
				if killed < shape.count {
					t.Errorf("got %d killed, want at least %d", killed, shape.count)
				}
				if again, err := c.KillTree(t.Context(), stream.PID); err != nil || again != 0 {
					t.Errorf("killing again: got %d, %v; want 0", again, err)
				}
			})
		}
	}
}

func TestTimeoutKillsTheTree(t *testing.T) {
	c := boot(t).client(t)
	for _, shape := range shapes {
		if shape.exits {
			continue // a command that has ended by itself has no time limit any more
		}
		t.Run(shape.name, func(t *testing.T) {
			sleep := nap()
			start := shell(fmt.Sprintf("echo so far; "+shape.line, sleep))
			start.Timeout = 400 * time.Millisecond
			got := run(t, c, start)
			if !got.exit.TimedOut || got.exit.Code != -1 || got.exit.Signal != "SIGKILL" {
				t.Errorf("got exit %+v, want a time-out by SIGKILL", got.exit)
			}
			if got.stdout != "so far\n" {
				t.Errorf("got output %q, want what was written so far", got.stdout)
			}
			if left := alive(sleep); left != 0 {
				t.Errorf("%d processes are left", left)
			}
		})
	}
}

func TestDisconnect(t *testing.T) {
	c := boot(t).client(t)
	for _, test := range []struct {
		name  string
		kill  bool
		leave func(*dial.Stream, context.CancelFunc)
	}{
		{"kills the tree when asked to, by closing", true, func(s *dial.Stream, _ context.CancelFunc) { _ = s.Close() }},
		{"kills the tree when asked to, by the context", true, func(_ *dial.Stream, cancel context.CancelFunc) { cancel() }},
		{"leaves the process alone otherwise", false, func(s *dial.Stream, _ context.CancelFunc) { _ = s.Close() }},
	} {
		t.Run(test.name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			sleep := nap()
			start := shell(fmt.Sprintf("setsid %[1]s & %[1]s & wait", sleep))
			start.KillOnDisconnect = test.kill
			stream, err := c.Start(ctx, start)
			if err != nil {
				t.Fatal(err)
			}
			eventually(t, "all of the tree runs", func() bool { return alive(sleep) == 2 })
			test.leave(stream, cancel)
			if test.kill {
				eventually(t, "the tree is dead", func() bool { return alive(sleep) == 0 })
				return
			}
			list, err := c.List(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range list {
				if p.PID == stream.PID && !p.Running {
					t.Errorf("got %+v, want it to run", p)
				}
			}
			if _, err := c.KillTree(t.Context(), stream.PID); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestKillSparesOthers(t *testing.T) {
	c := boot(t).client(t)
	mine, theirs := nap(), nap()
	other, err := c.Start(t.Context(), shell(fmt.Sprintf("setsid %[1]s & %[1]s", theirs)))
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	victim, err := c.Start(t.Context(), shell(fmt.Sprintf("setsid %[1]s & %[1]s", mine)))
	if err != nil {
		t.Fatal(err)
	}
	defer victim.Close()
	eventually(t, "both run", func() bool { return alive(mine) == 2 && alive(theirs) == 2 })
	if err := c.Signal(t.Context(), victim.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if mine, theirs := alive(mine), alive(theirs); mine != 0 || theirs != 2 {
		t.Errorf("got %d of the killed and %d of the others, want 0 and 2", mine, theirs)
	}
	if got := drain(t, victim).exit; got.Signal != "SIGKILL" || got.Code != -1 || got.TimedOut {
		t.Errorf("got exit %+v, want SIGKILL without a time-out", got)
	}
	if _, err := c.KillTree(t.Context(), other.PID); err != nil {
		t.Error(err)
	}
}

func TestForkBomb(t *testing.T) {
	c := boot(t).client(t)
	name := "bomb" + strconv.Itoa(os.Getpid())
	script := filepath.Join(t.TempDir(), name)
	// Each process starts another and ends, so that there is always one that a look missed.
	body := "#!/bin/sh\n: ${left:=4000}\nleft=$((left - 1)); export left\ntest $left -gt 0 || exit 0\nsetsid " + script + " &\nsleep 0.01\n"
	if err := os.WriteFile(script, []byte(body), 0o755); err != nil {
		t.Fatal(err)
	}
	stream, err := c.Start(t.Context(), dial.Start{Argv: []string{script}, Timeout: 500 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	drain(t, stream)
	if _, err := c.KillTree(t.Context(), stream.PID); err != nil {
		t.Error(err)
	}
	if left := alive("/bin/sh " + script); left != 0 {
		t.Errorf("%d processes are left", left)
	}
}

func TestSignals(t *testing.T) {
	c := newClient(t)
	start := shell(`trap 'echo got it; exit 3' TERM; echo ready; while :; do sleep 0.01; done`)
	stream, err := c.Start(t.Context(), start)
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	if _, err := stream.Next(); err != nil { // ready
		t.Fatal(err)
	}
	if err := c.Signal(t.Context(), stream.PID, 99); cove.CodeOf(err) != cove.Invalid {
		t.Errorf("signal 99: got %v, want invalid", err)
	}
	if err := c.Signal(t.Context(), stream.PID, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	got := drain(t, stream)
	if got.stdout != "got it\n" || got.exit.Code != 3 {
		t.Errorf("got %q and exit %+v, want the trap's", got.stdout, got.exit)
	}
	if err := c.Signal(t.Context(), stream.PID, syscall.SIGTERM); cove.CodeOf(err) != cove.NotFound {
		t.Errorf("signal after the end: got %v, want not found", err)
	}
	if err := c.Signal(t.Context(), 1<<30, syscall.SIGTERM); cove.CodeOf(err) != cove.NotFound {
		t.Errorf("signal to nobody: got %v, want not found", err)
	}
}
