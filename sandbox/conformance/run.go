package conformance

import (
	"context"
	"sync"

	"github.com/covehq/cove/sandbox/driver"
)

// Run runs all checks against a driver: first those that need to be alone, then up to
// parallel at a time. It reports each check as it ends, one at a time. Where o has no
// Shared, Run provides one and closes it.
func Run(ctx context.Context, d driver.Driver, o Options, parallel int, report func(Check, error)) error {
	closeShared := func(context.Context) error { return nil }
	if o.Shared == nil {
		o.Shared = new(Shared)
		closeShared = o.Shared.Close
	}
	var together []Check
	for _, c := range Checks() {
		if c.Needs.Alone {
			report(c, c.Run(ctx, d, o))
		} else {
			together = append(together, c)
		}
	}
	var (
		mu      sync.Mutex // held by report
		workers sync.WaitGroup
		next    = make(chan Check)
	)
	for range max(parallel, 1) {
		workers.Go(func() {
			for c := range next {
				err := c.Run(ctx, d, o)
				mu.Lock()
				report(c, err)
				mu.Unlock()
			}
		})
	}
	for _, c := range together {
		next <- c
	}
	close(next)
	workers.Wait()
	return closeShared(context.WithoutCancel(ctx))
}
