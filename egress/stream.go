package egress

import (
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
	for asked := false; ; asked = true {
		request, err := readRequest(conn)
		if err != nil {
			s.left(conn, true, !asked)
			return
		}
		s.taken()
		over := s.asks.Wait(s.ctx) != nil || s.answer(conn, request)
		if over || !s.waits() {
			s.left(conn, false, false)
			return
		}
	}
}

// answer does what the agent asks, and says whether the stream is over by that.
func (s *Session) answer(conn net.Conn, request wire.EgressRequest) bool {
	switch request.Kind {
	case wire.EgressLookup:
		return !reply(conn, s.lookup(request.Name))
	case wire.EgressConnect:
		return s.connect(conn, request)
	}
	return !reply(conn, &failure{wire.EgressForbidden, "there is no such request"})
}

// readRequest waits for a frame, and once it has begun for its end, but not for ever.
func readRequest(conn net.Conn) (wire.EgressRequest, error) {
	var request wire.EgressRequest
	if err := wire.ReadFrame(&frameReader{conn: conn}, &request); err != nil {
		return request, err
	}
	return request, conn.SetReadDeadline(time.Time{})
}

// frameReader reads a frame whose beginning may take for ever, and its rest may not.
type frameReader struct {
	conn  net.Conn
	begun bool
}

// Read reads from the stream.
func (r *frameReader) Read(p []byte) (int, error) {
	n, err := r.conn.Read(p)
	if n > 0 && err == nil && !r.begun {
		r.begun = true
		err = r.conn.SetReadDeadline(time.Now().Add(frameTimeout))
	}
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
