package egress

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/guest/wire"
)

// link is a connection of a program inside: one that is being made, is made, or is told
// why it is not.
type link struct {
	name string
	port int
	ctx  context.Context
	stop context.CancelCauseFunc

	received, sent atomic.Int64

	// The session's mu guards what follows.
	addr     netip.Addr // that the program named, or that was dialled
	decided  bool       // what follows is set
	opened   bool       // by an Opener
	requests []cove.RequestRule
	secrets  []SecretValue
	refused  bool // it only gets a page that says so
	ends     []io.Closer
}

// begin makes a link, unless there are too many.
func (s *Session) begin(name string, addr netip.Addr, port int) (*link, *failure) {
	s.mu.Lock()
	defer s.mu.Unlock()
	most := s.rules.Load().limits.Connections
	if most <= 0 {
		most = cove.DefaultConnections
	}
	switch {
	case s.ctx.Err() != nil:
		return nil, &failure{wire.EgressUnavailable, errClosed.Error()}
	case len(s.links) >= most:
		return nil, &failure{wire.EgressUnavailable, fmt.Sprintf("the limit of %d connections is reached", most)}
	case s.meter.full():
		return nil, &failure{wire.EgressForbidden, errTotal.Error()}
	}
	l := &link{name: name, addr: addr, port: port}
	l.ctx, l.stop = context.WithCancelCause(s.ctx)
	s.links[l] = struct{}{}
	return l, nil
}

// end closes a link from outside of its own goroutine, which sees it and leaves.
func (s *Session) end(l *link, cause error) {
	l.stop(cause)
	s.mu.Lock()
	ends := l.ends
	s.mu.Unlock()
	for _, c := range ends {
		_ = c.Close()
	}
}

// over forgets a link.
func (s *Session) over(l *link) {
	l.stop(nil)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.links, l)
}

// hold has end close c as well. false says that the link has ended already.
func (s *Session) hold(l *link, c io.Closer) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	l.ends = append(l.ends, c)
	return l.ctx.Err() == nil
}

// drop takes back what hold did, for an end that is closed.
func (s *Session) drop(l *link, c io.Closer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, held := range l.ends {
		if held == c {
			l.ends = append(l.ends[:i:i], l.ends[i+1:]...)
			return
		}
	}
}

// connect does what the agent asks, and says whether the stream is over by that: it was
// the connection, or doesn't work.
func (s *Session) connect(conn *stream, request wire.EgressRequest) bool {
	name, addr, bad := parse(request)
	if bad != nil {
		s.refuse(cove.NetworkConnection, request.Name, netip.Addr{}, request.Port, Decision{Reason: bad.reason})
		return !reply(conn, bad)
	}
	l, full := s.begin(name, addr, request.Port)
	if full != nil {
		s.refuse(cove.NetworkConnection, name, addr, request.Port, Decision{Reason: full.reason})
		return !reply(conn, full)
	}
	defer s.over(l)
	s.hold(l, conn)
	r := s.rules.Load()
	d := r.Connect(name, addr, request.Port)
	if !d.Allowed {
		return s.turnAway(conn, l, d)
	}
	switch {
	case isPeer(name):
		return s.toPeer(conn, l, d)
	case name != "" && r.Opens(name, request.Port):
		return s.open(conn, l, r, d)
	}
	return s.pass(conn, l, r, d)
}

// turnAway refuses a connection that no rule allows, in HTTP where the program will speak
// that. It says whether the stream is over.
func (s *Session) turnAway(conn *stream, l *link, d Decision) bool {
	s.refuse(cove.NetworkConnection, l.name, l.addr, l.port, d)
	if l.port != 80 {
		return !reply(conn, &failure{wire.EgressForbidden, d.Reason})
	}
	s.mu.Lock()
	l.refused = true
	s.mu.Unlock()
	if reply(conn, nil) {
		servePage(bare(conn), d.Reason)
	}
	return true
}

// fail tells of a connection that was allowed and failed. It says whether the stream is
// over.
func (s *Session) fail(conn *stream, l *link, d Decision, err error) bool {
	if s.ctx.Err() != nil {
		return true
	}
	if cause := context.Cause(l.ctx); cause != nil {
		err = &failure{wire.EgressForbidden, cause.Error()}
	}
	f := asFailure(err)
	d.Allowed, d.Reason = false, f.reason
	if f.code == wire.EgressForbidden && l.ctx.Err() == nil {
		return s.turnAway(conn, l, d)
	}
	s.refuse(cove.NetworkConnection, l.name, l.addr, l.port, d)
	return !reply(conn, f)
}

// toPeer connects to another sandbox.
func (s *Session) toPeer(conn *stream, l *link, d Decision) bool {
	if s.o.Peer == nil {
		d.Reason = noPeers
		return s.turnAway(conn, l, d)
	}
	ctx, cancel := context.WithTimeout(l.ctx, dialTimeout)
	defer cancel()
	server, err := s.o.Peer(ctx, strings.TrimSuffix(l.name, peerSuffix), l.port)
	if err != nil {
		return s.fail(conn, l, d, &failure{wire.EgressUnavailable, fmt.Sprintf("%s:%d was not reached: %s", l.name, l.port, brief(err))})
	}
	defer server.Close()
	return s.run(conn, server, l, d)
}

