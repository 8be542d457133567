package conformance

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/guest/dial"
	"github.com/covehq/cove/sandbox/driver"
)

func destroyChecks() []check {
	lister := Needs{Lister: true}
	return []check{
		{"leaks-nothing", "Create and Destroy, many times, leave no file descriptor, goroutine or zombie in the daemon and nothing on the host.", Needs{Alone: true}, destroyLeaksNothing},
		{"removes-everything", "Destroy removes everything that Create made on the host.", Needs{}, destroyRemoves},
		{"ends-what-runs", "Destroy ends commands that ignore every signal they can, and with them their streams.", Needs{}, destroyEndsCommands},
		{"id-is-free", "When Destroy has returned, nothing of the sandbox is in the way of another with its id.", Needs{}, destroyFreesID},
		{"twice", "A second Destroy succeeds.", Needs{}, destroyTwice},
		{"concurrent", "Destroy may be called concurrently, and every call succeeds.", Needs{}, destroyConcurrent},
		{"dead", "Destroy does its work when the sandbox is already dead.", Needs{}, destroyDead},
		{"dial-is-gone", "After Destroy, Dial returns an error that is cove.Gone.", Needs{}, destroyDial},
		{"wait-says-killed", "Wait returns within 2 s of the sandbox's end, and says that it was killed.", Needs{}, waitKilled},
		{"wait-says-exited", "Wait says that the sandbox exited when its first process ended by itself.", Needs{}, waitExited},
		{"wait-many", "Wait may be called many times, also after the end, and says the same.", Needs{}, waitMany},
		{"wait-heeds-context", "Wait returns early only when ctx ends, with ctx's error.", Needs{}, waitContext},
		{"wait-sees-destroy", "Wait returns when the sandbox is destroyed.", Needs{}, waitDestroy},
		{"list-running", "List returns what runs, and not what was destroyed.", lister, listRunning},
		{"list-dead", "List returns what is dead, until Remove clears it.", lister, listDead},
		{"list-half-made", "List returns what a crash left half-made, and Remove clears it.", Needs{Lister: true, Crash: true}, listHalfMade},
		{"remove-running", "Remove clears what still runs.", lister, removeRunning},
		{"remove-nothing", "Remove succeeds when there is nothing.", lister, removeNothing},
	}
}

// held counts what a daemon holds and what is on the host.
func (b *bench) held() map[string]int {
	counts := map[string]int{"file descriptors": openFiles(), "goroutines": runtime.NumGoroutine(), "zombies": zombies()}
	if b.options.Census != nil {
		maps.Copy(counts, b.options.Census())
	}
	return counts
}

// destroyLeaksNothing compares what is held after one round, which may open what is kept
// for good, with what is held after more of them.
func destroyLeaksNothing(ctx context.Context, b *bench) error {
	const rounds = 4
	if err := b.round(ctx); err != nil {
		return err
	}
	settled := b.settle(ctx)
	for range rounds {
		if err := b.round(ctx); err != nil {
			return err
		}
	}
	return eventually(ctx, 3*time.Second, func() error {
		now := b.held()
		for kind, count := range now {
			if count > settled[kind] {
				return fmt.Errorf("%s after %d rounds: got %d, want %d as before", kind, rounds, count, settled[kind])
			}
		}
		return nil
	})
}

// round creates a sandbox, uses it, and destroys it.
func (b *bench) round(ctx context.Context) error {
	spec, id := b.spec(), newID()
	machine, err := b.driver.Create(ctx, id, &spec)
	if err != nil {
		return fmt.Errorf("create: %w", err)
	}
	x := &box{id: id, spec: spec, machine: machine, guest: dial.New(machine.Dial)}
	_, runErr := x.run(ctx, shell("true"))
	return errors.Join(runErr, x.guest.Close(), machine.Destroy(ctx))
}

