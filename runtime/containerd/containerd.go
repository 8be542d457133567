// Package containerd provides the driver of containerd: it has the engine run a sandbox's
// container by one of its shims, and needs neither its images nor its networks. The variants
// are data: which shim, which kernel the guest meets, how its agent is reached.
package containerd

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/covehq/cove"
	"github.com/covehq/cove/image"
	"github.com/covehq/cove/runtime/internal/bundle"
	"github.com/covehq/cove/runtime/internal/cgroup"
	"github.com/covehq/cove/sandbox/driver"
)

// Options says where a driver finds its parts and keeps what it makes.
type Options struct {
	Address  string       // containerd's socket; "": CONTAINERD_ADDRESS, or DefaultAddress
	StateDir string       // bundles, mounts and pipes; gone after a reboot: /run/cove/containerd
	DataDir  string       // disks of sandboxes: /var/lib/cove/containerd
	Images   *image.Store // where root filesystems come from
	Agent    string       // path of the cove-agent binary
	Runsc    string       // path of the cove-runsc binary; needed by containerd:gvisor alone
	Logger   *slog.Logger // nil: no log
}

// DefaultAddress is where containerd listens unless its configuration says otherwise.
const DefaultAddress = "/run/containerd/containerd.sock"

// addressVariable names another address, as it does for containerd's own tools.
const addressVariable = "CONTAINERD_ADDRESS"

// namespace is Cove's own in containerd: what is in others is never looked at.
const namespace = "cove"

// Driver runs sandboxes with one shim of containerd's.
type Driver struct {
	bundle.Store

	options  Options
	variant  variant
	name     string // runtime URI
	instance string // whose sandboxes these are: of this state directory and runtime
	state    string // StateDir/name: one directory per sandbox
	data     string // DataDir/name
	engine   *engine
	cgroups  cgroup.Tree
	held     cgroup.Hold
	disks    bundle.Disks
	runcRoot string // where containerd's shim has runc keep its state, in a directory for each namespace
	log      *slog.Logger

	probeMu sync.Mutex
	probed  *driver.Info // of the engine that had this process
	pid     int
}

// variant is how one runtime differs from its siblings.
type variant struct {
	shim      string // containerd's name of it, as in io.containerd.runc.v2
	kernel    bundle.Kernel
	isolation cove.Isolation
	reach     reach
}

// reach is how the agent is reached.
type reach int

const (
	bySocket reach = iota // its socket, a file that the host sees too
	byDoor                // a door that gVisor's own program brings in
	byStdio               // streams that the engine connects
)

const runcShim = "io.containerd.runc.v2"

// runcRoot is the shim's own, since it was there first.
const runcRoot = "/run/containerd/runc"

var (
	runc   = variant{runcShim, bundle.SharedKernel, cove.IsolationSharedKernel, bySocket}
	gvisor = variant{runcShim, bundle.GvisorKernel, cove.IsolationUserspaceKernel, byDoor}
)

// kata runs every sandbox in a virtual machine, by the shim of this name.
func kata(shim string) variant {
	return variant{shim, bundle.GuestKernel, cove.IsolationVM, byStdio}
}

// Open opens the drivers of runtime containerd: containerd itself is the engine's runc;
// containerd:gvisor, containerd:kata and containerd:NAME are other shims.
func Open(o Options) driver.Opener {
	return func(name string) (driver.Driver, error) {
		v, err := variantOf(name)
		if err != nil {
			return nil, err
		}
		uri := "containerd"
		if name != "" {
			uri += ":" + name
		}
		return newDriver(o, uri, v)
	}
}

// Kata opens the driver of runtime kata, another name of containerd:kata.
func Kata(o Options) driver.Opener {
	return func(name string) (driver.Driver, error) {
		if name != "" {
			return nil, cove.Errorf(cove.Invalid, "runtime", "kata:"+name, "kata has no variants", "use kata, or containerd:kata-NAME for another configuration of Kata's")
		}
		return newDriver(o, "kata", kata("io.containerd.kata.v2"))
	}
}

