package egress

import (
	"fmt"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/covehq/cove"
)

// Bounds of what a sandbox's log keeps. A guest can ask for thousands of things a second,
// more than anybody reads or a listener should have to write down, and what was refused
// twice in a second says nothing new.
const (
	maxEvents  = 4096
	eventRate  = 1000 // a second
	eventBurst = maxEvents
	sameFor    = time.Second
	maxSame    = 256
)

// journal is the log of one sandbox: a ring of events.
type journal struct {
	tell func(cove.NetworkEvent) // nil is fine

	telling sync.Mutex // held while tell is called, before mu

	mu      sync.Mutex
	ring    []cove.NetworkEvent // the event with number n is at (n-1) % maxEvents
	last    uint64
	changed chan struct{}
	allowed *rate.Limiter
	dropped int
	same    map[sameEvent]time.Time // refusals, and when they were told
}

// sameEvent is what makes two refusals the same.
type sameEvent struct {
	kind          cove.NetworkEventKind
	name, address string
	port          int
}

func newJournal(tell func(cove.NetworkEvent)) *journal {
	return &journal{
		tell: tell, changed: make(chan struct{}), same: map[sameEvent]time.Time{},
		allowed: rate.NewLimiter(eventRate, eventBurst),
	}
}

// add cleans an event and puts it in, unless there are too many.
func (j *journal) add(e cove.NetworkEvent) {
	e.Name, e.Address, e.Reason = printable(e.Name), printable(e.Address), printable(e.Reason)
	e.Method, e.Path, e.Rule = printable(e.Method), printable(e.Path), printable(e.Rule)
	if e.Time.IsZero() {
		e.Time = time.Now().UTC()
	}
	j.telling.Lock()
	defer j.telling.Unlock()
	for _, e := range j.keep(e) {
		if j.tell != nil {
			j.tell(e)
		}
	}
}

// keep puts an event into the ring and returns what was put in.
func (j *journal) keep(e cove.NetworkEvent) []cove.NetworkEvent {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.isRepeated(e) {
		return nil
	}
	if !j.allowed.AllowN(e.Time, 1) {
		j.dropped++
		return nil
	}
	var kept []cove.NetworkEvent
	if j.dropped > 0 {
		kept = append(kept, j.push(cove.NetworkEvent{
			Time: e.Time, Kind: e.Kind, Reason: fmt.Sprintf("%d events before this one were not kept: there were too many at once", j.dropped),
		}))
		j.dropped = 0
	}
	kept = append(kept, j.push(e))
	close(j.changed)
	j.changed = make(chan struct{})
	return kept
}

// isRepeated says whether the same was refused a moment ago. Requests are never the same:
// their paths differ.
func (j *journal) isRepeated(e cove.NetworkEvent) bool {
	if e.Allowed || e.Kind == cove.NetworkRequest || e.Kind == cove.NetworkClosed {
		return false
	}
	key := sameEvent{e.Kind, e.Name, e.Address, e.Port}
	if told, ok := j.same[key]; ok && e.Time.Sub(told) < sameFor {
		return true
	}
	if len(j.same) >= maxSame {
		clear(j.same)
	}
	j.same[key] = e.Time
	return false
}

// push numbers an event and puts it into the ring.
func (j *journal) push(e cove.NetworkEvent) cove.NetworkEvent {
	j.last++
	e.Seq = j.last
	if len(j.ring) < maxEvents {
		j.ring = append(j.ring, e)
	} else {
		j.ring[(e.Seq-1)%maxEvents] = e
	}
	return e
}

// after returns the events after a number, whether some between are gone, and a channel
// that is closed when there are more.
func (j *journal) after(number uint64) (events []cove.NetworkEvent, lost bool, changed <-chan struct{}) {
	j.mu.Lock()
	defer j.mu.Unlock()
	oldest := j.last - uint64(len(j.ring)) // the number before the oldest that is kept
	lost = number < oldest
	for n := max(number, oldest); n < j.last; n++ {
		events = append(events, j.ring[n%maxEvents])
	}
	return events, lost, j.changed
}