// settle returns what is held once that does not shrink any more.
func (b *bench) settle(ctx context.Context) map[string]int {
	counts := b.held()
	for range 20 {
		select {
		case <-ctx.Done():
			return counts
		case <-time.After(10 * time.Millisecond):
		}
		now := b.held()
		for kind, count := range now {
			counts[kind] = min(counts[kind], count)
		}
	}
	return counts
}

func destroyRemoves(ctx context.Context, b *bench) error {
	x, err := b.create(ctx)
	if err != nil {
		return err
	}
	before, err := Traces(x.id, b.options.StateDirs...)
	if err != nil {
		return err
	}
	if len(before) == 0 {
		return fmt.Errorf("traces of the sandbox while it runs: got none, want what carries the id %s, or nothing is shown by their absence", x.id)
	}
	if _, err := x.print(ctx, "head -c 100000 /dev/zero > $HOME/data; nohup sleep 300 >/dev/null 2>&1 &"); err != nil {
		return err
	}
	if err := x.machine.Destroy(ctx); err != nil {
		return fmt.Errorf("destroy: %w", err)
	}
	return b.nothingLeft(ctx, x.id)
}

func destroyEndsCommands(ctx context.Context, b *bench) error {
	x, err := b.create(ctx)
	if err != nil {
		return err
	}
	stream, err := x.guest.Start(ctx, shell("trap '' HUP INT TERM; echo ready; while :; do sleep 300; done"))
	if err != nil {
		return err
	}
	defer stream.Close()
	if _, err := readUntil(stream, "ready\n"); err != nil {
		return err
	}
	if err := x.machine.Destroy(ctx); err != nil {
		return fmt.Errorf("destroy: %w", err)
	}
	ctx, cancel := shortly(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { stream.Close() })
	defer stop()
	r, err := collect(stream)
	if ctx.Err() != nil {
		return errors.New("stream of a command in a destroyed sandbox: got no end, want one")
	}
	if err == nil && r.exit.Code == 0 {
		return errors.New("command in a destroyed sandbox: got exit code 0, want an error or its kill")
	}
	return nil
}

func destroyFreesID(ctx context.Context, b *bench) error {
	x, err := b.create(ctx)
	if err != nil {
		return err
	}
	if _, err := x.print(ctx, "echo first > /tmp/note"); err != nil {
		return err
	}
	if err := x.machine.Destroy(ctx); err != nil {
		return fmt.Errorf("destroy: %w", err)
	}
	again, err := b.createAs(ctx, x.id, b.spec())
	if err != nil {
		return fmt.Errorf("with the id of a destroyed sandbox: %w", err)
	}
	return again.prints(ctx, "files of its predecessor", "ls /tmp", "")
}

func destroyTwice(ctx context.Context, b *bench) error {
	x, err := b.create(ctx)
	if err != nil {
		return err
	}
	for _, turn := range []string{"first", "second"} {
		if err := x.machine.Destroy(ctx); err != nil {
			return fmt.Errorf("%s destroy: %w", turn, err)
		}
	}
	return nil
}

func destroyConcurrent(ctx context.Context, b *bench) error {
	x, err := b.create(ctx)
	if err != nil {
		return err
	}
	return together(8, func(int) error { return x.machine.Destroy(ctx) })
}

// together runs something n times at once, released together.
func together(n int, f func(i int) error) error {
	errs, release := make([]error, n), make(chan struct{})
	var done sync.WaitGroup
	for i := range n {
		done.Go(func() {
			<-release
			errs[i] = f(i)
		})
	}
	close(release)
	done.Wait()
	return errors.Join(errs...)
}

func destroyDead(ctx context.Context, b *bench) error {
	x, err := b.create(ctx)
	if err != nil {
		return err
	}
	if err := b.kill(ctx, x); err != nil {
		return err
	}
	if err := x.machine.Destroy(ctx); err != nil {
		return fmt.Errorf("destroy of a dead sandbox: %w", err)
	}
	return b.nothingLeft(ctx, x.id)
}

