package outward

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// pool holds spare streams to the host.
type pool struct {
	mu      sync.Mutex
	idle    []net.Conn
	waiting []chan net.Conn // each with room for one; the first waits longest
	closed  bool
}

// maxSpares bounds what the host may leave here.
const maxSpares = 512

// sparePatience bounds how long a connection waits for a stream: a daemon that restarts is
// back by then.
const sparePatience = 10 * time.Second

func newPool() *pool { return new(pool) }

// put takes a stream over, and returns false where it does not.
func (p *pool) put(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	if len(p.waiting) > 0 {
		p.waiting[0] <- c
		p.waiting = p.waiting[1:]
		return true
	}
	if len(p.idle) >= maxSpares {
		p.idle = slices.DeleteFunc(p.idle, func(c net.Conn) bool {
			gone := stale(c)
			if gone {
				_ = c.Close()
			}
			return gone
		})
	}
	if len(p.idle) >= maxSpares {
		return false
	}
	p.idle = append(p.idle, c)
	return true
}

// take returns a stream, for which it waits a while.
func (p *pool) take(ctx context.Context, patience time.Duration) (net.Conn, error) {
	p.mu.Lock()
	for len(p.idle) > 0 && !p.closed {
		last := len(p.idle) - 1
		c := p.idle[last]
		p.idle = p.idle[:last]
		if !stale(c) {
			p.mu.Unlock()
			return c, nil
		}
		_ = c.Close()
	}
	if p.closed {
		p.mu.Unlock()
		return nil, net.ErrClosed
	}
	turn := make(chan net.Conn, 1)
	p.waiting = append(p.waiting, turn)
	p.mu.Unlock()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case c := <-turn:
		return c, nil
	case <-timer.C:
	case <-ctx.Done():
	}
	p.mu.Lock()
	p.waiting = slices.DeleteFunc(p.waiting, func(other chan net.Conn) bool { return other == turn })
	p.mu.Unlock()
	select {
	case c := <-turn: // it came in the last moment
		return c, nil
	default:
		return nil, errors.New("the host has no stream to spare")
	}
}

// close closes what is there, and refuses what comes.
func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, c := range p.idle {
		_ = c.Close()
	}
	p.idle = nil
}

// stale reports whether the other end of an idle stream is closed, or says something that
// nobody asked for.
func stale(c net.Conn) bool { return polled(c, unix.POLLIN|unix.POLLRDHUP) }

// polled reports whether one of these events is there, or the end of both directions.
func polled(c net.Conn, events int16) bool {
	socket, ok := c.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return true
	}
	found := true
	err = raw.Control(func(fd uintptr) { found = pending(fd, events) })
	return err != nil || found
}

// pending asks the kernel for events of a descriptor that are there.
func pending(fd uintptr, events int16) bool {
	poll := []unix.PollFd{{Fd: int32(fd), Events: events}}
	n, err := unix.Poll(poll, 0)
	return err == nil && n > 0
}

// awaitHangUp returns when a stream is closed, at this end or whole at the other. It is
// called after the last byte was read.
func awaitHangUp(c net.Conn) {
	socket, ok := c.(syscall.Conn)
	if !ok {
		return
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return
	}
	// The function is called again for each event of the socket.
	_ = raw.Read(func(fd uintptr) bool { return pending(fd, 0) })
}
