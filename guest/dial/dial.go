// Package dial is the host's side of the wire: a client of the guest agent over the
// streams that a Dialer opens.
//
// What comes out of a guest is hostile. Every reply has a cap on its size and a deadline,
// and every error is a *cove.Error whose text is short and printable.
package dial

import (
	"context"
	"encoding/base64"
	"net"
	"net/http"
	"time"

	"connectrpc.com/connect"

	"github.com/covehq/cove/guest/wire/gen/filesystem/filesystemconnect"
	"github.com/covehq/cove/guest/wire/gen/guest/guestconnect"
	"github.com/covehq/cove/guest/wire/gen/process"
	"github.com/covehq/cove/guest/wire/gen/process/processconnect"
)

// Dialer opens a fresh stream to an agent, on which it speaks HTTP.
type Dialer func(ctx context.Context) (net.Conn, error)

const (
	// base is the URL of every agent; the host name in it means nothing.
	base = "http://guest"
	// callTimeout bounds a call with one short reply.
	callTimeout = 30 * time.Second
	// stallTimeout bounds the silence within a stream. Agents send a keepalive every
	// keepalive, so that only a dead or hostile one is silent for this long.
	stallTimeout = 60 * time.Second
	keepalive    = 20 * time.Second
	// maxMessage bounds one message from an agent. The longest honest one is a listing of
	// a directory with as many entries as an agent lists.
	maxMessage = 64 << 20
	// maxIdle connections are kept for the next calls, each for idleTimeout.
	maxIdle     = 8
	idleTimeout = 30 * time.Second
)

// Client calls one guest agent, over connections from a Dialer that it keeps and reuses.
// Its methods may be called concurrently.
type Client struct {
	dial      Dialer
	transport *http.Transport
	http      *http.Client
	processes processconnect.ProcessClient
	files     filesystemconnect.FilesystemClient
	guest     guestconnect.GuestClient
	start     *connect.Client[process.StartRequest, event]
	follow    *connect.Client[process.ConnectRequest, event]
}

// New returns a client of the agent that d leads to. It opens no connection yet.
func New(d Dialer) *Client {
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return d(ctx) },
		// Compression between two processes of one machine costs more than it saves.
		DisableCompression:     true,
		MaxIdleConns:           maxIdle,
		MaxIdleConnsPerHost:    maxIdle,
		IdleConnTimeout:        idleTimeout,
		MaxResponseHeaderBytes: 64 << 10,
	}
	c := &Client{dial: d, transport: transport, http: &http.Client{
		Transport: transport,
		// A guest that redirects has nowhere to lead us.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	options := connect.WithClientOptions(
		connect.WithAcceptCompression("gzip", nil, nil),
		connect.WithReadMaxBytes(maxMessage),
	)
	c.processes = processconnect.NewProcessClient(c.http, base, options)
	c.files = filesystemconnect.NewFilesystemClient(c.http, base, options)
	c.guest = guestconnect.NewGuestClient(c.http, base, options)
	events := connect.WithClientOptions(options, connect.WithCodec(newEventCodec()))
	c.start = connect.NewClient[process.StartRequest, event](c.http, base+processconnect.ProcessStartProcedure, events)
	c.follow = connect.NewClient[process.ConnectRequest, event](c.http, base+processconnect.ProcessConnectProcedure, events)
	return c
}

// Close closes the idle connections. Streams that are open go on.
func (c *Client) Close() error {
	c.transport.CloseIdleConnections()
	return nil
}

// setUser names the user that a request acts as; "" is the sandbox's default user.
func setUser(header http.Header, user string) {
	if user != "" {
		header.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(user+":")))
	}
}

// requestAs wraps a message into a call that acts as user.
func requestAs[T any](message *T, user string) *connect.Request[T] {
	request := connect.NewRequest(message)
	setUser(request.Header(), user)
	return request
}
