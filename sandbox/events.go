package sandbox

import (
	"context"
	"fmt"
	"iter"
	"sync"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/store"
)

// FromNow, as the position to subscribe after, replays nothing.
const FromNow = ^uint64(0)

const (
	// eventsKept is how many events a new or slow subscriber can still get.
	eventsKept = 1024
	// eventBatch bounds what is copied for a subscriber while publishers wait.
	eventBatch = 64
)

// events is a ring that publishers write and every subscriber reads at its own pace. A
// subscriber that the ring has overtaken is dropped; nobody waits for it.
type events struct {
	mu      sync.Mutex
	ring    []event // the event with sequence number n is at (n-1) % eventsKept
	last    uint64  // sequence number of the newest, or 0
	changed chan struct{}
	closed  bool
}

// event holds the record itself; its view is made for those who want one.
type event struct {
	time   time.Time
	kind   cove.EventType
	record store.Record
	port   *cove.ListeningPort
}

func newEvents() *events {
	return &events{changed: make(chan struct{})}
}

func (e *events) publish(kind cove.EventType, r store.Record) { e.publishPort(kind, r, nil) }

// publishPort publishes an event about a port, or about none.
func (e *events) publishPort(kind cove.EventType, r store.Record, port *cove.ListeningPort) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return
	}
	r.Handle = nil
	e.last++
	next := event{time: time.Now().UTC(), kind: kind, record: r, port: port}
	if len(e.ring) < eventsKept {
		e.ring = append(e.ring, next)
	} else {
		e.ring[(e.last-1)%eventsKept] = next
	}
	e.signal()
}

// close ends every subscription once it has seen what there is.
func (e *events) close() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.closed {
		e.closed = true
		e.signal()
	}
}

func (e *events) signal() {
	close(e.changed)
	e.changed = make(chan struct{})
}

// oldest is the sequence number of the oldest event in the ring. The caller holds mu.
func (e *events) oldest() uint64 {
	if e.last < eventsKept {
		return 1
	}
	return e.last - eventsKept + 1
}

// start turns what a subscriber asked for into the sequence number to read next.
func (e *events) start(after uint64) uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case after == FromNow:
		return e.last + 1
	case after > e.last: // it counts from before a restart: all of ours is new to it
		return e.oldest()
	}
	return max(after+1, e.oldest())
}

// read returns events from next on, in order. Without any it returns a channel that is
// closed when there may be. It fails when next has left the ring.
func (e *events) read(next uint64) ([]cove.Event, <-chan struct{}, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if oldest := e.oldest(); next < oldest {
		return nil, nil, &cove.Error{
			Code: cove.Exhausted, Op: "subscribe",
			Err:  fmt.Errorf("the subscriber is too slow and missed %d events", oldest-next),
			Hint: fmt.Sprintf("list the sandboxes and subscribe again after %d", e.last),
		}
	}
	var batch []cove.Event
	for ; next <= e.last && len(batch) < eventBatch; next++ {
		kept := e.ring[(next-1)%eventsKept]
		batch = append(batch, cove.Event{Seq: next, Time: kept.time, Type: kept.kind, Sandbox: kept.record.View(), Port: kept.port})
	}
	if batch == nil && e.closed {
		return nil, nil, cove.Wrap(errClosed, "subscribe", "")
	}
	return batch, e.changed, nil
}

// Events returns the events after the one with that sequence number that are still kept,
// without waiting for others, as far as they are of sandboxes that the caller sees. It may
// be iterated once.
func (h *Host) Events(ctx context.Context, after uint64) iter.Seq2[cove.Event, error] {
	next, caller := h.events.start(after), CallerOf(ctx)
	return func(yield func(cove.Event, error) bool) {
		for {
			batch, _, err := h.events.read(next)
			if err != nil {
				yield(cove.Event{}, err)
				return
			}
			for _, event := range batch {
				if caller.Sees(event.Sandbox.Owner) && !yield(event, nil) {
					return
				}
			}
			if len(batch) == 0 {
				return
			}
			next += uint64(len(batch))
		}
	}
}

// Subscribe returns the events after the one with that sequence number: those that are
// still kept at once, the others as they come. 0 means all that is kept, FromNow none of
// it. What counts as new is fixed by the call, so nothing that happens between the call
// and the first iteration is missed. Events of sandboxes that the caller does not see are
// left out.
//
// The sequence ends with ctx. It ends with an error that is cove.Exhausted for a
// subscriber that falls too far behind, and cove.Unavailable when the host closes.
func (h *Host) Subscribe(ctx context.Context, after uint64) iter.Seq2[cove.Event, error] {
	next, caller := h.events.start(after), CallerOf(ctx)
	return func(yield func(cove.Event, error) bool) {
		for ctx.Err() == nil {
			batch, changed, err := h.events.read(next)
			if err != nil {
				yield(cove.Event{}, err)
				return
			}
			for _, event := range batch {
				if ctx.Err() != nil || caller.Sees(event.Sandbox.Owner) && !yield(event, nil) {
					return
				}
				next++
			}
			if len(batch) > 0 {
				continue
			}
			select {
			case <-changed:
			case <-ctx.Done():
			}
		}
	}
}
