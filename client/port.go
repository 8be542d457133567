package client

import (
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
	"github.com/covehq/cove/internal/httpapi"
)

// Ports returns the TCP ports inside on which something listens, by their numbers, as the
// guest tells it.
func (s *Sandbox) Ports(ctx context.Context) ([]cove.ListeningPort, error) {
	var reply httpapi.Ports
	err := s.client.call(ctx, s.request("list ports", http.MethodGet, "/ports"), &reply)
	return reply.Ports, err
}

// WaitPort returns once something inside listens on the port, or with an error when the
// sandbox or ctx ends.
func (s *Sandbox) WaitPort(ctx context.Context, port int) error {
	r := s.request("wait for port", http.MethodGet, "/ports")
	r.query = url.Values{"wait": {strconv.Itoa(port)}, "timeout": {waitPiece}}
	for {
		err := s.client.call(ctx, r, nil)
		if ctx.Err() == nil && errors.Is(err, cove.Timeout) {
			continue
		}
		return err
	}
}

// waitPiece is how long one request of WaitPort lasts: what is between client and daemon
// ends those that are silent for long.
const waitPiece = "30s"

// Preview returns an address of a port inside for a browser, on an origin of the port's
// own, where the daemon serves previews. A ttl of 0 is cove.DefaultPreviewTTL. Who has the
// address can use the port.
func (s *Sandbox) Preview(ctx context.Context, port int, ttl cove.Duration) (cove.Preview, error) {
	r := s.request("preview", http.MethodPost, "/previews")
	r.in = cove.PreviewRequest{Port: port, TTL: ttl}
	var made cove.Preview
	err := s.client.call(ctx, r, &made)
	return made, err
}

// RevokePreviews makes every address worthless that Preview has returned for the port.
func (s *Sandbox) RevokePreviews(ctx context.Context, port int) error {
	return s.client.call(ctx, s.request("revoke previews", http.MethodDelete, "/previews/"+strconv.Itoa(port)), nil)
}

// PortURL returns the address at which the daemon proxies HTTP and WebSocket to a port
// inside. It ends in a slash; Client.HTTP reaches it also through a unix socket.
func (s *Sandbox) PortURL(port int) string {
	return s.client.URL(sandboxPath(s.ID) + "/ports/" + strconv.Itoa(port) + "/")
}

// DialPort opens a TCP connection to a port on the loopback inside. It returns an error
// that is cove.Unavailable when nothing listens there. ctx bounds the dialling alone. The
// connection has a method CloseWrite.
func (s *Sandbox) DialPort(ctx context.Context, port int) (net.Conn, error) {
	call := s.request("dial port", http.MethodGet, "/ports/"+strconv.Itoa(port))
	call.header = http.Header{"Connection": {"Upgrade"}, "Upgrade": {httpapi.UpgradeTCP}}
	response, err := s.client.send(ctx, call)
	if err != nil {
		return nil, err
	}
	stream, ok := response.Body.(io.ReadWriteCloser)
	if response.StatusCode != http.StatusSwitchingProtocols || !ok {
		response.Body.Close()
		return nil, cove.Errorf(cove.Unavailable, call.op, s.ID,
			"the server did not switch to a raw connection, but answered "+response.Status,
			"something between client and daemon does not pass upgrades; connect without it")
	}
	return &portConn{ReadWriteCloser: stream, port: port, id: s.ID}, nil
}

// portConn is an upgraded connection as a net.Conn. It has no deadlines: the HTTP client
// does not hand out what is beneath.
type portConn struct {
	io.ReadWriteCloser
	port int
	id   string
}

type portAddr string

// Network returns "tcp".
func (portAddr) Network() string { return "tcp" }

// String returns sandbox:port.
func (a portAddr) String() string { return string(a) }

// CloseWrite ends what is sent; what the other side still sends can be read.
func (c *portConn) CloseWrite() error {
	if half, ok := c.ReadWriteCloser.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return http.ErrNotSupported
}

func (c *portConn) LocalAddr() net.Addr  { return portAddr("client") }
func (c *portConn) RemoteAddr() net.Addr { return portAddr(fmt.Sprintf("%s:%d", c.id, c.port)) }

func (c *portConn) SetDeadline(time.Time) error      { return errNoDeadline() }
func (c *portConn) SetReadDeadline(time.Time) error  { return errNoDeadline() }
func (c *portConn) SetWriteDeadline(time.Time) error { return errNoDeadline() }

func errNoDeadline() error {
	return fmt.Errorf("a connection through the daemon has no deadlines: %w", http.ErrNotSupported)
}
