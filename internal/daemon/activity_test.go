package daemon

import (
	"context"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func request(a *Activity, during func()) {
	handler := a.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { during() }))
	handler.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil))
}

func TestADaemonLeavesOnlyWhenNobodyNeedsIt(t *testing.T) {
	const limit = time.Minute
	tests := map[string]struct {
		use  func(a *Activity, sandboxes *atomic.Int32)
		busy time.Duration // how long that lasts
	}{
		"at once unused": {func(*Activity, *atomic.Int32) {}, 0},
		"after its last request": {func(a *Activity, _ *atomic.Int32) {
			for range 3 {
				time.Sleep(50 * time.Second)
				request(a, func() {})
			}
		}, 150 * time.Second},
		"after a request that takes long": {func(a *Activity, _ *atomic.Int32) {
			request(a, func() { time.Sleep(time.Hour) })
		}, time.Hour},
		"after its last sandbox": {func(_ *Activity, sandboxes *atomic.Int32) {
			sandboxes.Store(1)
			time.Sleep(2 * time.Hour)
			sandboxes.Store(0)
		}, 2 * time.Hour},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var (
					a         Activity
					sandboxes atomic.Int32
					group     sync.WaitGroup
				)
				begin := time.Now()
				group.Go(func() { test.use(&a, &sandboxes) })
				if !a.WaitIdle(t.Context(), limit, func() bool { return sandboxes.Load() > 0 }) {
					t.Error("did not leave")
				}
				if stayed, least := time.Since(begin), test.busy+limit; stayed < least || stayed > least+limit/2 {
					t.Errorf("left after %v, want about %v", stayed, least)
				}
				group.Wait()
				if a.enter() {
					t.Error("a request was let in after it left")
				}
			})
		})
	}
}

func TestADaemonThatIsToldToLeaveDoesNotWait(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if new(Activity).WaitIdle(ctx, time.Hour, func() bool { return false }) {
		t.Error("it was idle")
	}
}
