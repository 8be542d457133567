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
	tail   []byte // the last bytes of what was read in the handshake; nil after it
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
	n, err := g.Conn.Read(p)
	if g.tail != nil {
		g.tail = append(g.tail, p[:n]...)
		g.tail = append(g.tail[:0], g.tail[max(0, len(g.tail)-alertSize):]...)
	}
	return n, err
}

// alertSize is the length of a record that has an alert and no encryption.
const alertSize = 7

// alert returns the alert that a client ended a handshake with, where it is not encrypted.
// OpenSSL 3 sends it before it has changed its keys, and to crypto/tls, which has changed
// them, it is then a record that can't be decrypted.
func (g *guestConn) alert() (code byte, ok bool) {
	t := g.tail
	if len(t) != alertSize || t[0] != recordAlert || t[1] != 3 || t[3] != 0 || t[4] != 2 {
		return 0, false
	}
	return t[6], true
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
