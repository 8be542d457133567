package egress

import (
	"bufio"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/egress/domain"
	"github.com/covehq/cove/guest/wire"
)

// frameTimeout bounds the rest of a frame whose first byte has come, and an answer that the
// agent does not read.
const frameTimeout = 10 * time.Second

// spare opens one stream and answers what the agent asks on it.
func (s *Session) spare() {
	conn, err := s.o.Spare(s.ctx)
	if err == nil && conn == nil {
		err = net.ErrClosed
	}
	if !s.arrived(conn, err) {
		if conn != nil {
			_ = conn.Close()
		}
		if err != nil && s.ctx.Err() == nil {
			s.log.Debug("no spare stream to the agent", "error", err)
		}
		return
	}
	s.serve(conn)
}

// serve answers one request after another, and becomes the connection that the agent asks
// for. It closes conn.
func (s *Session) serve(conn net.Conn) {
	defer conn.Close()
	stream := newStream(conn)
	for asked := false; ; asked = true {
		request, err := stream.request()
		if err != nil {
			s.left(conn, true, !asked)
			return
		}
		s.taken()
		if !s.answer(stream, request) {
			return
		}
	}
}

// answer does what the agent asks, and says whether the stream waits for the next request.
func (s *Session) answer(conn *stream, request wire.EgressRequest) bool {
	over := s.asks.Wait(s.ctx) != nil
	if !over && request.Kind == wire.EgressConnect {
		over = s.connect(conn, request) || request.Early
	} else if !over {
		f := s.inform(request)
		// It waits before the agent has its answer, and can ask on it again.
		waits := s.waits()
		if reply(conn, f) && waits {
			return true
		}
		s.left(conn.Conn, waits, false)
		return false
	}
	if over || !s.waits() {
		s.left(conn.Conn, false, false)
		return false
	}
	return true
}

// inform returns what to answer to a request that is none for a connection.
func (s *Session) inform(request wire.EgressRequest) *failure {
	if request.Kind == wire.EgressLookup {
		return s.lookup(request.Name)
	}
	return &failure{wire.EgressForbidden, "there is no such request"}
}

// stream is one from the agent. More than a request is read of it at once, since what a
// program says may come with the request.
type stream struct {
	net.Conn
	ahead *bufio.Reader
	frame frameReader
}

// maxAhead is how much is read at once: a request, and the first message of TLS behind it.
const maxAhead = 2 << 10

func newStream(conn net.Conn) *stream {
	s := &stream{Conn: conn, frame: frameReader{conn: conn}}
	s.ahead = bufio.NewReaderSize(&s.frame, maxAhead)
	return s
}

// request waits for a request, and once it has begun for its end, but not for ever.
func (s *stream) request() (wire.EgressRequest, error) {
	var request wire.EgressRequest
	s.frame.begun = s.ahead.Buffered() > 0
	if err := wire.ReadFrame(s.ahead, &request); err != nil || !s.frame.hurried {
		return request, err
	}
	s.frame.hurried = false
	return request, s.Conn.SetReadDeadline(time.Time{})
}

// Read reads what was read ahead, and then from the agent.
func (s *stream) Read(p []byte) (int, error) {
	if s.ahead != nil {
		if s.ahead.Buffered() > 0 {
			return s.ahead.Read(p)
		}
		s.ahead = nil // a connection may be long, and mostly idle
	}
	return s.Conn.Read(p)
}

// CloseWrite tells the agent that no more will come.
func (s *stream) CloseWrite() error { return closeWrite(s.Conn) }

// Bare returns the connection beneath, if nothing is left that was read ahead of it.
func (s *stream) Bare() (net.Conn, bool) { return s.Conn, s.ahead == nil || s.ahead.Buffered() == 0 }

// frameReader reads a frame whose beginning may take for ever, and its rest may not.
type frameReader struct {
	conn    net.Conn
	begun   bool
	hurried bool // there is a deadline
}

// Read reads from the stream.
func (r *frameReader) Read(p []byte) (int, error) {
	if r.begun && !r.hurried {
		r.hurried = true
		if err := r.conn.SetReadDeadline(time.Now().Add(frameTimeout)); err != nil {
			return 0, err
		}
	}
	n, err := r.conn.Read(p)
	r.begun = r.begun || n > 0
	return n, err
}

// reply answers a request; a nil failure is yes. It says whether the stream still works.
func reply(conn net.Conn, f *failure) bool {
	answer := wire.EgressReply{Code: wire.EgressOK}
	if f != nil {
		answer = wire.EgressReply{Code: f.code, Message: printable(f.reason)}
	}
	if conn.SetWriteDeadline(time.Now().Add(frameTimeout)) != nil || wire.WriteFrame(conn, answer) != nil {
		return false
	}
	return conn.SetWriteDeadline(time.Time{}) == nil
}

// lookup answers whether a name may be reached and exists; nil is yes.
func (s *Session) lookup(name string) *failure {
	select {
	case s.lookups <- struct{}{}:
		defer func() { <-s.lookups }()
	case <-s.ctx.Done():
		return &failure{wire.EgressUnavailable, errClosed.Error()}
	}
	r := s.rules.Load()
	d := r.Name(name)
	if d.Allowed {
		name, _ = domain.Clean(name) // it was allowed, so it is one
		f := s.exists(r, d, name)
		if f == nil || f.code != wire.EgressForbidden {
			return f
		}
		d.Allowed, d.Reason = false, f.reason
	}
	s.refuse(cove.NetworkLookup, name, netip.Addr{}, 0, d)
	return &failure{wire.EgressForbidden, d.Reason}
}

// exists says whether a name that is allowed leads to an address that may be dialled.
func (s *Session) exists(r *Rules, d Decision, name string) *failure {
	if isPeer(name) {
		if s.o.Peer == nil {
			return &failure{wire.EgressForbidden, noPeers}
		}
		return nil
	}
	_, err := s.g.locate(s.ctx, r, d, name, netip.Addr{}, 0)
	return asFailure(err)
}

// asFailure returns what to tell the agent of an error of locate or dial.
func asFailure(err error) *failure {
	switch f, ok := err.(*failure); {
	case err == nil:
		return nil
	case ok:
		return f
	}
	return &failure{wire.EgressUnavailable, err.Error()}
}

const noPeers = "other sandboxes can't be reached here"

// parse checks what a guest says about where it wants to go.
func parse(request wire.EgressRequest) (name string, addr netip.Addr, f *failure) {
	if request.Name == "" {
		addr, err := netip.ParseAddr(request.Address)
		if err != nil || addr.Zone() != "" {
			return "", addr, &failure{wire.EgressForbidden, fmt.Sprintf("%q is no address", short(request.Address))}
		}
		return "", addr.Unmap(), nil
	}
	name, err := domain.Clean(request.Name)
	if err != nil {
		return "", addr, &failure{wire.EgressForbidden, fmt.Sprintf("the name %q %v", short(request.Name), err)}
	}
	return name, addr, nil
}
