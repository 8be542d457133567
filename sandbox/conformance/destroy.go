package conformance

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"sync"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/guest/dial"
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
	before, err := b.traces(x.id)
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
