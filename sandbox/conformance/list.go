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
// until some of them have left a half-made sandbox. The first Create may take far longer than
// those after it, so that what comes to its end shortens that time.
func listHalfMade(ctx context.Context, b *bench) error {
	const enough, moments, turns = 4, 8, 20
	started := time.Now()
	if _, err := b.create(ctx); err != nil {
		return err
	}
	whole := time.Since(started)
	for turn, left := 0, 0; left < enough && turn < turns; turn++ {
		after := whole * time.Duration(turn%moments*3%moments) / moments // not in their order: the first ones differ most
		found, err := b.crashed(ctx, after)
		if err != nil {
			return fmt.Errorf("killed after %v: %w", after, err)
		}
		switch found {
		case leftHalf:
			left++
		case leftWhole:
			whole = after
		}
	}
	return nil
}

// leftover is what a daemon has left that was killed.
type leftover int

const (
	leftNothing leftover = iota
	leftHalf             // a sandbox
	leftWhole            // one that Create had returned
)

// crashed leaves a sandbox as a daemon does that was killed some time after it began to
// create it, and clears that.
func (b *bench) crashed(ctx context.Context, after time.Duration) (leftover, error) {
	spec, id := b.spec(), newID()
	handle, err := b.options.Crash(ctx, id, &spec, after)
	if err != nil {
		return leftNothing, fmt.Errorf("create in a process that is killed: %w", err)
	}
	traces, err := b.steady(ctx, id)
	if err != nil || len(traces) == 0 {
		return leftNothing, err // it was killed before it made anything
	}
	if err := b.listed(ctx, id, true); err != nil {
		return leftHalf, errors.Join(fmt.Errorf("with %v on the host: %w", traces, err), b.remove(ctx, id))
	}
	if err := b.removed(ctx, id); err != nil || len(handle) == 0 {
		return leftHalf, err
	}
	return leftWhole, nil
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
