package sandbox

import (
	"context"
	"errors"
	"fmt"
	"iter"
	stdruntime "runtime"
	"sync"
	"testing"

	"github.com/covehq/cove"
	"github.com/covehq/cove/store"
)

func (e *events) fill(n int) {
	for range n {
		e.publish(cove.EventUpdated, store.Record{ID: fmt.Sprint(e.last + 1)})
	}
}

// take returns the sequence numbers of the next n events.
func take(t *testing.T, events iter.Seq2[cove.Event, error], n int) (seqs []uint64) {
	t.Helper()
	if n == 0 {
		return nil
	}
	for event, err := range events {
		if err != nil {
			t.Fatalf("subscription failed: %v", err)
		}
		if event.Sandbox.ID != fmt.Sprint(event.Seq) {
			t.Errorf("event %d is about sandbox %s", event.Seq, event.Sandbox.ID)
		}
		if seqs = append(seqs, event.Seq); len(seqs) == n {
			break
		}
	}
	return seqs
}

func TestSubscribersBeginWhereTheyAsk(t *testing.T) {
	tests := []struct {
		name        string
		published   int
		after       uint64
		first, last uint64
	}{
		{"at the beginning", 3, 0, 1, 3},
		{"after what they have", 3, 2, 3, 3},
		{"with what is kept, when the beginning is not", eventsKept + 10, 0, 11, eventsKept + 10},
		{"with what is kept, when the next one is not", eventsKept + 10, 5, 11, eventsKept + 10},
		{"with the last one kept", eventsKept, eventsKept - 1, eventsKept, eventsKept},
		{"with everything when they count from before a restart", 3, 900, 1, 3},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			h := &Host{events: newEvents()}
			h.events.fill(test.published)
			seqs := take(t, h.Subscribe(t.Context(), test.after), int(test.last-test.first)+1)
			for i, seq := range seqs {
				if seq != test.first+uint64(i) {
					t.Fatalf("event %d has number %d, want %d", i, seq, test.first+uint64(i))
				}
			}
		})
	}
}

func TestSubscriberMissesNothingAfterTheCall(t *testing.T) {
	h := &Host{events: newEvents()}
	h.events.fill(2)
	subscription := h.Subscribe(t.Context(), FromNow)
	h.events.fill(1)
	if seqs := take(t, subscription, 1); seqs[0] != 3 {
		t.Errorf("first event = %d, want 3", seqs[0])
	}
}

func TestSubscriptionEndsWithItsContext(t *testing.T) {
	h := &Host{events: newEvents()}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for event, err := range h.Subscribe(ctx, 0) {
			t.Errorf("got %v, %v, want nothing", event, err)
		}
	}()
	cancel()
	<-ended
}

func TestSlowSubscriberIsDroppedAndToldSo(t *testing.T) {
	h := &Host{events: newEvents()}
	h.events.fill(1)
	var got []uint64
	var end error
	for event, err := range h.Subscribe(t.Context(), 0) {
		if err != nil {
			end = err
			break
		}
		if got = append(got, event.Seq); len(got) == 1 {
			h.events.fill(eventsKept + 5) // nobody waits for the subscriber
		}
	}
	if len(got) != 1 {
		t.Errorf("got %d events, want the first alone", len(got))
	}
	wantError(t, end, cove.Exhausted, "missed 5 events")
}

func TestSubscriptionEndsWhenTheHostCloses(t *testing.T) {
	r := newRig(t, Options{})
	s := r.create(cove.Spec{})
	if err := s.Destroy(t.Context()); err != nil {
		t.Fatal(err)
	}
	subscription := r.Subscribe(t.Context(), 0)
	if err := r.Close(t.Context()); err != nil {
		t.Fatalf("Close: %v", err)
	}
	n := 0
	var end error
	for _, err := range subscription {
		if end = err; err == nil {
			n++
		}
	}
	if n != 4 {
		t.Errorf("%d events before the end, want creating, running, stopped and removed", n)
	}
	wantError(t, end, cove.Unavailable, "closing")
}

func TestEventsHammer(t *testing.T) {
	h := &Host{events: newEvents()}
	const publishers, each = 4, 500
	var group sync.WaitGroup
	for range 8 {
		subscription := h.Subscribe(t.Context(), 0)
		group.Go(func() {
			last := uint64(0)
			for event, err := range subscription {
				if errors.Is(err, cove.Exhausted) {
					return
				}
				if err != nil || event.Seq != last+1 {
					t.Errorf("event %d after %d, %v, want them in order", event.Seq, last, err)
					return
				}
				if last = event.Seq; last == publishers*each {
					return
				}
			}
		})
	}
	for range publishers {
		group.Go(func() {
			for range each {
				h.events.publish(cove.EventUpdated, store.Record{})
				stdruntime.Gosched()
			}
		})
	}
	group.Wait()
}
