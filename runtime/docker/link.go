package docker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/guest/dial/carrier"
	"github.com/covehq/cove/runtime/internal/agent"
)

// link is a way to an agent.
type link interface {
	Dial(ctx context.Context) (net.Conn, error)
	Close()
}

// linkOf returns the way to a machine's agent: its socket, where that is a file of this
// machine's kernel, else the streams of a process inside. stdio may be nil.
func (d *Driver) linkOf(m *machine, stdio *stdio) link {
	if m.facts.givesDisk() {
		return socket{agent.Socket{First: m.first}}
	}
	return &streams{driver: d, container: m.known.Container, first: stdio}
}

// socket is the link by the agent's socket. It needs no engine.
type socket struct{ agent.Socket }

// Close implements link.
func (socket) Close() {}

// streams is the link by a carrier: over the streams of the first process, as long as they
// last, and then over those of one that connects to the agent inside.
type streams struct {
	driver    *Driver
	container string

	mu      sync.Mutex
	first   *stdio // not used yet
	current *carrier.Carrier
	closed  bool
	failure error // of the last attempt to connect, at failed
	failed  time.Time
}

// Dial implements link.
func (s *streams) Dial(ctx context.Context) (net.Conn, error) {
	const tries = 2 // one with a carrier that has broken unseen
	var failed error
	for range tries {
		c, err := s.carrier(ctx)
		if err != nil {
			return nil, err
		}
		conn, err := c.Dial(ctx)
		if err == nil || ctx.Err() != nil || errors.Is(err, cove.Gone) {
			return conn, err
		}
		failed = err
		s.drop(c)
	}
	return nil, failed
}

// carrier returns the one that works, or a new one.
func (s *streams) carrier(ctx context.Context) (*carrier.Carrier, error) {
	began := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, cove.Gone
	}
	if s.failed.After(began) { // while this caller waited: an engine that hangs is asked once for all
		return nil, s.failure
	}
	if s.current != nil && s.current.Err() == nil {
		return s.current, nil
	}
	if s.current != nil {
		_ = s.current.Close()
		s.current = nil
	}
	conn := s.first
	s.first = nil
	if conn == nil {
		var err error
		if conn, err = s.driver.connect(ctx, s.container); err != nil {
			if errors.Is(err, cove.Unavailable) {
				s.failure, s.failed = err, time.Now()
			}
			return nil, err
		}
	}
	c, err := carrier.New(ctx, conn)
	if err != nil {
		return nil, fmt.Errorf("the guest agent was not reached: %w", err)
	}
	s.current = c
	return c, nil
}

// drop gives a carrier up that does not work.
func (s *streams) drop(c *carrier.Carrier) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current == c {
		s.current = nil
	}
	_ = c.Close()
}

// Close implements link.
func (s *streams) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	_ = s.first.Close()
	if s.current != nil {
		_ = s.current.Close()
	}
}
