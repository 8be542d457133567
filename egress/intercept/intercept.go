// Package intercept provides the inside of connections that a policy wants looked into:
// TLS opened with an authority of Cove's own, HTTP requests decided one by one, and
// secrets put in on the way to the hosts that they are bound to.
//
// The guest's side is an http.Server and the other one an http.Transport, so that the
// protocol is net/http's; what is here is what lies between.
package intercept

import (
	"cmp"
	"context"
	"crypto/x509"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/egress"
)

// Options are what an Opener is made of.
type Options struct {
	// CA signs the certificates that guests get to see.
	CA *Authority
	// Logger hears of connections that fail; nil is slog.Default(). No value of a secret
	// gets there.
	Logger *slog.Logger
	// RootCAs verify the servers; nil are the system's.
	RootCAs *x509.CertPool

	// HeadTimeout is how long a guest may take for a handshake or the head of a request;
	// default 30 seconds.
	HeadTimeout time.Duration
	// ReplyTimeout is how long a server may take to begin its reply to a whole request;
	// default 10 minutes, as the longest that clients of language models wait.
	ReplyTimeout time.Duration
	// IdleTimeout is how long a connection is kept without a request; default 3 minutes.
	IdleTimeout time.Duration
}

// Opener is an egress.Opener. Its methods may be called concurrently.
type Opener struct {
	o       Options
	buffers sync.Pool // of *[]byte
}

var _ egress.Opener = (*Opener)(nil)

// New returns an opener. The error is cove.Invalid where there is no authority.
func New(o Options) (*Opener, error) {
	if o.CA == nil {
		return nil, cove.Errorf(cove.Invalid, "open connections", "", "an authority is needed to open TLS", "")
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	o.HeadTimeout = cmp.Or(o.HeadTimeout, 30*time.Second)
	o.ReplyTimeout = cmp.Or(o.ReplyTimeout, 10*time.Minute)
	o.IdleTimeout = cmp.Or(o.IdleTimeout, 3*time.Minute)
	return &Opener{o: o}, nil
}

// Serve implements egress.Opener. It leaves no goroutine and no connection behind. Its
// error says why nothing could be served, in words that are in the sandbox's log as well.
func (o *Opener) Serve(ctx context.Context, guest net.Conn, c egress.Opened) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	conn := &connection{opener: o, opened: c, name: canonical(c.Name), guest: newGuestConn(guest)}
	defer conn.guest.Close()
	defer context.AfterFunc(ctx, func() { conn.guest.Close() })()
	return conn.serve(ctx, cancel)
}

// Get implements httputil.BufferPool.
func (o *Opener) Get() []byte {
	if buffer, ok := o.buffers.Get().(*[]byte); ok {
		return *buffer
	}
	return make([]byte, 64<<10)
}

// Put implements httputil.BufferPool.
func (o *Opener) Put(buffer []byte) { o.buffers.Put(&buffer) }
