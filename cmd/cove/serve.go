package main

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/egress"
	"github.com/covehq/cove/egress/intercept"
	"github.com/covehq/cove/egress/preset"
	"github.com/covehq/cove/image"
	"github.com/covehq/cove/internal/cli"
	"github.com/covehq/cove/internal/daemon"
	"github.com/covehq/cove/key"
	"github.com/covehq/cove/policy"
	"github.com/covehq/cove/runtime/oci"
	"github.com/covehq/cove/sandbox"
	"github.com/covehq/cove/secret"
	"github.com/covehq/cove/server"
	"github.com/covehq/cove/store/sqlite"
)

const (
	// handoverTime is how long a predecessor may take to leave.
	handoverTime = 20 * time.Second
	// closeTime is how long the host may take to end its work in the background.
	closeTime = 10 * time.Second
)

// serve is the daemon, from its lock to its last request. Whatever it does is undone in
// the opposite order; the sandboxes alone stay, for the next one to attach.
func serve(ctx context.Context, o cli.ServeOptions) (err error) {
	handover, cancel := context.WithTimeout(ctx, handoverTime)
	defer cancel()
	lock, err := o.Dirs.Own(handover)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Release()) }()
	records, err := sqlite.Open(ctx, o.Dirs.Data)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, records.Close()) }()
	defer func() { err = errors.Join(err, release(o.Dirs)) }()
	operator, err := policy.Open(o.Policy, o.PolicyOptional, o.Logger)
	if err != nil {
		return err
	}
	out, err := outward(o, records, operator)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Gateway.Close()) }()
	host, err := open(ctx, o, records, operator, out)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeHost(ctx, host)) }()
	keys, err := key.Open(ctx, records)
	if err != nil {
		return err
	}
	defer keys.Close()
	doors, err := openDoors(ctx, o, keys)
	if err != nil {
		return err
	}
	return answer(ctx, o, host, keys, doors)
}

// outward is how sandboxes reach out.
func outward(o cli.ServeOptions, records *sqlite.Store, operator *policy.File) (sandbox.NetworkOptions, error) {
	options := egress.Options{Private: func() []netip.Prefix { return operator.Policy().Private() }, Logger: o.Logger}
	if o.Resolver.IsValid() {
		options.Resolver = o.Resolver.String()
	}
	if o.EgressProxy != nil {
		options.Proxy = o.EgressProxy.String()
	}
	gateway, err := egress.New(options)
	if err != nil {
		return sandbox.NetworkOptions{}, err
	}
	vault, err := secret.Open(records, filepath.Join(o.Dirs.Data, "secrets.key"))
	if err != nil {
		return sandbox.NetworkOptions{}, err
	}
	authority, err := intercept.OpenAuthority(filepath.Join(o.Dirs.Data, "authority"))
	if err != nil {
		return sandbox.NetworkOptions{}, err
	}
	opener, err := intercept.New(intercept.Options{CA: authority, Logger: o.Logger})
	if err != nil {
		return sandbox.NetworkOptions{}, err
	}
	return sandbox.NetworkOptions{
		Gateway: gateway, Opener: opener, CA: authority.PEM(), Vault: vault, Presets: preset.New(preset.Options{Own: o.Presets}),
	}, nil
}

func open(ctx context.Context, o cli.ServeOptions, records *sqlite.Store, operator *policy.File, out sandbox.NetworkOptions) (*sandbox.Host, error) {
	if err := oci.AdoptOrphans(); err != nil {
		return nil, err
	}
	if err := oci.ClaimCgroup(); err != nil {
		o.Logger.Warn("limits will be less strict", "err", err)
	}
	if err := oci.SweepCgroups(); err != nil {
		o.Logger.Warn("groups of daemons that were killed are left", "err", err)
	}
	images, err := image.OpenWith(filepath.Join(o.Dirs.Data, "images"), image.Options{Mirrors: o.Mirrors})
	if err != nil {
		return nil, err
	}
	drivers, err := drivers(o.Dirs, images, o.Logger)
	if err != nil {
		return nil, err
	}
	return sandbox.Open(ctx, sandbox.Options{
		Store: records, Drivers: drivers, Variants: variants(), Default: o.DefaultRuntime, MaxSandboxes: o.MaxSandboxes, Logger: o.Logger,
		Policy: operator.Policy, Private: []string{o.Dirs.State, o.Dirs.Data}, Network: out,
	})
}

// doors are the listeners of one daemon, each for others.
type doors struct {
	socket  net.Listener
	network door
	shown   previews
	daiv    net.Listener
}

func openDoors(ctx context.Context, o cli.ServeOptions, keys *key.Ring) (d doors, err error) {
	if d.shown, err = openPreviews(ctx, o); err != nil {
		return d, err
	}
	if d.network, err = openDoor(ctx, o, keys); err != nil {
		return d, errors.Join(err, d.close())
	}
	if d.daiv, err = openDaiv(ctx, o); err != nil {
		return d, errors.Join(err, d.close())
	}
	if d.socket, err = o.Dirs.Listen(ctx); err != nil {
		return d, errors.Join(err, d.close())
	}
	return d, nil
}

func (d doors) close() error {
	err := errors.Join(d.network.close(), d.shown.close())
	for _, listener := range []net.Listener{d.daiv, d.socket} {
		if listener != nil {
			err = errors.Join(err, listener.Close())
		}
	}
	return err
}

func closeHost(ctx context.Context, host *sandbox.Host) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTime)
	defer cancel()
	return host.Close(ctx)
}

// answer answers requests until ctx ends, or nobody has had any use for it for the time
// of IdleExit.
func answer(ctx context.Context, o cli.ServeOptions, host *sandbox.Host, keys *key.Ring, at doors) error {
	ctx, leave := context.WithCancel(ctx)
	defer leave()
	var activity daemon.Activity
	idle := make(chan struct{})
	go func() {
		defer close(idle)
		if o.IdleExit > 0 && activity.WaitIdle(ctx, o.IdleExit, func() bool { return host.Len() > 0 }) {
			o.Logger.Info("leaving, since nobody needs this daemon", "idle", o.IdleExit)
			leave()
		}
	}()
	defer func() { <-idle }()
	defer leave()
	o.Logger.Info("serving", "socket", at.socket.Addr().String(), "version", cove.Version, "pid", os.Getpid(), "sandboxes", host.Len())
	// Connections wait in the socket's queue until Serve takes them.
	if err := o.Ready(); err != nil {
		return errors.Join(err, at.close())
	}
	defer o.Logger.Info("left")
	api := server.New(server.Options{Host: host, Logger: o.Logger, Previews: at.shown.options, Keys: keys, Door: at.network.options, Spool: o.Dirs.Data})
	// The end of one is the end of the others.
	var group sync.WaitGroup
	errs := make([]error, 4)
	serve := func(i int, listener net.Listener, how func(context.Context, net.Listener) error) {
		if listener == nil {
			return
		}
		group.Go(func() {
			defer leave()
			errs[i] = how(ctx, activity.Listen(listener))
		})
	}
	serve(0, at.socket, api.Serve)
	serve(1, at.network.listener, api.ServeDoor)
	serve(2, at.shown.listener, api.ServePreviews)
	if at.daiv != nil {
		compatible, err := newDaiv(o, host, keys)
		if err != nil {
			leave()
			errs[3] = errors.Join(err, at.daiv.Close())
		} else {
			serve(3, at.daiv, compatible.Serve)
		}
	}
	group.Wait()
	return errors.Join(errs...)
}
