// Package intercept provides the inside of connections that a policy wants looked into:
// TLS opened with an authority of Cove's own, HTTP requests decided one by one, and
// secrets put in on the way to the hosts that they are bound to.
//
// The guest's side is an http.Server and the other one an http.Transport, so that the
// protocol is net/http's; what is here is what lies between.
package intercept

import (
	"context"
	"crypto/x509"
	"log/slog"
	"net"

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
}

// Opener is an egress.Opener. Its methods may be called concurrently.
type Opener struct {
	o Options
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
	return &Opener{o: o}, nil
}

// Serve implements egress.Opener.
func (o *Opener) Serve(ctx context.Context, guest net.Conn, c egress.Opened) error {
	return cove.Errorf(cove.Unavailable, "open connection", c.Name, "not served", "")
}
