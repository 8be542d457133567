package conformance

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"

	"github.com/covehq/cove"
	"github.com/covehq/cove/sandbox/driver"
)

func hammerChecks() []check {
	return []check{
		{"creates", "Sandboxes are created, used and destroyed in parallel, and each is its own.", Needs{}, hammerCreates},
		{"commands", "Commands run in parallel in one sandbox, and each gets its own output.", Needs{}, hammerCommands},
		{"commands-and-destroy", "A command that races with Destroy ends, with its result or with an error that says that the sandbox is gone.", Needs{}, hammerDestroy},
		{"methods", "The methods of drivers and machines may be called concurrently.", Needs{Lister: true}, hammerMethods},
	}
}

func hammerCreates(ctx context.Context, b *bench) error {
	const workers, rounds = 4, 3
	return together(workers, func(worker int) error {
		for round := range rounds {
			x, err := b.create(ctx)
			if err != nil {
				return err
			}
			mark := fmt.Sprintf("%d-%d", worker, round)
			if err := x.prints(ctx, "file of this sandbox", "ls /tmp; echo "+mark+" > /tmp/mark; cat /tmp/mark", mark); err != nil {
				return err
			}
			if err := x.machine.Destroy(ctx); err != nil {
				return fmt.Errorf("destroy: %w", err)
			}
		}
		return nil
	})
}

func hammerCommands(ctx context.Context, b *bench) error {
	x, err := b.shared(ctx)
	if err != nil {
		return err
	}
	const workers, rounds = 8, 12
	return together(workers, func(worker int) error {
		for round := range rounds {
			mark := fmt.Sprintf("%d-%d", worker, round)
			if err := x.prints(ctx, "output of this command", "echo "+mark, mark); err != nil {
				return err
			}
		}
		return nil
	})
}

func hammerDestroy(ctx context.Context, b *bench) error {
	x, err := b.create(ctx)
	if err != nil {
		return err
	}
	const workers = 4
	ctx, cancel := shortly(ctx)
	defer cancel()
	var done atomic.Int64
	return together(workers+1, func(worker int) error {
		if worker == workers {
			if err := eventually(ctx, checkTimeout, func() error { // let some commands run before
				if done.Load() < 2*workers {
					return errors.New("no commands ran")
				}
				return nil
			}); err != nil {
				return err
			}
			return x.machine.Destroy(ctx)
		}
		for {
			r, err := x.sh(ctx, "echo whole")
			done.Add(1)
			if ctx.Err() != nil {
				return fmt.Errorf("command during destroy: got no end, want one: %w", ctx.Err())
			}
			code := cove.CodeOf(err)
			switch {
			case err == nil && r.exit.Code == 0 && strings.TrimSpace(string(r.stdout)) != "whole":
				return fmt.Errorf("output of a command that succeeded during destroy: got %q, want whole", r.stdout)
			case code == cove.Gone || code == cove.Unavailable:
				done.Add(2 * workers)
				return nil
			case err != nil:
				return fmt.Errorf("command during destroy: got error %w (%s), want one that is cove.Gone or cove.Unavailable", err, code)
			}
		}
	})
}

// hammerMethods has every method of one machine, and those of its driver, called by many
// at once while it is destroyed. What each of them returns is held by other checks; here
// they must return, and break neither each other nor the race detector's rules.
func hammerMethods(ctx context.Context, b *bench) error {
	x, err := b.create(ctx)
	if err != nil {
		return err
	}
	calls := []func() error{
		func() error { _, err := b.driver.Probe(ctx); return err },
		func() error { _, err := b.driver.(driver.Lister).List(ctx); return err },
		func() error { _ = b.remove(ctx, newID()); return nil },
		func() error { _ = x.machine.Handle(); return nil },
		func() error {
			if conn, err := x.machine.Dial(ctx); err == nil {
				conn.Close()
			}
			return nil
		},
		func() error {
			ended, cancel := context.WithCancel(ctx)
			cancel()
			_, _ = x.machine.Wait(ended)
			return nil
		},
	}
	const rounds = 8
	return together(2*len(calls)+1, func(worker int) error {
		if worker == 2*len(calls) {
			return x.machine.Destroy(ctx)
		}
		for range rounds {
			if err := calls[worker%len(calls)](); err != nil {
				return err
			}
		}
		return ctx.Err()
	})
}
