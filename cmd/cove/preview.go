package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"

	"github.com/covehq/cove"
	"github.com/covehq/cove/internal/cli"
	"github.com/covehq/cove/server"
	"github.com/covehq/cove/server/preview"
)

// previews is where ports inside are shown to browsers. The zero value is nowhere.
type previews struct {
	listener net.Listener
	options  *server.PreviewOptions
}

func (p previews) close() error {
	if p.listener == nil {
		return nil
	}
	return p.listener.Close()
}

// openPreviews opens the door for previews, where one was asked for.
func openPreviews(ctx context.Context, o cli.ServeOptions) (previews, error) {
	asked := o.Previews
	if asked.Listen == "" {
		return previews{}, nil
	}
	domain, port, err := preview.ParseDomain(asked.Domain)
	if err != nil {
		return previews{}, err
	}
	options := &server.PreviewOptions{Domain: domain, Port: port, BehindProxy: asked.BehindProxy}
	if options.TLS, err = openCertificate(asked.TLSCert, asked.TLSKey, o.Logger); err != nil {
		return previews{}, err
	}
	if err := checkDoor(asked); err != nil {
		return previews{}, err
	}
	if options.Key, err = preview.OpenKey(filepath.Join(o.Dirs.Data, "preview.key")); err != nil {
		return previews{}, err
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", asked.Listen)
	if err != nil {
		return previews{}, &cove.Error{Code: cove.Conflict, Op: "serve previews", Err: err, Hint: "choose another --preview-listen, or leave it out"}
	}
	if port == 0 && !asked.BehindProxy {
		options.Port = listener.Addr().(*net.TCPAddr).Port
	}
	o.Logger.Info("serving previews", "listen", listener.Addr().String(), "domain", domain, "tls", options.TLS != nil)
	return previews{listener, options}, nil
}

// checkDoor refuses a door that others on the way could look through.
func checkDoor(asked cli.PreviewOptions) error {
	const op = "serve previews"
	host, _, err := net.SplitHostPort(asked.Listen)
	if err != nil {
		return &cove.Error{Code: cove.Invalid, Op: op, Err: err, Hint: "write --preview-listen as in 127.0.0.1:7080"}
	}
	if asked.TLSCert != "" || asked.BehindProxy || host == "localhost" {
		return nil
	}
	if address, err := netip.ParseAddr(host); err == nil && address.Unmap().IsLoopback() {
		return nil
	}
	return cove.Errorf(cove.Forbidden, op, asked.Listen, fmt.Sprintf("%s is not loopback, and would serve without TLS", asked.Listen),
		"give --tls-cert and --tls-key, say --behind-proxy where a proxy in front speaks TLS, or choose 127.0.0.1")
}
