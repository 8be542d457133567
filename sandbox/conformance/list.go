package conformance

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/covehq/cove/sandbox/driver"
)

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
		traces, err := b.traces(id)
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
