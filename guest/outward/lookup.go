package outward

import (
	"net"
	"sync"
	"time"

	"github.com/covehq/cove/guest/wire"
)

// lookups asks the host about names: once for all who want to know the same at a time, and
// it remembers for a moment, since C libraries ask for each kind of address on its own.
type lookups struct {
	ask func(name string) string // returns a code of package wire

	mu     sync.Mutex
	byName map[string]*lookup
	asking int
}

type lookup struct {
	done chan struct{}
	code string    // after done
	at   time.Time // when it was done
}

const (
	// maxRemembered bounds the answers that are remembered, and those that are awaited.
	maxRemembered, maxAsking = 2048, 256
	// remembered is for how long.
	remembered = time.Second
	// lookupPatience bounds one lookup; C libraries have given up by then.
	lookupPatience = 15 * time.Second
)

func newLookups(ask func(string) string) *lookups {
	return &lookups{ask: ask, byName: map[string]*lookup{}}
}

// find returns what the host says about a name.
func (l *lookups) find(name string) string {
	l.mu.Lock()
	now := time.Now()
	found := l.byName[name]
	if found == nil || found.over() && now.Sub(found.at) > remembered {
		l.purge(now)
		if l.asking >= maxAsking || len(l.byName) >= maxRemembered {
			l.mu.Unlock()
			return wire.EgressUnavailable
		}
		found = &lookup{done: make(chan struct{})}
		l.byName[name] = found
		l.asking++
		l.mu.Unlock()
		code := l.ask(name)
		l.mu.Lock()
		l.asking--
		found.code, found.at = code, time.Now()
		close(found.done)
		l.mu.Unlock()
		return code
	}
	l.mu.Unlock()
	<-found.done
	return found.code
}

func (l *lookup) over() bool {
	select {
	case <-l.done:
		return true
	default:
		return false
	}
}

// purge drops what is old, where there is much.
func (l *lookups) purge(now time.Time) {
	if len(l.byName) < maxRemembered/2 {
		return
	}
	for name, found := range l.byName {
		if found.over() && now.Sub(found.at) > remembered {
			delete(l.byName, name)
		}
	}
}

// forget drops all answers: the policy has changed. Who waits for one gets it still.
func (l *lookups) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	clear(l.byName)
}

// lookup asks the host about one name.
func (w *Way) lookup(name string) string {
	request := wire.EgressRequest{Kind: wire.EgressLookup, Name: name}
	stream, reply, err := w.ask(func(stream *net.UnixConn) error { return wire.WriteFrame(stream, request) }, lookupPatience)
	if err != nil {
		return wire.EgressUnavailable
	}
	w.keep(stream)
	return reply.Code
}

// maxAsked bounds the names that the host is still to be told of.
const maxAsked = 64

// report has the host told of a name that was looked up in vain. Where there are many, some
// are left out.
func (w *Way) report(name string) {
	select {
	case w.asked <- name:
	default:
	}
}

// tell tells the host of them, one after the other.
func (w *Way) tell() {
	for {
		select {
		case <-w.ctx.Done():
			return
		case name := <-w.asked:
			w.lookups.find(name)
		}
	}
}
