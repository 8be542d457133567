package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"strings"

	"github.com/covehq/cove"
	"github.com/covehq/cove/internal/cli"
	"github.com/covehq/cove/key"
	"github.com/covehq/cove/sandbox"
	"github.com/covehq/cove/server/daiv"
)

// openDaiv opens the door of daiv-sandbox's API, nil where none was asked for.
func openDaiv(ctx context.Context, o cli.ServeOptions) (net.Listener, error) {
	const op = "serve daiv"
	asked := o.Daiv
	if asked.Key == "" {
		return nil, nil
	}
	host, _, err := net.SplitHostPort(asked.Listen)
	if err != nil {
		return nil, &cove.Error{Code: cove.Invalid, Op: op, Err: err, Hint: "set DAIV_SANDBOX_HOST and DAIV_SANDBOX_PORT"}
	}
	if !isLoopback(host) && o.Door.TLSCert == "" && !o.Door.BehindProxy {
		return nil, cove.Errorf(cove.Forbidden, op, asked.Listen, fmt.Sprintf("%s is not loopback, and would serve without TLS, so that others could read keys on their way", asked.Listen),
			"give --tls-cert and --tls-key, say --behind-proxy where a proxy in front speaks TLS, or set DAIV_SANDBOX_HOST to 127.0.0.1")
	}
	speaks, err := openCertificate(o.Door.TLSCert, o.Door.TLSKey, o.Logger)
	if err != nil {
		return nil, err
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", asked.Listen)
	if err != nil {
		return nil, &cove.Error{Code: cove.Conflict, Op: op, Err: err, Hint: "choose another DAIV_SANDBOX_PORT"}
	}
	if len(asked.Unused) > 0 {
		o.Logger.Warn("variables of daiv-sandbox that mean nothing here", "names", strings.Join(asked.Unused, " "))
	}
	o.Logger.Info("serving the API of daiv-sandbox", "listen", listener.Addr().String(), "tls", speaks != nil)
	if speaks != nil {
		speaks = speaks.Clone()
		speaks.NextProtos = []string{"http/1.1"} // its clients speak no other
		return tls.NewListener(listener, speaks), nil
	}
	return listener, nil
}

// newDaiv is daiv-sandbox's API over a host.
func newDaiv(o cli.ServeOptions, host *sandbox.Host, keys *key.Ring) (*daiv.Server, error) {
	asked := o.Daiv
	return daiv.New(daiv.Options{
		Host: host, Key: asked.Key, Keys: keys, Logger: o.Logger, Spool: o.Dirs.Data,
		Spec:      cove.Spec{Runtime: asked.Runtime, Limits: asked.Limits, Network: asked.Network},
		CodeImage: asked.CodeImage, MaxTime: asked.MaxTime,
	})
}