// pass connects to a server and copies.
func (s *Session) pass(conn *stream, l *link, r *Rules, d Decision) bool {
	p, err := s.g.locate(l.ctx, r, d, l.name, l.addr, l.port)
	if err != nil {
		return s.fail(conn, l, d, err)
	}
	server, err := s.g.dial(l.ctx, p)
	if err != nil {
		return s.fail(conn, l, d, err)
	}
	defer server.Close()
	return s.run(conn, server, l, d)
}

// run makes the stream the connection to server, as long as the rules allow it.
func (s *Session) run(conn *stream, server net.Conn, l *link, d Decision) bool {
	if !s.hold(l, server) || !s.made(l, d, server) {
		return s.fail(conn, l, d, errRules)
	}
	if !reply(conn, nil) {
		return true
	}
	s.tellOpen(l, d)
	err := relay(l.ctx, conn, server, s.meter.out(&l.sent), s.meter.in(&l.received))
	s.tellClosed(l, d, err)
	return true
}

// made notes what a link has become and counts it, unless rules that came meanwhile do not
// allow it. server is nil where an Opener dials it.
func (s *Session) made(l *link, d Decision, server net.Conn) bool {
	var secrets []SecretValue
	if server == nil {
		secrets = s.secrets()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if server != nil && !isPeer(l.name) && s.g.proxy == nil {
		if remote, ok := server.RemoteAddr().(*net.TCPAddr); ok && s.g.o.Dial == nil {
			l.addr = remote.AddrPort().Addr().Unmap()
		}
	}
	l.decided = true
	if l.ctx.Err() != nil || !s.still(l, secrets) {
		return false
	}
	s.total++
	return true
}

// open has the session's Opener serve a connection that has to be looked into.
func (s *Session) open(conn *stream, l *link, r *Rules, d Decision) bool {
	if s.o.Opener == nil {
		d.Reason = "connections that have to be looked into can't be made here"
		return s.turnAway(conn, l, d)
	}
	p, err := s.g.locate(l.ctx, r, d, l.name, l.addr, l.port)
	if err != nil {
		return s.fail(conn, l, d, err)
	}
	requests, secrets := r.requestsFor(l.name, l.port), s.secrets()
	s.mu.Lock()
	l.opened, l.requests, l.secrets = true, requests, secrets
	s.mu.Unlock()
	if !s.made(l, d, nil) {
		return s.fail(conn, l, d, errRules)
	}
	if !reply(conn, nil) {
		return true
	}
	s.tellOpen(l, d)
	err = s.o.Opener.Serve(l.ctx, bare(conn), Opened{
		Sandbox: s.o.ID, Name: l.name, Port: l.port, Rules: requests, Secrets: secrets,
		Dial:  func(ctx context.Context) (net.Conn, error) { return s.dialOpened(ctx, l, p) },
		Event: func(e cove.NetworkEvent) { s.tellRequest(l, e) },
	})
	s.tellClosed(l, d, err)
	return true
}

// dialOpened connects an Opener to the place that was checked when the program connected.
func (s *Session) dialOpened(ctx context.Context, l *link, p place) (net.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(l.ctx, cancel)()
	conn, err := s.g.dial(ctx, p)
	if err != nil {
		return nil, err
	}
	c := &metered{Conn: conn, ctx: l.ctx, out: s.meter.out(&l.sent), in: s.meter.in(&l.received)}
	c.closed = func() { s.drop(l, conn) }
	if !s.hold(l, conn) {
		_ = c.Close()
		return nil, context.Cause(l.ctx)
	}
	return c, nil
}

// tellOpen tells of a connection that was made.
func (s *Session) tellOpen(l *link, d Decision) {
	s.diary.add(s.event(cove.NetworkConnection, l, d))
}

// tellClosed tells of the end of one.
func (s *Session) tellClosed(l *link, d Decision, err error) {
	e := s.event(cove.NetworkClosed, l, d)
	e.Received, e.Sent = cove.Bytes(l.received.Load()), cove.Bytes(l.sent.Load())
	if cause := context.Cause(l.ctx); cause != nil {
		e.Reason = cause.Error()
	} else if err != nil && !errors.Is(err, net.ErrClosed) {
		e.Reason = endOf(err)
	}
	s.diary.add(e)
}

// endOf says how a connection broke.
func endOf(err error) string {
	switch {
	case errors.Is(err, syscall.ECONNRESET):
		return "the connection was reset"
	case errors.Is(err, syscall.EPIPE):
		return "one side left while the other still sent"
	}
	return brief(err)
}

// tellRequest tells of what an Opener decided.
func (s *Session) tellRequest(l *link, e cove.NetworkEvent) {
	if e.Kind == "" {
		e.Kind = cove.NetworkRequest
	}
	if e.Name == "" {
		e.Name = l.name
	}
	if e.Port == 0 {
		e.Port = l.port
	}
	if !e.Allowed {
		s.mu.Lock()
		s.refused++
		s.mu.Unlock()
	}
	s.diary.add(e)
}

// event begins an event about a link that was allowed.
func (s *Session) event(kind cove.NetworkEventKind, l *link, d Decision) cove.NetworkEvent {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := cove.NetworkEvent{Time: time.Now().UTC(), Kind: kind, Allowed: true, Rule: d.Rule, Name: l.name, Port: l.port}
	if l.addr.IsValid() {
		e.Address = l.addr.String()
	}
	return e
}