// shimName is what may stand for a shim: its name, and the version of its interface where
// that is not 2.
var shimName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,47}(\.v[12])?$`)

// variantOf returns the variant of a name. Nothing is known of an unknown shim, so it is
// held to be of the weakest class that shims have.
func variantOf(name string) (variant, error) {
	family, _, _ := strings.Cut(name, ".")
	switch {
	case name == "":
		return runc, nil
	case name == "gvisor":
		return gvisor, nil
	case !shimName.MatchString(name):
		return variant{}, cove.Errorf(cove.Invalid, "runtime", "containerd:"+name, "not the name of a shim",
			"name the shim as in containerd:youki, for containerd-shim-youki-v2")
	case family == "runsc":
		return variant{}, cove.Errorf(cove.Invalid, "runtime", "containerd:"+name, "gVisor is built in, in the version that Cove was tested with",
			"use containerd:gvisor")
	}
	shim := "io.containerd." + name
	if family == name {
		shim += ".v2"
	}
	if family == "kata" || strings.HasPrefix(family, "kata-") {
		return kata(shim), nil
	}
	return variant{shim, bundle.SharedKernel, cove.IsolationSharedKernel, byStdio}, nil
}

// shimProgram returns the program of a shim, by containerd's rule: io.containerd.kata.v2 is
// containerd-shim-kata-v2.
func (v variant) shimProgram() string {
	parts := strings.Split(v.shim, ".")
	return "containerd-shim-" + parts[len(parts)-2] + "-" + parts[len(parts)-1]
}

func newDriver(o Options, name string, v variant) (*Driver, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Address == "" {
		o.Address = os.Getenv(addressVariable)
	}
	if o.Address == "" {
		o.Address = DefaultAddress
	}
	directory := strings.ReplaceAll(name, ":", "-")
	state, err := filepath.Abs(filepath.Join(o.StateDir, directory))
	if err != nil {
		return nil, err
	}
	data, err := filepath.Abs(filepath.Join(o.DataDir, directory))
	if err != nil {
		return nil, err
	}
	instance := instanceOf(state)
	return &Driver{
		Store:   bundle.Store{Source: o.Images},
		options: o, variant: v, name: name, instance: instance, state: state, data: data,
		engine:  newEngine(strings.TrimPrefix(o.Address, "unix://")),
		cgroups: cgroup.Find(cgroup.Prefix(instance, directory)),
		disks:   bundle.Disks{Dir: filepath.Join(o.DataDir, "disks")},
		log:     o.Logger.With("runtime", name), runcRoot: runcRoot,
	}, nil
}

// instanceOf tells what two daemons on one machine have apart, and what two runtimes of one
// have: they must not sweep each other's. It is given a driver's state directory.
func instanceOf(state string) string {
	sum := sha256.Sum256([]byte(state))
	return hex.EncodeToString(sum[:4])
}

// container is what a sandbox is called in containerd. Its namespace is shared.
func (d *Driver) container(id string) string { return d.instance + "-" + id }

// bundle is the directory of one sandbox; it exists as long as anything of it does.
func (d *Driver) bundle(id string) string { return filepath.Join(d.state, "bundles", id) }

// disk is where gVisor keeps what a sandbox writes, and is told how to.
func (d *Driver) disk(id string) string { return filepath.Join(d.data, id) }

// labelsOf are the labels by which the sweep finds a container, and tells it from one of
// somebody else's.
func (d *Driver) labelsOf(id string) map[string]string {
	return map[string]string{instanceLabel: d.instance, idLabel: id}
}

const (
	instanceLabel = "cove.instance"
	idLabel       = "cove.id"
)

// Probe implements driver.Driver. What was found out holds as long as the engine's process
// lives.
func (d *Driver) Probe(ctx context.Context) (driver.Info, error) {
	pid, err := d.engine.pid(ctx)
	if err != nil {
		return driver.Info{}, d.absent(err)
	}
	if info, ok := d.remembered(pid); ok {
		if err := d.engine.ping(ctx); err != nil {
			return driver.Info{}, err
		}
		return info, nil
	}
	info, err := d.probe(ctx)
	if err != nil {
		return driver.Info{}, err
	}
	d.probeMu.Lock()
	d.probed, d.pid = &info, pid
	d.probeMu.Unlock()
	info.Controls, info.Features, info.Warnings = maps.Clone(info.Controls), slices.Clone(info.Features), slices.Clone(info.Warnings)
	return info, nil
}

// remembered returns what is known of the engine with this process. The lock is not held
// while the engine is asked: nobody is to wait for another one's question.
func (d *Driver) remembered(pid int) (driver.Info, bool) {
	d.probeMu.Lock()
	defer d.probeMu.Unlock()
	if d.probed == nil || d.pid != pid {
		return driver.Info{}, false
	}
	info := *d.probed
	info.Controls, info.Features, info.Warnings = maps.Clone(info.Controls), slices.Clone(info.Features), slices.Clone(info.Warnings)
	return info, true
}

func (d *Driver) unavailable(message, hint string) error {
	return cove.Errorf(cove.Unavailable, "runtime", d.name, message, hint)
}

// absent says why the engine can't be reached at all.
func (d *Driver) absent(err error) error {
	return d.unavailable(fmt.Sprintf("containerd does not listen at %s: %v", d.engine.address, err), startHint)
}
