package sandbox

import (
	"context"
	"net"
	"strconv"

	"github.com/covehq/cove"
)

// DialPort connects to a TCP port on the sandbox's loopback. A port on which nothing
// listens is cove.Unavailable. The connection, which has CloseWrite, outlives ctx but not
// the sandbox; while it is open the sandbox is not idle.
func (s *Sandbox) DialPort(ctx context.Context, port int) (net.Conn, error) {
	const op = "dial port"
	if port < 1 || port > 65535 {
		return nil, cove.Errorf(cove.Invalid, op, strconv.Itoa(port), "there is no such port", "choose one from 1 to 65535")
	}
	dialing, err := s.use(ctx, op, strconv.Itoa(port))
	if err != nil {
		return nil, err
	}
	defer dialing.close()
	conn, err := dialing.client.DialPort(dialing.ctx, port)
	if err != nil {
		return nil, dialing.fail(err)
	}
	// From here on the connection is a use of its own, without the caller's context.
	open, err := s.use(context.WithoutCancel(ctx), op, strconv.Itoa(port))
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	context.AfterFunc(open.ctx, func() { _ = conn.Close() })
	return &portConn{Conn: conn, use: open}, nil
}

// portConn is a connection that ends with the sandbox.
type portConn struct {
	net.Conn
	use *use
}

// CloseWrite tells the peer that no more will come.
func (c *portConn) CloseWrite() error {
	half, ok := c.Conn.(interface{ CloseWrite() error })
	if !ok {
		return cove.Errorf(cove.NotSupported, "close write", "", "this connection can't be closed in one direction", "close it")
	}
	return half.CloseWrite()
}

// Close closes the connection.
func (c *portConn) Close() error {
	defer c.use.close()
	return c.Conn.Close()
}
