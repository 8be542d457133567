package daemon

import (
	"context"
	"net"
	"sync"
	"time"
)

// Activity knows when a daemon was last of use to somebody. The zero value is ready.
type Activity struct {
	mu          sync.Mutex
	connections int
	last        time.Time
	leaving     bool
}

// Listen returns listener, with every connection counted as activity for as long as it
// is open. Once the daemon is leaving, connections are dropped, so that their clients
// see what they would have seen a moment later: nobody there.
func (a *Activity) Listen(listener net.Listener) net.Listener {
	return &activeListener{Listener: listener, activity: a}
}

type activeListener struct {
	net.Listener
	activity *Activity
}

// Accept implements net.Listener.
func (l *activeListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if !l.activity.enter() {
			conn.Close()
			continue
		}
		counted := activeConn{Conn: conn, exit: sync.OnceFunc(l.activity.exit)}
		if half, ok := conn.(halfCloser); ok {
			return &activeHalfConn{counted, half}, nil
		}
		return &counted, nil
	}
}

// halfCloser is a connection of which one direction can end before the other, as those
// of unix sockets and TCP are, and as who forwards a connection needs them.
type halfCloser interface{ CloseWrite() error }

type activeConn struct {
	net.Conn
	exit func()
}

// Close implements net.Conn.
func (c *activeConn) Close() error {
	c.exit()
	return c.Conn.Close()
}

type activeHalfConn struct {
	activeConn
	halfCloser
}

func (a *Activity) enter() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.leaving {
		return false
	}
	a.connections++
	return true
}

func (a *Activity) exit() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.connections--
	a.last = time.Now()
}

// WaitIdle returns true once there was neither a connection nor anything that busy
// reports for the whole of limit; from then on no connection is let in. It returns false
// when ctx ends first.
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
	a.leaving = a.connections == 0 && time.Since(a.last) >= limit
	return a.leaving
}
