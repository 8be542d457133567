package daemon

import (
	"context"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func use(a *Activity, during func()) {
	a.enter()
	during()
	a.exit()
}

func TestADaemonLeavesOnlyWhenNobodyNeedsIt(t *testing.T) {
	const limit = time.Minute
	tests := map[string]struct {
		use  func(a *Activity, sandboxes *atomic.Int32)
		busy time.Duration // how long that lasts
	}{
		"at once unused": {func(*Activity, *atomic.Int32) {}, 0},
		"after its last connection": {func(a *Activity, _ *atomic.Int32) {
			for range 3 {
				time.Sleep(50 * time.Second)
				use(a, func() {})
			}
		}, 150 * time.Second},
		"after a connection that lasts long": {func(a *Activity, _ *atomic.Int32) {
			use(a, func() { time.Sleep(time.Hour) })
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
					t.Error("a connection was let in after it left")
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

func TestConnectionsCountUntilTheyAreClosed(t *testing.T) {
	var a Activity
	inner, err := net.Listen("unix", prepared(t).Socket())
	if err != nil {
		t.Fatal(err)
	}
	listener := a.Listen(inner)
	defer listener.Close()
	connect := func() net.Conn {
		conn, err := net.Dial("unix", listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		return conn
	}
	ours := connect()
	defer ours.Close()
	theirs, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if a.leave(0) {
		t.Error("left with an open connection")
	}
	if err := theirs.(halfCloser).CloseWrite(); err != nil {
		t.Error(err)
	}
	for range 2 { // net/http closes more than once
		theirs.Close()
	}
	if !a.leave(0) {
		t.Error("did not leave after the last connection")
	}
	late := connect()
	defer late.Close()
	go listener.Accept()
	if n, err := late.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("a late connection read %d, %v, want EOF", n, err)
	}
}
