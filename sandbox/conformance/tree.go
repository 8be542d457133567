package conformance

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/covehq/cove/guest/dial"
)

// treeBound is how long after the end of a command its last descendant may live.
const treeBound = time.Second

// shape is a way in which a command leaves processes behind. Each script has MARK where
// a process takes an argument that no other has; the last one keeps the command alive.
type shape struct {
	name      string
	clause    string
	script    string
	processes int // how many carry the mark
}

var shapes = []shape{
	{"child", "a plain child", "sleep MARK; true", 1},
	{"wait", "a background child that is waited for", "sleep MARK & wait", 1},
	{"nohup", "a child that ignores hang-ups", "nohup sleep MARK >/dev/null 2>&1 & sleep MARK; true", 2},
	{"setsid", "a child in a session of its own", "setsid sleep MARK & sleep MARK; true", 2},
	{"double-fork", "a grandchild whose parent has left", "( ( sleep MARK & ) & ); sleep MARK; true", 2},
	{"daemon", "a daemon with closed streams in a session of its own", "( setsid sh -c 'sleep MARK & sleep MARK; true' <&- >&- 2>&- & ); sleep MARK; true", 3},
}

// tree is a command of some shape that runs.
type tree struct {
	box    *box
	stream *dial.Stream
	mark   string
	shape  shape
}

// grow starts a command of a shape. It returns when the agent has started the command;
// grown says when the rest of it is there.
func (x *box) grow(ctx context.Context, s shape, start dial.Start) (*tree, error) {
	mark := fmt.Sprint(100_000_000 + rand.IntN(900_000_000)) // seconds, for sleep
	start.Argv = []string{"/bin/sh", "-c", strings.ReplaceAll(s.script, "MARK", mark)}
	stream, err := x.guest.Start(ctx, start)
	if err != nil {
		return nil, fmt.Errorf("start %q: %w", start.Argv, err)
	}
	return &tree{box: x, stream: stream, mark: mark, shape: s}, nil
}

// count returns how many processes of the tree live. What looks for them does not carry the
// mark, and neither does a zombie. The shells of the tree carry it in their script.
func (t *tree) count(ctx context.Context) (sleeping, all int, err error) {
	lines, err := t.box.print(ctx, "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' '\\n' || true")
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(lines) {
		if strings.TrimSpace(line) == t.mark {
			sleeping++
		}
		if strings.Contains(line, t.mark) {
			all++
		}
	}
	return sleeping, all, nil
}

// grown returns when every process of the tree is there.
func (t *tree) grown(ctx context.Context) error {
	return eventually(ctx, 10*time.Second, func() error {
		sleeping, _, err := t.count(ctx)
		if err != nil {
			return err
		}
		return equal("processes of the tree", sleeping, t.shape.processes)
	})
}

// gone is the error of a tree of which something lives.
func (t *tree) gone(ctx context.Context) error {
	return eventually(ctx, treeBound, func() error {
		_, all, err := t.count(ctx)
		if err != nil {
			return err
		}
		return equal("processes of the tree that live", all, 0)
	})
}

// fell clears a tree whose check has failed, so that it is nobody else's trouble.
func (t *tree) fell(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	_, _ = t.box.guest.KillTree(ctx, t.stream.PID)
	t.stream.Close()
}

func cancelChecks() []check {
	return []check{
		{"disconnect-kills", "Closing the stream of a command that is tied to it kills its whole tree within 1 s.", Needs{}, func(ctx context.Context, b *bench) error {
			return b.cancelled(ctx, func(t *tree, _ context.CancelFunc) error { return t.stream.Close() })
		}},
		{"context-kills", "The end of the context of a command that is tied to its stream kills its whole tree within 1 s.", Needs{}, func(ctx context.Context, b *bench) error {
			return b.cancelled(ctx, func(_ *tree, cancel context.CancelFunc) error { cancel(); return nil })
		}},
		{"disconnect-keeps", "A command that is not tied to its stream goes on without it.", Needs{}, disconnectKeeps},
		{"kill-tree", "Killing a command kills everything that it started, and returns when none of it is left.", Needs{}, killTree},
	}
}

// cancelled grows a tree of the worst shape, tied to its stream, and ends that.
func (b *bench) cancelled(ctx context.Context, end func(*tree, context.CancelFunc) error) error {
	x, err := b.shared(ctx)
	if err != nil {
		return err
	}
	streaming, cancel := context.WithCancel(ctx)
	defer cancel()
	t, err := x.grow(streaming, shapes[len(shapes)-1], dial.Start{KillOnDisconnect: true})
	if err != nil {
		return err
	}
	defer t.fell(ctx)
	if err := t.grown(ctx); err != nil {
		return err
	}
	if err := end(t, cancel); err != nil {
		return err
	}
	return t.gone(ctx)
}

func disconnectKeeps(ctx context.Context, b *bench) error {
	x, err := b.shared(ctx)
	if err != nil {
		return err
	}
	t, err := x.grow(ctx, shapes[0], dial.Start{})
	if err != nil {
		return err
	}
	defer t.fell(ctx)
	if err := t.grown(ctx); err != nil {
		return err
	}
	if err := t.stream.Close(); err != nil {
		return err
	}
	for range 5 { // a kill would come within treeBound
		sleeping, _, err := t.count(ctx)
		if err != nil {
			return err
		}
		if err := equal("processes that live without their reader", sleeping, t.shape.processes); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(treeBound / 5):
		}
	}
	return nil
}

func killTree(ctx context.Context, b *bench) error {
	x, err := b.shared(ctx)
	if err != nil {
		return err
	}
	t, err := x.grow(ctx, shapes[len(shapes)-1], dial.Start{})
	if err != nil {
		return err
	}
	defer t.fell(ctx)
	if err := t.grown(ctx); err != nil {
		return err
	}
	killed, err := x.guest.KillTree(ctx, t.stream.PID)
	if err != nil {
		return fmt.Errorf("kill: %w", err)
	}
	if killed < t.shape.processes {
		return fmt.Errorf("killed: got %d processes, want at least %d", killed, t.shape.processes)
	}
	_, all, err := t.count(ctx)
	if err != nil {
		return err
	}
	return equal("processes of the tree that live", all, 0)
}

func timeoutChecks() []check {
	var checks []check
	for _, s := range shapes {
		checks = append(checks, check{
			name:   "kills-" + s.name,
			clause: "When a command's time is up, its whole tree is dead within 1 s: " + s.clause + ".",
			run:    func(ctx context.Context, b *bench) error { return b.timedOut(ctx, s) },
		})
	}
	return append(checks,
		check{"keeps-output", "What a command wrote before its time was up is kept.", Needs{}, timeoutKeepsOutput},
		check{"not-in-time", "A command that ends in time has not timed out.", Needs{}, timeoutInTime},
	)
}

// timedOut grows a tree with a time-out. A machine may be too busy to start all of it in
// that time, and then nothing is shown: another tree gets more of it.
func (b *bench) timedOut(ctx context.Context, s shape) error {
	x, err := b.shared(ctx)
	if err != nil {
		return err
	}
	for timeout := 500 * time.Millisecond; ; timeout *= 2 {
		shown, err := x.timeOut(ctx, s, timeout)
		if err != nil || shown {
			return err
		}
		if timeout > 10*time.Second {
			return fmt.Errorf("the tree was not there in %v", timeout)
		}
	}
}

func (x *box) timeOut(ctx context.Context, s shape, timeout time.Duration) (shown bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, timeout+5*time.Second)
	defer cancel()
	t, err := x.grow(ctx, s, dial.Start{Timeout: timeout})
	if err != nil {
		return false, err
	}
	defer t.fell(ctx)
	growing, stop := context.WithTimeout(ctx, timeout)
	defer stop()
	whole := t.grown(growing) == nil
	r, err := collect(t.stream)
	if err != nil {
		return true, fmt.Errorf("the end, after a time-out of %v: %w", timeout, err)
	}
	if err := equal("timed out", r.exit.TimedOut, true); err != nil {
		return true, err
	}
	return whole, t.gone(ctx)
}

func timeoutKeepsOutput(ctx context.Context, b *bench) error {
	x, err := b.shared(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := shortly(ctx)
	defer cancel()
	start := shell("echo before; echo errors >&2; sleep 300; echo after")
	start.Timeout, start.KillOnDisconnect = 700*time.Millisecond, true
	r, err := x.run(ctx, start)
	if err != nil {
		return err
	}
	return errors.Join(
		equal("timed out", r.exit.TimedOut, true), equal("exit code", r.exit.Code, -1),
		equal("stdout", string(r.stdout), "before\n"), equal("stderr", string(r.stderr), "errors\n"),
	)
}

func timeoutInTime(ctx context.Context, b *bench) error {
	x, err := b.shared(ctx)
	if err != nil {
		return err
	}
	start := shell("exit 5")
	start.Timeout = time.Minute
	r, err := x.run(ctx, start)
	if err != nil {
		return err
	}
	return errors.Join(equal("timed out", r.exit.TimedOut, false), equal("exit code", r.exit.Code, 5))
}
