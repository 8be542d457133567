package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/internal/cli"
	"github.com/covehq/cove/key"
	"github.com/covehq/cove/server"
)

// door is where the API is served to the network. The zero value is nowhere.
type door struct {
	listener net.Listener
	options  *server.DoorOptions
}

func (d door) close() error {
	if d.listener == nil {
		return nil
	}
	return d.listener.Close()
}

// openDoor opens the door, where one was asked for.
func openDoor(ctx context.Context, o cli.ServeOptions, keys *key.Ring) (door, error) {
	const op = "serve"
	asked := o.Door
	if asked.Listen == "" {
		return door{}, nil
	}
	host, port, err := net.SplitHostPort(asked.Listen)
	if err != nil {
		return door{}, &cove.Error{Code: cove.Invalid, Op: op, Err: err, Hint: "write --listen as in 127.0.0.1:7070"}
	}
	if err := mayOpen(asked, host, keys); err != nil {
		return door{}, err
	}
	speaks, err := openCertificate(asked.TLSCert, asked.TLSKey, o.Logger)
	if err != nil {
		return door{}, err
	}
	at := asked.Listen
	if host == "localhost" { // not by the resolver, which may say anything
		at = net.JoinHostPort("127.0.0.1", port)
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", at)
	if err != nil {
		return door{}, &cove.Error{Code: cove.Conflict, Op: op, Err: err, Hint: "choose another --listen, or leave it out"}
	}
	options := &server.DoorOptions{TLS: speaks, BehindProxy: asked.BehindProxy, Hosts: asked.Hosts, KeyRate: float64(asked.KeyRate)}
	if host != "" && !isUnspecified(host) {
		options.Hosts = append([]string{host}, options.Hosts...)
	}
	o.Logger.Info("serving the network", "listen", listener.Addr().String(), "tls", speaks != nil, "keys", keys.Len())
	return door{listener, options}, nil
}

// mayOpen refuses a door that nobody has a key of, or that others on the way could look
// through. On loopback nobody is on the way, and keys may still be made; none gets in
// without one there either.
func mayOpen(asked cli.DoorOptions, host string, keys *key.Ring) error {
	const op = "serve"
	if isLoopback(host) {
		return nil
	}
	if asked.TLSCert == "" && !asked.BehindProxy {
		return cove.Errorf(cove.Forbidden, op, asked.Listen, fmt.Sprintf("%s is not loopback, and would serve without TLS, so that others could read keys on their way", asked.Listen),
			"give --tls-cert and --tls-key, say --behind-proxy where a proxy in front speaks TLS, or choose 127.0.0.1")
	}
	for _, k := range keys.List() {
		if k.ExpiresAt == nil || time.Now().Before(*k.ExpiresAt) {
			return nil
		}
	}
	return cove.Errorf(cove.Forbidden, op, asked.Listen, fmt.Sprintf("%s is not loopback, and there is no key yet", asked.Listen),
		"make one first, while the daemon is served without --listen: cove key create NAME")
}

// isLoopback reports whether a host is this machine and nothing else.
func isLoopback(host string) bool {
	address, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && address.Unmap().IsLoopback()
}

func isUnspecified(host string) bool {
	address, err := netip.ParseAddr(host)
	return err == nil && address.IsUnspecified()
}