func destroyDial(ctx context.Context, b *bench) error {
	x, err := b.create(ctx)
	if err != nil {
		return err
	}
	if err := x.machine.Destroy(ctx); err != nil {
		return fmt.Errorf("destroy: %w", err)
	}
	conn, err := x.machine.Dial(ctx)
	if err == nil {
		conn.Close()
	}
	return isCode("dial after destroy", err, cove.Gone)
}

func waitKilled(ctx context.Context, b *bench) error {
	x, err := b.create(ctx)
	if err != nil {
		return err
	}
	if err := b.kill(ctx, x); err != nil {
		return err
	}
	exit, err := x.waitAfterEnd(ctx)
	if err != nil {
		return err
	}
	if exit.Message == "" {
		return errors.New("message of the exit: got none, want the reason in words")
	}
	return equal("reason", exit.Reason, cove.ReasonKilled)
}

// waitExited has root inside ask the agent to stop, which it does on SIGTERM.
func waitExited(ctx context.Context, b *bench) error {
	x, err := b.create(ctx)
	if err != nil {
		return err
	}
	waiting, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	_, _ = x.shAs(waiting, "root", "kill -TERM 1; sleep 300") // ends with the sandbox
	exit, err := x.waitAfterEnd(ctx)
	if err != nil {
		return fmt.Errorf("after the agent was asked to stop: %w", err)
	}
	return equal("reason", exit.Reason, cove.ReasonExited)
}

func waitMany(ctx context.Context, b *bench) error {
	x, err := b.create(ctx)
	if err != nil {
		return err
	}
	const waiters = 8
	exits := make([]driver.Exit, waiters)
	waiting, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	err = together(waiters, func(i int) (err error) {
		if i == 0 {
			return b.kill(ctx, x)
		}
		exits[i], err = x.machine.Wait(waiting)
		return err
	})
	if err != nil {
		return fmt.Errorf("waits at the same time: %w", err)
	}
	if exits[0], err = x.waitAfterEnd(ctx); err != nil {
		return fmt.Errorf("after the end was waited for: %w", err)
	}
	if len(slices.Compact(exits)) != 1 {
		return fmt.Errorf("exits: got %v, want the same at every call", exits)
	}
	return nil
}

func waitContext(ctx context.Context, b *bench) error {
	x, err := b.shared(ctx)
	if err != nil {
		return err
	}
	ending, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	returned := make(chan error, 1)
	go func() {
		_, err := x.machine.Wait(ending)
		returned <- err
	}()
	select {
	case err := <-returned:
		if !errors.Is(err, context.DeadlineExceeded) {
			return fmt.Errorf("wait, with its context ended: got error %v, want %v", err, context.DeadlineExceeded)
		}
		return nil
	case <-time.After(endBound):
		return fmt.Errorf("wait, %v after the end of its context: got no return, want one", endBound)
	}
}

func waitDestroy(ctx context.Context, b *bench) error {
	x, err := b.create(ctx)
	if err != nil {
		return err
	}
	waiting, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	waited := make(chan error, 1)
	go func() {
		_, err := x.machine.Wait(waiting)
		waited <- err
	}()
	if err := x.machine.Destroy(ctx); err != nil {
		return errors.Join(fmt.Errorf("destroy: %w", err), ignore(cancel, waited))
	}
	select {
	case err := <-waited:
		if err != nil {
			return fmt.Errorf("wait, when the sandbox was destroyed: %w", err)
		}
	case <-time.After(endBound):
		return errors.Join(fmt.Errorf("wait, %v after destroy: got no return, want one", endBound), ignore(cancel, waited))
	}
	_, err = x.waitAfterEnd(ctx)
	return err
}

// ignore ends a wait that does not matter any more, and returns when it has ended.
func ignore(cancel context.CancelFunc, waited <-chan error) error {
	cancel()
	<-waited
	return nil
}

