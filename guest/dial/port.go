package dial

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/guest/wire"
)

// DialPort connects to a TCP port on the sandbox's loopback. A port on which nothing
// listens is cove.Unavailable. The connection passes half-closes on, both ways.
func (c *Client) DialPort(ctx context.Context, port int) (net.Conn, error) {
	if port < 1 || port > 65535 {
		return nil, cove.Errorf(cove.Invalid, "dial port", strconv.Itoa(port), "no such port", "choose one from 1 to 65535")
	}
	return c.upgrade(ctx, "dial port", strconv.Itoa(port), dialTo(url.Values{"port": {strconv.Itoa(port)}}))
}

// DialSocket connects to a unix stream socket inside.
func (c *Client) DialSocket(ctx context.Context, path string) (net.Conn, error) {
	return c.upgrade(ctx, "dial socket", path, dialTo(url.Values{"path": {path}}))
}

// protocol is what a connection can be turned into.
type protocol struct{ name, endpoint string }

func dialTo(query url.Values) protocol {
	return protocol{wire.StreamProtocol, "/cove/dial?" + query.Encode()}
}

// upgrade opens a connection of its own and turns it into a raw stream.
func (c *Client) upgrade(ctx context.Context, op, id string, to protocol) (net.Conn, error) {
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	conn, err := c.dial(call)
	if err != nil {
		return nil, fail(call, op, id, err)
	}
	// The end of call breaks the reads and writes of the handshake, and only those.
	interrupt := context.AfterFunc(call, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	stream, err := handshake(call, conn, op, id, to)
	if !interrupt() && err == nil {
		err = fail(call, op, id, context.Cause(call))
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return stream, nil
}

// handshake asks for the stream and reads the reply.
func handshake(ctx context.Context, conn net.Conn, op, id string, to protocol) (net.Conn, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, base+to.endpoint, nil)
	if err != nil {
		return nil, fail(ctx, op, id, err)
	}
	request.Header.Set("Connection", "Upgrade")
	request.Header.Set("Upgrade", to.name)
	if err := request.Write(conn); err != nil {
		return nil, fail(ctx, op, id, err)
	}
	limited := &io.LimitedReader{R: conn, N: 64 << 10}
	reader := bufio.NewReader(limited)
	response, err := http.ReadResponse(reader, request)
	if err != nil {
		return nil, fail(ctx, op, id, err)
	}
	if response.StatusCode >= http.StatusBadRequest {
		return nil, failStatus(op, id, response)
	}
	if response.StatusCode != http.StatusSwitchingProtocols {
		return nil, fail(ctx, op, id, fmt.Errorf("the guest agent answers with status %d", response.StatusCode))
	}
	early, err := reader.Peek(reader.Buffered())
	if err != nil {
		return nil, fail(ctx, op, id, err)
	}
	return &streamConn{Conn: conn, early: early}, nil
}

// streamConn is an upgraded connection: what arrived with the reply to the handshake comes
// first.
type streamConn struct {
	net.Conn
	early []byte
}

// Read reads from the connection.
func (s *streamConn) Read(p []byte) (int, error) {
	if len(s.early) > 0 {
		n := copy(p, s.early)
		s.early = s.early[n:]
		return n, nil
	}
	return s.Conn.Read(p)
}

// Bare returns the connection beneath, which the standard library and others can hand to
// the kernel whole, if nothing is left that was read ahead of it.
func (s *streamConn) Bare() (net.Conn, bool) { return s.Conn, len(s.early) == 0 }

// CloseWrite tells the peer that no more will come.
func (s *streamConn) CloseWrite() error {
	half, ok := s.Conn.(interface{ CloseWrite() error })
	if !ok {
		return errors.New("the stream to this guest can't be closed in one direction")
	}
	return half.CloseWrite()
}
