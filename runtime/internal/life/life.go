package life

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"github.com/covehq/cove/runtime/internal/agent"
	"github.com/covehq/cove/runtime/internal/process"
)

// Ready returns when the agent of a fresh sandbox answers that dial leads to. Of one that
// ended before, the error says why.
func Ready(ctx context.Context, dial func(context.Context) (net.Conn, error), end *End) error {
	err := agent.Ready(ctx, dial, end.gone)
	if errors.Is(err, agent.ErrGone) {
		return fmt.Errorf("%w: %s", err, end.exit.Message)
	}
	return err
}

// Undo removes what a create that failed has made, also when its ctx has ended. What can't
// be removed is logged: the sweep finds it again.
func Undo(ctx context.Context, log *slog.Logger, id string, within time.Duration, remove func(ctx context.Context, id string) error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), within)
	defer cancel()
	if err := remove(ctx, id); err != nil {
		log.Error("a sandbox that did not come up was not removed whole", "id", id, "error", err)
	}
}

// Outlive returns when a sandbox's first process is dead, or closed.
func Outlive(first *process.Process, log *slog.Logger, id string) {
	if err := first.Wait(); err != nil && !errors.Is(err, os.ErrClosed) {
		log.Error("lost sight of a sandbox's process", "id", id, "error", err)
	}
}

// stuck is how long the end of a killed process is waited for.
const stuck = 5 * time.Second

// Kill kills a sandbox's first process and waits for its end. It returns nil also for a
// process that is in uninterruptible sleep: what holds the sandbox together goes on to hold
// it. The error is ctx's.
func Kill(ctx context.Context, first *process.Process, end *End) error {
	first.Kill()
	select {
	case <-end.gone:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(stuck):
		return nil
	}
}

// Once is for what must succeed once and is then done, as to destroy a sandbox. The zero
// value is ready.
type Once struct {
	mu   sync.Mutex
	done bool
}

// Do calls fn, unless a call has succeeded before. Calls wait for each other.
func (o *Once) Do(fn func() error) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.done {
		return nil
	}
	err := fn()
	o.done = err == nil
	return err
}
