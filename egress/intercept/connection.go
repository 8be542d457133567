package intercept

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/egress"
)

const (
	// maxHead bounds the head of a request and of a reply.
	maxHead = 1 << 20
	// maxStreams bounds the requests of one connection that are served at the same time,
	// and with them the connections to the server.
	maxStreams = 100
	// The types of records of TLS, RFC 8446, section 5.1: a connection begins with the
	// second one.
	recordAlert     = 0x15
	recordHandshake = 0x16
)

// connection is one that is being served.
type connection struct {
	opener  *Opener
	opened  egress.Opened
	name    string // canonical
	guest   *guestConn
	secure  bool // the guest speaks TLS, and so does the server
	secrets *secrets

	modern, legacy *http.Transport // the second one speaks HTTP/1 only, for upgrades
	proxy          *httputil.ReverseProxy

	asked   atomic.Bool // there was a request
	telling sync.Mutex  // events are told one at a time

	mu    sync.Mutex
	over  bool
	group sync.WaitGroup // of handlers and background reads; grows only until over
}

// serve speaks to the guest until the connection is over.
func (c *connection) serve(ctx context.Context, cancel context.CancelFunc) error {
	first, err := c.guest.peek(c.opener.o.HeadTimeout)
	if errors.Is(err, io.EOF) {
		return nil // opened for later, and never used
	} else if err != nil {
		return c.fail("the program said nothing", err)
	}
	c.secure = first == recordHandshake
	c.secrets = newSecrets(c.opened.Secrets, c.name, c.opened.Port, c.secure)
	var served net.Conn = c.guest
	if c.secure {
		if served, err = c.handshake(ctx); err != nil {
			return err
		}
	}
	c.connect()
	server := c.server(ctx)
	// It returns when the connection is closed: by the server, by who took it over for
	// another protocol, or by the end of ctx.
	_ = server.Serve(&listener{conn: served, closed: c.guest.closed})
	cancel()
	c.mu.Lock()
	c.over = true
	c.mu.Unlock()
	c.group.Wait()
	c.modern.CloseIdleConnections()
	c.legacy.CloseIdleConnections()
	_ = server.Shutdown(context.WithoutCancel(ctx)) // the connection is closed; its goroutine is about to end
	if c.secure && !c.asked.Load() {
		c.tell(cove.NetworkEvent{Kind: cove.NetworkConnection, Allowed: true, Reason: "the program made no request on it: " +
			"one that pins a certificate leaves when it sees Cove's, and so does one that opened it for later"})
	}
	return nil
}

// spawn starts a goroutine that serve waits for, or returns false when it is too late.
func (c *connection) spawn(f func()) bool {
	if !c.enter() {
		return false
	}
	go func() {
		defer c.group.Done()
		f()
	}()
	return true
}

// enter adds the caller to group, or returns false when it is too late.
func (c *connection) enter() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over {
		return false
	}
	c.group.Add(1)
	return true
}

// server is the guest's side.
func (c *connection) server(ctx context.Context) *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(c.secure)
	server := &http.Server{
		Handler:                      http.HandlerFunc(c.handle),
		BaseContext:                  func(net.Listener) context.Context { return ctx },
		ErrorLog:                     c.logger(),
		ReadHeaderTimeout:            c.opener.o.HeadTimeout,
		IdleTimeout:                  c.opener.o.IdleTimeout,
		MaxHeaderBytes:               maxHead,
		DisableGeneralOptionsHandler: true,
		Protocols:                    protocols,
		HTTP2:                        &http.HTTP2Config{MaxConcurrentStreams: maxStreams},
	}
	if c.secure {
		server.TLSConfig = c.tlsConfig() // the handshake is over; this is how it learns of HTTP/2
	}
	return server
}