// listed is the error of an id that is listed and should not be, or the other way round.
func (b *bench) listed(ctx context.Context, id string, want bool) error {
	ids, err := b.driver.(driver.Lister).List(ctx)
	if err != nil {
		return fmt.Errorf("list: %w", err)
	}
	return equal("listed: "+id, slices.Contains(ids, id), want)
}

func listRunning(ctx context.Context, b *bench) error {
	x, err := b.create(ctx)
	if err != nil {
		return err
	}
	if err := b.listed(ctx, x.id, true); err != nil {
		return fmt.Errorf("while it runs: %w", err)
	}
	if err := x.machine.Destroy(ctx); err != nil {
		return fmt.Errorf("destroy: %w", err)
	}
	if err := b.listed(ctx, x.id, false); err != nil {
		return fmt.Errorf("after destroy: %w", err)
	}
	return nil
}

func listDead(ctx context.Context, b *bench) error {
	x, err := b.create(ctx)
	if err != nil {
		return err
	}
	if err := b.kill(ctx, x); err != nil {
		return err
	}
	if err := b.listed(ctx, x.id, true); err != nil {
		return fmt.Errorf("when it is dead: %w", err)
	}
	return b.removed(ctx, x.id)
}

// removed is the error of a Remove that does not clear everything.
func (b *bench) removed(ctx context.Context, id string) error {
	if err := b.remove(ctx, id); err != nil {
		return fmt.Errorf("remove: %w", err)
	}
	if err := b.nothingLeft(ctx, id); err != nil {
		return fmt.Errorf("after remove: %w", err)
	}
	return b.listed(ctx, id, false)
}

// listHalfMade kills a daemon at moments spread over the time that a Create takes here,
// until some of them have left a half-made sandbox.
func listHalfMade(ctx context.Context, b *bench) error {
	const enough, moments = 4, 8
	started := time.Now()
	if _, err := b.create(ctx); err != nil {
		return err
	}
	whole := time.Since(started)
	for turn, left := 0, 0; left < enough && turn < 3*moments; turn++ {
		after := whole * time.Duration(turn%moments) / moments
		half, err := b.crashed(ctx, after)
		if err != nil {
			return fmt.Errorf("killed after %v: %w", after, err)
		}
		if half {
			left++
		}
	}
	return nil
}

// crashed leaves a sandbox as a daemon does that was killed some time after it began to
// create it, and clears that. It reports whether that was half a sandbox.
func (b *bench) crashed(ctx context.Context, after time.Duration) (half bool, err error) {
	spec, id := b.spec(), newID()
	handle, err := b.options.Crash(ctx, id, &spec, after)
	if err != nil {
		return false, fmt.Errorf("create in a process that is killed: %w", err)
	}
	traces, err := b.steady(ctx, id)
	if err != nil || len(traces) == 0 {
		return false, err // it was killed before it made anything
	}
	if err := b.listed(ctx, id, true); err != nil {
		return true, errors.Join(fmt.Errorf("with %v on the host: %w", traces, err), b.remove(ctx, id))
	}
	return len(handle) == 0, b.removed(ctx, id)
}

// steady returns the traces of an id when they don't change any more: a helper program may
// go on for a moment after its daemon was killed.
func (b *bench) steady(ctx context.Context, id string) ([]string, error) {
	var before []string
	for range 20 {
		traces, err := Traces(id, b.options.StateDirs...)
		if err != nil {
			return nil, err
		}
		slices.Sort(traces)
		if before != nil && slices.Equal(before, traces) {
			return traces, nil
		}
		before = append([]string{}, traces...)
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
	return before, nil
}

func removeRunning(ctx context.Context, b *bench) error {
	x, err := b.create(ctx)
	if err != nil {
		return err
	}
	return b.removed(ctx, x.id)
}

func removeNothing(ctx context.Context, b *bench) error {
	if err := b.remove(ctx, newID()); err != nil {
		return fmt.Errorf("remove of an id that nothing has: got error %w, want none", err)
	}
	return nil
}
