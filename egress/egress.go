// Package egress provides the way out of sandboxes: what a policy allows, by name, and the
// connections that come of it.
//
// A sandbox has no interface but loopback. Its agent asks for each lookup and connection
// on a stream that the host opened, and a Session answers: it decides by the rules,
// resolves the name once, checks every address that comes of it, and dials exactly one of
// those. What the guest says is a request and never a proof: a forged name only leads to
// the server of that name, where a rule allows it.
package egress

import (
	"context"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"

	"golang.org/x/net/proxy"

	"github.com/covehq/cove"
	"github.com/covehq/cove/egress/domain"
)

// Options are the operator's choices for a Gateway. The zero value is a direct way out
// with the system's name servers.
type Options struct {
	// Resolver is host:port of the name server to ask; "" is the system's.
	Resolver string
	// Proxy is the URL of an upstream proxy: http, https or socks5, with credentials where
	// it wants them. It resolves the names then, and has to guard what they lead to.
	Proxy string
	// Private returns ranges that are not public, and that may be reached nevertheless, where
	// a rule names an address or a whole name (no "*."). Addresses of this machine, loopback
	// included, are reached only where Private has exactly that address, as a prefix of full
	// length. Metadata services are never reached.
	// It is asked at each connection; nil is none.
	Private func() []netip.Prefix
	Logger  *slog.Logger // nil: slog.Default()

	// Lookup resolves a name, for tests; nil asks Resolver.
	Lookup func(ctx context.Context, name string) ([]netip.Addr, error)
	// Dial connects to an address that has been checked, for tests; nil is TCP.
	Dial func(ctx context.Context, addr netip.AddrPort) (net.Conn, error)
	// HostAddrs returns this machine's own addresses, for tests; nil are those of its
	// interfaces. It is asked at most every few seconds.
	HostAddrs func() []netip.Addr
}

// Gateway is the way out of all sandboxes of a host. Its methods may be called
// concurrently.
type Gateway struct {
	o        Options
	log      *slog.Logger
	guard    *guard
	resolver *resolver
	proxy    proxy.ContextDialer // nil: none
	ctx      context.Context     // ends with Close
	stop     context.CancelFunc

	mu       sync.Mutex
	closed   bool
	sessions map[*Session]struct{}
}

// New returns a gateway, or a cove.Invalid error for options that can't be.
func New(o Options) (*Gateway, error) {
	g := &Gateway{o: o, log: o.Logger, sessions: map[*Session]struct{}{}}
	if g.log == nil {
		g.log = slog.Default()
	}
	if o.Resolver != "" {
		host, port, err := net.SplitHostPort(o.Resolver)
		if _, ok := domain.ParsePort(port); err != nil || host == "" || !ok {
			return nil, cove.Errorf(cove.Invalid, "resolver", short(o.Resolver), "it is not host:port", "write a name server as in 9.9.9.9:53")
		}
	}
	var err error
	if g.proxy, err = newProxy(o.Proxy); err != nil {
		return nil, err
	}
	g.guard = &guard{own: o.HostAddrs, private: o.Private}
	if g.guard.private == nil {
		g.guard.private = func() []netip.Prefix { return nil }
	}
	if g.guard.own == nil {
		g.guard.own = interfaceAddrs
	}
	g.ctx, g.stop = context.WithCancel(context.Background())
	g.resolver = newResolver(g.ctx, o)
	return g, nil
}

// Close ends all sessions, and waits for them.
func (g *Gateway) Close() error {
	g.mu.Lock()
	g.closed = true
	sessions := slices.Collect(maps.Keys(g.sessions))
	g.mu.Unlock()
	g.stop()
	for _, s := range sessions {
		_ = s.Close() // it never fails
	}
	g.resolver.close()
	return nil
}

// SessionOptions describe the way out of one sandbox.
type SessionOptions struct {
	ID    string
	Rules *Rules // nil allows nothing
	// Spare opens a stream on which the agent may ask: see wire.EgressPath. Its errors are
	// retried with growing pauses until Close, which ends ctx. A stream that has a method
	// Bare, as those of dial.Client.DialEgress, is copied by the kernel where that is faster.
	Spare func(ctx context.Context) (net.Conn, error)
	// Peer connects to a port of the sandbox that a rule sandbox:NAME:PORT names; nil
	// refuses such connections. The connection outlives ctx.
	Peer func(ctx context.Context, name string, port int) (net.Conn, error)
	// Opener serves connections to names that have request rules or secrets; nil refuses
	// them.
	Opener Opener
	// Secrets returns the sandbox's secrets, for Opener; nil is none.
	Secrets func() []SecretValue
	// Event hears of each event of the log, one at a time; it must not block. nil is fine.
	Event func(cove.NetworkEvent)
}

// Opener terminates connections that have to be looked into.
type Opener interface {
	// Serve speaks to the guest on guest as the server of c.Name and c.Port, TLS or plain,
	// decides each request by c.Rules, and sends it on by c.Dial. It returns when the
	// connection is over, and at the latest when ctx ends; the caller closes guest.
	Serve(ctx context.Context, guest net.Conn, c Opened) error
}

// Opened is a connection that is looked into.
type Opened struct {
	Sandbox string // its id
	Name    string
	Port    int
	Rules   []cove.RequestRule // those for this name and port, in order; none allow every request
	Secrets []SecretValue      // all of the sandbox's, so that a misplaced placeholder is found
	// Dial connects to the checked address of Name and Port. It may be called more than
	// once; the caller closes what it returns.
	Dial func(ctx context.Context) (net.Conn, error)
	// Event adds to the sandbox's log; Time, Name and Port are filled in where they are zero.
	Event func(cove.NetworkEvent)
}

// SecretValue is a secret with its value.
type SecretValue struct {
	Name        string
	Placeholder string // what programs inside see
	Value       string
	Hosts       []string // NAME or *.NAME, with :PORT where that is not 443
	In          []cove.SecretPlace
}
