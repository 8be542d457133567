// Package docker provides the driver of sandboxes that a Docker engine runs, or whatever
// else speaks its API, as Podman does. The variants are the runtimes that are registered
// with the engine.
package docker

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"log/slog"
	"maps"
	"path/filepath"
	"regexp"
	"strings"
	"sync"

	"github.com/covehq/cove"
	"github.com/covehq/cove/image"
	"github.com/covehq/cove/runtime/internal/bundle"
	"github.com/covehq/cove/runtime/internal/cgroup"
	"github.com/covehq/cove/sandbox/driver"
)

// Options says where drivers find their parts and keep what they make.
type Options struct {
	StateDir string       // what sandboxes need on this machine, private to the daemon: /run/cove/docker
	DataDir  string       // disks of sandboxes: /var/lib/cove/docker
	Images   *image.Store // where the host's image comes from
	Agent    string       // path of the cove-agent binary
	// Host is the engine's address; "" is what the docker command would use: DOCKER_HOST,
	// else the context of DOCKER_CONTEXT or of Docker's configuration, else Docker's socket.
	Host   string
	Logger *slog.Logger // nil: no log
}

// Driver runs sandboxes with one runtime of one engine.
type Driver struct {
	options  Options
	name     string   // runtime URI
	runtimes []string // by which the engine may know the runtime; none: its default
	state    string   // StateDir/name: a directory for each sandbox
	instance string   // tells this daemon's containers from others'
	engine   *engine
	cgroups  cgroup.Tree // where near sandboxes have theirs: see facts
	held     cgroup.Hold
	disks    bundle.Disks
	log      *slog.Logger

	mu     sync.Mutex
	found  *facts           // of the engine, until it is silent
	images map[string]*kept // in the engine, by reference and platform or by the host's directory

	importing sync.Mutex // one import of an image or of the agent at a time
	filled    string     // the volume that has the agent in it; of importing
}

var (
	_ driver.Driver = (*Driver)(nil)
	_ driver.Lister = (*Driver)(nil)
	_ driver.Imager = (*Driver)(nil)
)

// aliases are the runtimes that have a name of their own here, and the names under which
// engines know them.
var aliases = map[string][]string{
	"":       {"runc"},
	"gvisor": {"runsc", "gvisor", "cove-runsc"},
	"kata":   {"kata-runtime", "kata", "kata-qemu", "kata-clh", "io.containerd.kata.v2"},
}

var runtimeName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

// Open opens the drivers of runtime docker and of docker:NAME.
func Open(o Options) driver.Opener {
	engine := &engine{host: o.Host} // one for all of them
	return func(variant string) (driver.Driver, error) {
		name := "docker"
		if variant != "" {
			name += ":" + variant
		}
		runtimes, ok := aliases[variant]
		if !ok {
			runtimes = []string{variant}
		}
		if variant != "" && !runtimeName.MatchString(variant) {
			return nil, cove.Errorf(cove.Invalid, "runtime", name, "not the name of a runtime", "name one that docker info lists, as in docker:crun")
		}
		return newDriver(o, engine, name, runtimes)
	}
}

func newDriver(o Options, engine *engine, name string, runtimes []string) (*Driver, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	state, err := filepath.Abs(filepath.Join(o.StateDir, strings.ReplaceAll(name, ":", "-")))
	if err != nil {
		return nil, err
	}
	tag := instanceOf(filepath.Dir(state))
	return &Driver{
		options: o, name: name, runtimes: runtimes, state: state, instance: tag,
		cgroups: cgroup.Find(cgroup.Prefix(tag, filepath.Base(state))),
		engine:  engine,
		disks:   bundle.Disks{Dir: filepath.Join(o.DataDir, "disks")},
		log:     o.Logger.With("runtime", name),
		images:  map[string]*kept{},
	}, nil
}

// instanceOf tells what two daemons have in one engine apart, by their state directories.
func instanceOf(dir string) string {
	sum := sha256.Sum256([]byte(dir))
	return hex.EncodeToString(sum[:8])
}

// Probe implements driver.Driver.
func (d *Driver) Probe(ctx context.Context) (driver.Info, error) {
	f, err := d.facts(ctx)
	if err != nil {
		return driver.Info{}, err
	}
	info := f.info
	info.Controls = maps.Clone(info.Controls)
	return info, nil
}
