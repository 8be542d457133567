package conformance

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/sandbox/driver"
)

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
