package outward

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// pool holds spare streams to the host.
type pool struct {
	mu      sync.Mutex
	idle    []*net.UnixConn
	waiting []chan *net.UnixConn // each with room for one; the first waits longest
	closed  bool
}

// maxSpares bounds what the host may leave here.
const maxSpares = 512

// sparePatience bounds how long a connection waits for a stream: a daemon that restarts is
// back by then.
const sparePatience = 10 * time.Second

func newPool() *pool { return new(pool) }

// put takes a stream over, and returns false where it does not.
func (p *pool) put(c *net.UnixConn) bool {
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
		p.idle = slices.DeleteFunc(p.idle, func(c *net.UnixConn) bool {
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

// take returns a stream, for which it waits a while: the oldest, since the host may still be
// busy with the opening of the newest.
func (p *pool) take(ctx context.Context, patience time.Duration) (*net.UnixConn, error) {
	p.mu.Lock()
	for len(p.idle) > 0 && !p.closed {
		c := p.idle[0]
		p.idle = p.idle[1:]
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
	turn := make(chan *net.UnixConn, 1)
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
	p.waiting = slices.DeleteFunc(p.waiting, func(other chan *net.UnixConn) bool { return other == turn })
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
func stale(c *net.UnixConn) bool {
	raw, err := c.SyscallConn()
	if err != nil {
		return true
	}
	found := true
	err = raw.Control(func(fd uintptr) {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN | unix.POLLRDHUP}}
		n, err := unix.Poll(poll, 0)
		found = err == nil && n > 0
	})
	return err != nil || found
}
