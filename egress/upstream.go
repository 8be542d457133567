package egress

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"golang.org/x/net/proxy"

	"github.com/covehq/cove"
	"github.com/covehq/cove/guest/wire"
)

// maxProxyReply bounds the header of a proxy's reply.
const maxProxyReply = 64 << 10

// newProxy returns a dialler by an upstream proxy, or nil for "". Its errors never have the
// URL's credentials.
func newProxy(text string) (proxy.ContextDialer, error) {
	if text == "" {
		return nil, nil
	}
	const hint = "write it as http://HOST:PORT, https://HOST:PORT or socks5://HOST:PORT"
	u, err := url.Parse(text)
	if err != nil || u.Hostname() == "" {
		return nil, cove.Errorf(cove.Invalid, "upstream proxy", "", "the URL can't be read", hint)
	}
	switch u.Scheme {
	case "http", "https":
		return newConnectProxy(u), nil
	case "socks5", "socks5h":
		var auth *proxy.Auth
		if u.User != nil {
			password, _ := u.User.Password()
			auth = &proxy.Auth{User: u.User.Username(), Password: password}
		}
		dialer, err := proxy.SOCKS5("tcp", withPort(u, "1080"), auth, new(net.Dialer))
		if err != nil {
			return nil, cove.Errorf(cove.Invalid, "upstream proxy", u.Redacted(), "it can't be used", hint)
		}
		return dialer.(proxy.ContextDialer), nil // as its documentation promises
	}
	return nil, cove.Errorf(cove.Invalid, "upstream proxy", u.Redacted(), "there is no such kind of proxy", hint)
}

// withPort returns a URL's host and port.
func withPort(u *url.URL, port string) string {
	if u.Port() != "" {
		port = u.Port()
	}
	return net.JoinHostPort(u.Hostname(), port)
}

// connectProxy dials by an HTTP proxy's CONNECT.
type connectProxy struct {
	addr          string
	tls           *tls.Config // nil for http
	authorization string
}

func newConnectProxy(u *url.URL) *connectProxy {
	p := &connectProxy{addr: withPort(u, "80")}
	if u.Scheme == "https" {
		p.addr = withPort(u, "443")
		p.tls = &tls.Config{ServerName: u.Hostname(), NextProtos: []string{"http/1.1"}}
	}
	if u.User != nil {
		password, _ := u.User.Password()
		p.authorization = "Basic " + base64.StdEncoding.EncodeToString([]byte(u.User.Username()+":"+password))
	}
	return p
}

// DialContext connects to addr, host and port, by way of the proxy.
func (p *connectProxy) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, network, p.addr)
	if err != nil {
		return nil, &failure{wire.EgressUnavailable, "the upstream proxy was not reached: " + brief(err)}
	}
	interrupt := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	through, err := p.handshake(ctx, conn, addr)
	if !interrupt() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return through, nil
}

// handshake asks the proxy for a connection.
func (p *connectProxy) handshake(ctx context.Context, conn net.Conn, addr string) (net.Conn, error) {
	if p.tls != nil {
		secure := tls.Client(conn, p.tls)
		if err := secure.HandshakeContext(ctx); err != nil {
			return nil, &failure{wire.EgressUnavailable, "the upstream proxy was not reached: " + brief(err)}
		}
		conn = secure
	}
	request := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: addr}, Host: addr, Header: http.Header{}}
	if p.authorization != "" {
		request.Header.Set("Proxy-Authorization", p.authorization)
	}
	if err := request.Write(conn); err != nil {
		return nil, &failure{wire.EgressUnavailable, "the upstream proxy did not answer: " + brief(err)}
	}
	reader := bufio.NewReader(io.LimitReader(conn, maxProxyReply))
	reply, err := http.ReadResponse(reader, request)
	if err != nil {
		return nil, &failure{wire.EgressUnavailable, "the upstream proxy did not answer: " + brief(err)}
	}
	if reply.StatusCode/100 != 2 {
		return nil, &failure{wire.EgressUnavailable,
			fmt.Sprintf("the upstream proxy refuses %s: %s", addr, printable(reply.Status))}
	}
	early, err := reader.Peek(reader.Buffered())
	if err != nil || len(early) == 0 {
		return conn, err
	}
	return &begunConn{Conn: conn, early: bytes.NewReader(early)}, nil
}

// begunConn is a connection of which the beginning has been read already.
type begunConn struct {
	net.Conn
	early *bytes.Reader
}

// Read reads from the connection.
func (c *begunConn) Read(p []byte) (int, error) {
	if c.early.Len() > 0 {
		return c.early.Read(p)
	}
	return c.Conn.Read(p)
}

// CloseWrite tells the server that no more will come.
func (c *begunConn) CloseWrite() error { return closeWrite(c.Conn) }
