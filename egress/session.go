package egress

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/netip"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/covehq/cove"
)

// Bounds of what one sandbox may ask at the same time, and how fast.
const (
	maxLookups = 16 // that are under way
	maxAsking  = 64 // streams on which something was asked, and is no connection yet
	askRate    = 4000
	askBurst   = 1000
)

var (
	errClosed = errors.New("the sandbox is leaving")
	errRules  = errors.New("the policy was changed, and does not allow it any more")
)

// Session is the way out of one sandbox. Its methods may be called concurrently.
type Session struct {
	g     *Gateway
	o     SessionOptions
	log   *slog.Logger
	ctx   context.Context // ends with Close
	stop  context.CancelCauseFunc
	work  sync.WaitGroup
	rules atomic.Pointer[Rules]
	meter meter
	asks  *rate.Limiter
	diary *journal
	wake  chan struct{} // for keep; holds one
	lull  *time.Timer   // for keep

	lookups chan struct{} // holds what is under way

	mu      sync.Mutex
	spares  map[io.Closer]struct{} // every stream from the agent that is no connection
	links   map[*link]struct{}
	opening int  // streams that are being opened
	waiting int  // streams on which nothing is asked
	target  int  // how many should wait
	resting bool // until lull is over, what was taken is not replaced
	short   time.Time
	pause   time.Duration // before a stream is opened again, after errors
	resume  time.Time
	total   int64
	refused int64
}

// Open begins a session. A gateway that is closed returns one that is closed as well.
func (g *Gateway) Open(o SessionOptions) *Session {
	s := &Session{
		g: g, o: o, log: g.log.With("sandbox", o.ID),
		asks: rate.NewLimiter(askRate, askBurst), diary: newJournal(o.Event),
		wake: make(chan struct{}, 1), lull: time.NewTimer(0), lookups: make(chan struct{}, maxLookups),
		spares: map[io.Closer]struct{}{}, links: map[*link]struct{}{}, target: 1,
	}
	s.ctx, s.stop = context.WithCancelCause(g.ctx)
	s.setRules(o.Rules)
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		s.stop(errClosed)
		return s
	}
	g.sessions[s] = struct{}{}
	s.work.Go(s.keep)
	return s
}

// setRules makes rules those that decide from now on.
func (s *Session) setRules(r *Rules) {
	if r == nil {
		r = &Rules{mode: cove.NetworkNone}
	}
	s.rules.Store(r)
	s.meter.limit(r.limits)
}

// SetRules replaces the policy and closes the connections that it does not allow.
func (s *Session) SetRules(r *Rules) {
	s.setRules(r)
	secrets := s.secrets()
	// A link that is not in the list yet will read the new rules: it is put there first.
	s.mu.Lock()
	var over []*link
	for l := range s.links {
		if !s.still(l, secrets) {
			over = append(over, l)
		}
	}
	s.mu.Unlock()
	for _, l := range over {
		s.end(l, errRules)
	}
}

// still says whether the rules and secrets of now would make the connection as it is. s.mu
// is held.
func (s *Session) still(l *link, secrets []SecretValue) bool {
	if l.refused {
		return true // it leads nowhere
	}
	r := s.rules.Load()
	if !r.Connect(l.name, l.addr, l.port).Allowed {
		return false
	}
	if !l.decided {
		return true // and connect looks at the rest when it has
	}
	return l.opened == r.Opens(l.name, l.port) &&
		(!l.opened || reflect.DeepEqual(l.requests, r.requestsFor(l.name, l.port)) && reflect.DeepEqual(l.secrets, secrets))
}

// secrets returns the sandbox's secrets.
func (s *Session) secrets() []SecretValue {
	if s.o.Secrets == nil {
		return nil
	}
	return s.o.Secrets()
}

// Status returns what has passed so far; its Network is empty.
func (s *Session) Status() cove.NetworkStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	return cove.NetworkStatus{
		Open: len(s.links), Total: s.total, Refused: s.refused,
		Received: cove.Bytes(s.meter.received.Load()), Sent: cove.Bytes(s.meter.sent.Load()),
	}
}

// Log returns the events after the one with that number, of the last 4096; 0 is from the
// beginning. lost says that there were others, which are gone. changed is closed when
// there is more.
func (s *Session) Log(after uint64) (events []cove.NetworkEvent, lost bool, changed <-chan struct{}) {
	return s.diary.after(after)
}

// Close ends every connection and waits for that.
func (s *Session) Close() error {
	s.stop(errClosed)
	s.mu.Lock()
	for conn := range s.spares {
		_ = conn.Close()
	}
	var links []*link
	for l := range s.links {
		links = append(links, l)
	}
	s.mu.Unlock()
	for _, l := range links {
		s.end(l, errClosed)
	}
	s.work.Wait()
	s.g.mu.Lock()
	delete(s.g.sessions, s)
	s.g.mu.Unlock()
	return nil
}

// refuse counts a refusal and tells of it.
func (s *Session) refuse(kind cove.NetworkEventKind, name string, addr netip.Addr, port int, d Decision) {
	s.mu.Lock()
	s.refused++
	s.mu.Unlock()
	e := cove.NetworkEvent{Kind: kind, Rule: d.Rule, Reason: d.Reason, Name: name, Port: port}
	if addr.IsValid() {
		e.Address = addr.String()
	}
	s.diary.add(e)
}
