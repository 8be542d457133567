package carrier

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/covehq/cove"
)

// Stream is a connection to an agent that a Line may use, and nobody else.
type Stream struct {
	net.Conn
	// Forget, if not nil, clears what the connection went by. It is called when that broke
	// and another is to take its place; not by Close, after which nothing is left to go by.
	Forget func()
	// Said, if not nil, returns what was complained of at the other end, for an error's text.
	Said func() string
}

// Line is the way to an agent over a carrier, which it renews when that broke. Its methods
// may be called concurrently.
type Line struct {
	open func(context.Context) (*Stream, error)
	life context.Context // ends with Close
	end  context.CancelFunc

	// turn has room for one, who may touch what is below. It is no lock, for who waits for it
	// has a context: whoever has it may be waiting for an engine that is silent.
	turn    chan struct{}
	stream  *Stream  // that the carrier goes over, or the first one is to; nil: none
	carrier *Carrier // nil: not yet
	failure error    // of the last attempt that found nobody, at failed
	failed  time.Time
}

// NewLine returns a line over first, which may be nil, and then over what open returns: each
// time a fresh connection. open ends with its context. Where its error is cove.Unavailable,
// nobody who waited meanwhile tries again: they share it.
func NewLine(first *Stream, open func(context.Context) (*Stream, error)) *Line {
	l := &Line{open: open, turn: make(chan struct{}, 1), stream: first}
	l.life, l.end = context.WithCancel(context.Background())
	return l
}

// Dial opens a stream to the agent, as Carrier.Dial does, over a carrier that works. After
// Close the error is cove.Gone.
func (l *Line) Dial(ctx context.Context) (net.Conn, error) {
	const tries = 2 // one with a carrier that has broken unseen
	var failed error
	for range tries {
		c, err := l.current(ctx)
		if err != nil {
			return nil, err
		}
		conn, err := c.Dial(ctx)
		if err == nil || ctx.Err() != nil {
			return conn, err
		}
		var one *StreamError
		if errors.As(err, &one) {
			return nil, err
		}
		_ = c.Close() // it may not have seen yet that it is broken
		failed = err
	}
	return nil, failed
}

// current returns the carrier that works, as far as is known, or a new one.
func (l *Line) current(ctx context.Context) (*Carrier, error) {
	began := time.Now()
	select {
	case l.turn <- struct{}{}:
		defer func() { <-l.turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-l.life.Done():
		return nil, cove.Gone
	}
	if l.life.Err() != nil {
		return nil, cove.Gone
	}
	if l.failed.After(began) {
		return nil, l.failure
	}
	if l.carrier != nil {
		if l.carrier.Err() == nil {
			return l.carrier, nil
		}
		l.drop()
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(l.life, cancel)()
	err := l.renew(ctx)
	if err != nil && l.life.Err() != nil {
		return nil, cove.Gone
	}
	return l.carrier, err
}

// renew makes a carrier. It is called by who has the turn, as drop is.
func (l *Line) renew(ctx context.Context) (err error) {
	if l.stream == nil {
		if l.stream, err = l.open(ctx); err != nil {
			l.stream = nil
			if errors.Is(err, cove.Unavailable) {
				l.failure, l.failed = err, time.Now()
			}
			return err
		}
	}
	if l.carrier, err = New(ctx, l.stream.Conn); err == nil {
		return nil
	}
	err = fmt.Errorf("the guest agent was not reached: %w", err)
	if l.stream.Said != nil {
		if said := l.stream.Said(); said != "" {
			err = fmt.Errorf("%w: %s", err, said)
		}
	}
	l.drop()
	return err
}

// drop gives up what broke.
func (l *Line) drop() {
	if l.carrier != nil {
		_ = l.carrier.Close()
	}
	if l.stream.Forget != nil && l.life.Err() == nil {
		l.stream.Forget()
	}
	l.stream, l.carrier = nil, nil
}

// Close ends the line with all of its streams, and what is being opened. It may be called
// more than once.
func (l *Line) Close() {
	l.end()
	l.turn <- struct{}{}
	defer func() { <-l.turn }()
	switch {
	case l.carrier != nil:
		_ = l.carrier.Close()
	case l.stream != nil:
		_ = l.stream.Close()
	}
	l.stream, l.carrier = nil, nil
}
