package egress

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/covehq/cove/guest/wire"
)

// Bounds of what is resolved.
const (
	// answerFor is how long an answer holds: long enough that the connection after a lookup
	// goes where the lookup said, without a second query.
	answerFor     = 5 * time.Second
	noAnswerFor   = time.Second
	lookupTimeout = 10 * time.Second
	maxAnswers    = 1024 // that are kept
	maxQueries    = 64   // at the same time
	maxAddresses  = 16   // of one name
)

// failure is why a request of the guest's came to nothing, in the words of the wire.
type failure struct{ code, reason string }

// Error returns the reason.
func (f *failure) Error() string { return f.reason }

// resolver asks for the addresses of names, each once for all that want it.
type resolver struct {
	lookup func(ctx context.Context, name string) ([]netip.Addr, error)
	ctx    context.Context // ends with the gateway
	slots  chan struct{}
	work   sync.WaitGroup

	mu      sync.Mutex
	answers map[string]*answer
	closed  bool
}

// answer is what a name came to. Its fields are set when done is closed.
type answer struct {
	done  chan struct{}
	addrs []netip.Addr
	err   error
	until time.Time
}

// newResolver asks the name server at addr, or the system's where it is "".
func newResolver(ctx context.Context, o Options) *resolver {
	r := &resolver{lookup: o.Lookup, ctx: ctx, slots: make(chan struct{}, maxQueries), answers: map[string]*answer{}}
	if r.lookup == nil {
		r.lookup = systemLookup(o.Resolver)
	}
	return r
}

// systemLookup resolves by the machine's own configuration, or by one name server.
func systemLookup(server string) func(context.Context, string) ([]netip.Addr, error) {
	system := &net.Resolver{PreferGo: true}
	if server != "" {
		system.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
			var dialer net.Dialer
			return dialer.DialContext(ctx, network, server)
		}
	}
	return func(ctx context.Context, name string) ([]netip.Addr, error) {
		// The dot at the end keeps the machine's search domains out of it.
		return system.LookupNetIP(ctx, "ip", name+".")
	}
}

// resolve returns the addresses of a clean name, at least one. Its errors are *failure,
// or ctx's.
func (r *resolver) resolve(ctx context.Context, name string) ([]netip.Addr, error) {
	a := r.answer(name)
	select {
	case <-a.done:
		return a.addrs, a.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// answer returns the answer for a name: one that is known, or under way, or begun now.
func (r *resolver) answer(name string) *answer {
	r.mu.Lock()
	defer r.mu.Unlock()
	if a := r.answers[name]; a != nil && !a.over(time.Now()) {
		return a
	}
	a := &answer{done: make(chan struct{})}
	if r.closed {
		a.err = &failure{wire.EgressUnavailable, "the daemon is leaving"}
		close(a.done)
		return a
	}
	r.makeRoom()
	r.answers[name] = a
	r.work.Go(func() {
		a.addrs, a.err = r.ask(name)
		a.until = time.Now().Add(answerFor)
		if a.err != nil {
			a.until = time.Now().Add(noAnswerFor)
		}
		close(a.done)
	})
	return a
}

// over says that an answer is too old to be given.
func (a *answer) over(now time.Time) bool {
	select {
	case <-a.done:
		return now.After(a.until)
	default:
		return false
	}
}

// makeRoom forgets answers that are over, and others where there are too many.
func (r *resolver) makeRoom() {
	if len(r.answers) < maxAnswers {
		return
	}
	now := time.Now()
	for name, a := range r.answers {
		if a.over(now) {
			delete(r.answers, name)
		}
	}
	for name := range r.answers { // in no order, as anybody's turn to ask again
		if len(r.answers) < maxAnswers {
			return
		}
		delete(r.answers, name)
	}
}

// ask makes one query.
func (r *resolver) ask(name string) ([]netip.Addr, error) {
	ctx, cancel := context.WithTimeout(r.ctx, lookupTimeout)
	defer cancel()
	select {
	case r.slots <- struct{}{}:
		defer func() { <-r.slots }()
	case <-ctx.Done():
		return nil, &failure{wire.EgressUnavailable, fmt.Sprintf("%s was not resolved: too many lookups are under way", name)}
	}
	addrs, err := r.lookup(ctx, name)
	var dns *net.DNSError
	switch {
	case errors.As(err, &dns) && dns.IsNotFound, err == nil && len(addrs) == 0:
		return nil, &failure{wire.EgressNotFound, fmt.Sprintf("the name %s does not exist, or has no address", name)}
	case errors.As(err, &dns):
		return nil, &failure{wire.EgressUnavailable, fmt.Sprintf("%s was not resolved: %s", name, printable(dns.Err))}
	case err != nil:
		return nil, &failure{wire.EgressUnavailable, fmt.Sprintf("%s was not resolved: %s", name, printable(err.Error()))}
	}
	return distinct(addrs), nil
}

// distinct returns addresses in the order of the answer, each once and as IPv4 where it is.
func distinct(addrs []netip.Addr) []netip.Addr {
	var found []netip.Addr
	for _, addr := range addrs[:min(len(addrs), 4*maxAddresses)] {
		if addr = addr.Unmap(); !slices.Contains(found, addr) && len(found) < maxAddresses {
			found = append(found, addr)
		}
	}
	return found
}

// close waits for the queries that are under way, and begins no other. The resolver's
// context has ended.
func (r *resolver) close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.work.Wait()
}