// connect makes the server's side. No connection is opened before there is a request.
func (c *connection) connect() {
	transport := func(modern bool) *http.Transport {
		protocols := new(http.Protocols)
		protocols.SetHTTP1(true)
		protocols.SetHTTP2(modern)
		return &http.Transport{
			DialContext: c.dial,
			TLSClientConfig: &tls.Config{
				MinVersion: tls.VersionTLS12, ServerName: c.name, RootCAs: c.opener.o.RootCAs,
			},
			Protocols:              protocols,
			DisableCompression:     true, // what is encoded is between the two ends
			TLSHandshakeTimeout:    c.opener.o.HeadTimeout,
			ResponseHeaderTimeout:  c.opener.o.ReplyTimeout,
			ExpectContinueTimeout:  time.Second,
			IdleConnTimeout:        c.opener.o.HeadTimeout,
			MaxConnsPerHost:        maxStreams,
			MaxIdleConnsPerHost:    maxStreams,
			MaxResponseHeaderBytes: maxHead,
			ReadBufferSize:         chunk,
			WriteBufferSize:        chunk,
			// What a server may send ahead of a guest that does not read.
			HTTP2: &http.HTTP2Config{MaxReceiveBufferPerConnection: 8 << 20, MaxReceiveBufferPerStream: 2 << 20},
		}
	}
	c.modern, c.legacy = transport(c.secure), transport(false)
	c.proxy = &httputil.ReverseProxy{
		Rewrite:        c.rewrite,
		Transport:      c,
		FlushInterval:  -1, // each piece goes on as it comes
		ErrorLog:       c.logger(),
		BufferPool:     c.opener,
		ModifyResponse: c.reply,
		ErrorHandler:   c.unanswered,
	}
}

// dial connects to the server. Where the transport lets go of an attempt, it goes on in
// the background, so that it is counted here.
func (c *connection) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	if !c.enter() {
		return nil, net.ErrClosed
	}
	defer c.group.Done()
	return c.opened.Dial(ctx)
}

// RoundTrip implements http.RoundTripper: upgrades are of HTTP/1 alone.
func (c *connection) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Header.Get("Upgrade") != "" {
		return c.legacy.RoundTrip(r)
	}
	return c.modern.RoundTrip(r)
}

// logger takes what net/http has to say about a connection.
func (c *connection) logger() *log.Logger {
	return log.New(logWriter{c}, "", 0)
}

type logWriter struct{ c *connection }

// Write implements io.Writer.
func (w logWriter) Write(line []byte) (int, error) {
	w.c.opener.o.Logger.Debug("opened connection", "sandbox", w.c.opened.Sandbox, "name", w.c.name,
		"message", printable(w.c.secrets.scrub(string(line))))
	return len(line), nil
}

// tell adds to the sandbox's log.
func (c *connection) tell(event cove.NetworkEvent) {
	if c.opened.Event == nil {
		return
	}
	event.Time, event.Name, event.Port = time.Now().UTC(), c.name, c.opened.Port
	event.Path, event.Method = printable(event.Path), printable(event.Method)
	if c.secrets != nil {
		event.Reason = c.secrets.scrub(event.Reason)
	}
	event.Reason = printable(event.Reason)
	c.telling.Lock()
	defer c.telling.Unlock()
	c.opened.Event(event)
}

// fail ends a connection on which nothing was served.
func (c *connection) fail(what string, err error) error {
	reason := fmt.Sprintf("%s: %v", what, err)
	c.tell(cove.NetworkEvent{Kind: cove.NetworkConnection, Reason: reason})
	return &cove.Error{Code: cove.Unavailable, Op: "open connection", ID: c.name, Err: errors.New(printable(reason))}
}

// isOwn says whether the host of a request is the connection's name and port.
func (c *connection) isOwn(host string) bool {
	name, port, err := net.SplitHostPort(host)
	if err != nil {
		name, port = strings.Trim(host, "[]"), strconv.Itoa(c.usualPort())
	}
	return canonical(name) == c.name && port == strconv.Itoa(c.opened.Port)
}

func (c *connection) usualPort() int {
	if c.secure {
		return 443
	}
	return 80
}

// address is the authority that requests are sent to.
func (c *connection) address() string {
	if c.opened.Port == c.usualPort() {
		return c.name
	}
	return net.JoinHostPort(c.name, strconv.Itoa(c.opened.Port))
}

// canonical returns a name as it is compared.
func canonical(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }
