package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/covehq/cove"
	"github.com/covehq/cove/image"
	"github.com/covehq/cove/internal/cli"
	"github.com/covehq/cove/internal/daemon"
	"github.com/covehq/cove/runtime/oci"
	"github.com/covehq/cove/sandbox/conformance"
	"github.com/covehq/cove/sandbox/driver"
)

// conform runs the conformance checks on a driver of its own, beside the daemon's and on
// other directories: the daemon sweeps what it doesn't know.
func conform(ctx context.Context, runtime string, tell func(cli.Outcome)) (err error) {
	if err := oci.AdoptOrphans(); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "cove-doctor-")
	if err != nil {
		return err
	}
	dirs := daemon.Dirs{State: filepath.Join(dir, "state"), Data: filepath.Join(dir, "data")}
	defer func() { err = errors.Join(err, release(dirs), os.RemoveAll(dir)) }()
	open := func() (driver.Driver, error) { return openDriver(dirs, runtime) }
	d, err := open()
	if err != nil {
		return err
	}
	options := conformance.Options{
		Spec: cove.Spec{Runtime: runtime, BestEffort: true}, Reopen: open,
		StateDirs: []string{dirs.State, dirs.Data}, Shared: new(conformance.Shared),
	}
	defer func() { err = errors.Join(err, options.Shared.Close(context.WithoutCancel(ctx))) }()
	for _, check := range conformance.Checks() {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		outcome := cli.Outcome{Name: check.Group + "/" + check.Name, Clause: check.Clause}
		var skip *conformance.Skip
		if err := check.Run(ctx, d, options); errors.As(err, &skip) {
			outcome.Skipped = skip.Reason
		} else if err != nil {
			outcome.Error = err.Error()
		}
		tell(outcome)
	}
	return nil
}

func openDriver(dirs daemon.Dirs, runtime string) (driver.Driver, error) {
	images, err := image.Open(filepath.Join(dirs.Data, "images"))
	if err != nil {
		return nil, err
	}
	openers, err := drivers(dirs, images, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	family, variant, _ := strings.Cut(runtime, ":")
	opener, ok := openers[family]
	if !ok {
		return nil, fmt.Errorf("runtime %s is unknown", runtime)
	}
	return opener(variant)
}
