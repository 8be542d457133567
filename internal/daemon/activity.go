package daemon

import (
	"context"
	"net/http"
	"sync"
	"time"
)

// Activity knows when a daemon was last of use to somebody. The zero value begins now.
type Activity struct {
	mu       sync.Mutex
	requests int // in progress
	last     time.Time
	leaving  bool
}

// Handler returns next, with every request counted as activity for as long as it lasts.
// Once the daemon is leaving, connections are dropped unanswered, so that their clients
// see what they would have seen a moment later: nobody there.
func (a *Activity) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !a.enter() {
			panic(http.ErrAbortHandler)
		}
		defer a.exit()
		next.ServeHTTP(w, r)
	})
}

func (a *Activity) enter() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.leaving {
		return false
	}
	a.requests++
	return true
}

func (a *Activity) exit() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.requests--
	a.last = time.Now()
}

// WaitIdle returns true once there was neither a request nor anything that busy reports
// for the whole of limit; from then on no request is let in. It returns false when ctx
// ends first.
func (a *Activity) WaitIdle(ctx context.Context, limit time.Duration, busy func() bool) bool {
	a.touch()
	look := time.NewTicker(min(max(limit/10, 20*time.Millisecond), 5*time.Second))
	defer look.Stop()
	for wasBusy := false; ; {
		select {
		case <-ctx.Done():
			return false
		case <-look.C:
		}
		isBusy := busy()
		if isBusy || wasBusy { // it may have ended only just now
			a.touch()
		} else if a.leave(limit) {
			return true
		}
		wasBusy = isBusy
	}
}

func (a *Activity) touch() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.last = time.Now()
}

func (a *Activity) leave(limit time.Duration) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.leaving = a.requests == 0 && time.Since(a.last) >= limit
	return a.leaving
}
