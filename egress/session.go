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
	maxWaiting = 16 // spare streams on which nothing is asked yet
	maxLookups = 16 // that are under way
	maxAsking  = 64 // streams on which something was asked, and is no connection yet
	askRate    = 4000
	askBurst   = 1000
	calmAfter  = 2 * time.Second // without a shortage of spares, fewer are kept
	shortPause = 50 * time.Millisecond
	longPause  = 5 * time.Second
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

	lookups chan struct{} // holds what is under way

	mu      sync.Mutex
	spares  map[io.Closer]struct{} // every stream from the agent that is no connection
	links   map[*link]struct{}
	opening int // streams that are being opened
	waiting int // streams on which nothing is asked
	target  int // how many should wait
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
		wake: make(chan struct{}, 1), lookups: make(chan struct{}, maxLookups),
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

// keep opens spare streams as they are taken, until the session ends.
func (s *Session) keep() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		next := s.fill()
		if next > 0 {
			timer.Reset(next)
		}
		select {
		case <-s.ctx.Done():
			return
		case <-s.wake:
		case <-timer.C:
		}
	}
}

// fill begins as many streams as are missing, and returns when to look again; 0 is when
// woken.
func (s *Session) fill() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if s.target > 1 && now.Sub(s.short) > calmAfter {
		s.target, s.short = s.target/2, now
	}
	if left := s.resume.Sub(now); left > 0 {
		return left
	}
	want := s.target
	if s.pause > 0 {
		want = 1 // until one works
	}
	for ; s.waiting+s.opening < want && len(s.spares)-s.waiting-len(s.links) < maxAsking && s.ctx.Err() == nil; s.opening++ {
		s.work.Go(s.spare)
	}
	if s.target > 1 {
		return calmAfter
	}
	return 0
}

// poke makes keep look again.
func (s *Session) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// arrived notes a stream that was opened, or could not be, and whether it is to be served.
func (s *Session) arrived(stream io.Closer, err error) bool {
	defer s.poke()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.opening--
	if err == nil && s.ctx.Err() == nil {
		s.spares[stream] = struct{}{}
		s.waiting++
		return true
	}
	s.slower()
	return false
}

// slower lengthens the pause before the next stream is opened. s.mu is held.
func (s *Session) slower() {
	s.pause = min(max(2*s.pause, shortPause), longPause)
	s.resume = time.Now().Add(s.pause)
}

// taken notes that the agent asks something on a stream that waited.
func (s *Session) taken() {
	defer s.poke()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pause, s.resume = 0, time.Time{}
	if s.waiting--; s.waiting == 0 {
		s.target, s.short = min(2*s.target, maxWaiting), time.Now()
	}
}

// waits notes that a stream waits again, and says whether it may: enough others do.
func (s *Session) waits() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiting >= maxWaiting {
		return false
	}
	if s.waiting++; s.waiting < s.target {
		s.poke()
	}
	return true
}

// left notes that a stream is gone. waited says that it was waiting, and unused that
// nothing was ever asked on it: an agent that closes what it is given gets it more slowly.
func (s *Session) left(stream io.Closer, waited, unused bool) {
	defer s.poke()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.spares, stream)
	if waited {
		s.waiting--
	}
	if unused {
		s.slower()
	}
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
