package intercept

import (
	"errors"
	"net"
	"sync"
	"time"
)

// guestConn is the guest's side of a connection. It can be looked ahead into, and tells
// when it is closed, by whomever.
type guestConn struct {
	net.Conn
	ahead  []byte // read already
	once   sync.Once
	closed chan struct{}
	err    error
}

func newGuestConn(conn net.Conn) *guestConn {
	return &guestConn{Conn: conn, closed: make(chan struct{})}
}

// peek returns the first byte, which stays to be read.
func (g *guestConn) peek(patience time.Duration) (byte, error) {
	if err := g.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return 0, err
	}
	first := make([]byte, 1)
	for {
		n, err := g.Conn.Read(first)
		if n == 1 {
			g.ahead = first
			return first[0], g.SetReadDeadline(time.Time{})
		}
		if err != nil {
			return 0, err
		}
	}
}

// Read implements net.Conn.
func (g *guestConn) Read(p []byte) (int, error) {
	if len(g.ahead) > 0 && len(p) > 0 {
		n := copy(p, g.ahead)
		g.ahead = g.ahead[n:]
		return n, nil
	}
	return g.Conn.Read(p)
}

// CloseWrite passes the end of what is sent on, where the connection can.
func (g *guestConn) CloseWrite() error {
	if half, ok := g.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

// Close implements net.Conn.
func (g *guestConn) Close() error {
	g.once.Do(func() {
		g.err = g.Conn.Close()
		close(g.closed)
	})
	return g.err
}

// listener hands one connection to an http.Server, which serves until it is closed.
type listener struct {
	conn   net.Conn // nil once it has been handed out
	closed <-chan struct{}
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	if conn := l.conn; conn != nil {
		l.conn = nil
		return conn, nil
	}
	<-l.closed
	return nil, net.ErrClosed
}

// Close implements net.Listener; the connection's own end is what counts.
func (l *listener) Close() error { return nil }

// Addr implements net.Listener.
func (l *listener) Addr() net.Addr { return &net.TCPAddr{} }
