package cli

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/client"
)

const (
	// leaseTime is how long the sandbox of run outlives a program that was killed.
	leaseTime = 30 * time.Second
	// renewTime leaves two attempts before a lease is over.
	renewTime = 10 * time.Second
	// requestTime bounds a request that is made behind the command's back.
	requestTime = 10 * time.Second
)

// lease keeps a sandbox for as long as this program lives, or up to a limit.
type lease struct {
	end time.Time // zero: no limit
}

func newLease(ttl cove.Duration) lease {
	if ttl == 0 || ttl == cove.Never {
		return lease{}
	}
	return lease{end: time.Now().Add(time.Duration(ttl))}
}

// next is the time for which the sandbox is to be kept from now on.
func (l lease) next() cove.Duration {
	if l.end.IsZero() {
		return cove.Duration(leaseTime)
	}
	return cove.Duration(max(min(leaseTime, time.Until(l.end)), time.Millisecond))
}

// keep renews the lease of sandbox until the function that it returns is called.
func (l lease) keep(ctx context.Context, sandbox *client.Sandbox) (release func()) {
	ctx, cancel := context.WithCancel(ctx)
	// A handle of its own: Update changes the view in it.
	renewed := *sandbox
	var group sync.WaitGroup
	group.Go(func() {
		tick := time.NewTicker(renewTime)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if err := l.renew(ctx, &renewed); errors.Is(err, cove.NotFound) || errors.Is(err, cove.Gone) {
				return
			}
		}
	})
	return func() {
		cancel()
		group.Wait()
	}
}

// renew extends the lease. An error is not the end: the daemon may be coming back.
func (l lease) renew(ctx context.Context, sandbox *client.Sandbox) error {
	ctx, cancel := context.WithTimeout(ctx, requestTime)
	defer cancel()
	ttl := l.next()
	return sandbox.Update(ctx, cove.SandboxUpdate{TTL: &ttl})
}
