// Package oci provides the driver of every OCI runtime program: it writes a bundle, runs
// the program, and finds and removes what that made. The variants are data: gvisor is
// Cove's own build of runsc, runc and others are found on PATH.
package oci

import (
	"context"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/covehq/cove"
	"github.com/covehq/cove/image"
	"github.com/covehq/cove/runtime/internal/advisory"
	"github.com/covehq/cove/runtime/internal/bundle"
	"github.com/covehq/cove/runtime/internal/cgroup"
	"github.com/covehq/cove/sandbox/driver"
)

// Options says where a driver finds its parts and keeps what it makes.
type Options struct {
	StateDir string       // bundles, mounts and sockets; private to the daemon, gone after a reboot: /run/cove/oci
	DataDir  string       // disks of sandboxes: /var/lib/cove/oci
	Images   *image.Store // where root filesystems come from
	Agent    string       // path of the cove-agent binary
	Runsc    string       // path of the cove-runsc binary; needed by gvisor alone
	Logger   *slog.Logger // nil: no log
}

// Driver runs sandboxes with one OCI runtime program.
type Driver struct {
	bundle.Store

	options Options
	kind    kind
	name    string // runtime URI
	binary  string // path, or a name to be found on PATH
	state   string // StateDir/name: one directory per sandbox, and the program's own root
	data    string // DataDir/name
	cgroups cgroup.Tree
	held    cgroup.Hold
	log     *slog.Logger
	// rootless is set for an ordinary user's daemon: see rootless.go.
	rootless bool

	disks bundle.Disks

	probeMu sync.Mutex
	probed  *driver.Info // a success, which does not change while the program runs
}

// kind is how a program differs from its siblings.
type kind int

const (
	kindLinux  kind = iota // namespaces and cgroups of the host's kernel
	kindGvisor             // a kernel of its own in user space
)

// Gvisor opens the driver of runtime gvisor.
func Gvisor(o Options) driver.Opener {
	return func(variant string) (driver.Driver, error) {
		if variant != "" {
			return nil, cove.Errorf(cove.Invalid, "runtime", "gvisor:"+variant, "gvisor has no variants", "use gvisor")
		}
		return newDriver(o, kindGvisor, "gvisor", o.Runsc)
	}
}

// Named opens the driver of a runtime program that is a name of its own: runc, crun.
func Named(o Options, program string) driver.Opener {
	return func(variant string) (driver.Driver, error) {
		if variant != "" {
			return nil, cove.Errorf(cove.Invalid, "runtime", program+":"+variant, program+" has no variants", "use "+program)
		}
		return newDriver(o, kindLinux, program, program)
	}
}

var programName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)

// Any opens the drivers of runtime oci:NAME, for any program on PATH. Nothing is known of
// such a program, so it is held to be of the weakest class that OCI runtimes have.
func Any(o Options) driver.Opener {
	return func(variant string) (driver.Driver, error) {
		switch {
		case !programName.MatchString(variant):
			return nil, cove.Errorf(cove.Invalid, "runtime", "oci:"+variant, "not the name of a program", "name an OCI runtime on the daemon's PATH, as in oci:youki")
		case variant == "runsc":
			return nil, cove.Errorf(cove.Invalid, "runtime", "oci:runsc", "gVisor is built in, in the version that Cove was tested with", "use gvisor")
		}
		return newDriver(o, kindLinux, "oci:"+variant, variant)
	}
}

// instance tells the cgroups of two daemons on one machine apart, which must not sweep each
// other's.
func (o Options) instance() string {
	sum := sha256.Sum256([]byte(o.StateDir))
	return hex.EncodeToString(sum[:4])
}

func newDriver(o Options, kind kind, name, binary string) (*Driver, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	state, err := filepath.Abs(filepath.Join(o.StateDir, strings.ReplaceAll(name, ":", "-")))
	if err != nil {
		return nil, err
	}
	prefix := cgroup.Prefix(o.instance(), strings.ReplaceAll(name, ":", "-"))
	rootless, find := os.Geteuid() != 0, cgroup.Find
	if rootless {
		find = cgroup.FindDelegated
	}
	return &Driver{
		Store:   bundle.Store{Source: o.Images},
		options: o, kind: kind, name: name, binary: binary, rootless: rootless,
		state:   state,
		data:    filepath.Join(o.DataDir, strings.ReplaceAll(name, ":", "-")),
		cgroups: find(prefix),
		log:     o.Logger.With("runtime", name),
		disks:   bundle.Disks{Dir: filepath.Join(o.DataDir, "disks")},
	}, nil
}

// Probe implements driver.Driver.
func (d *Driver) Probe(ctx context.Context) (driver.Info, error) {
	d.probeMu.Lock()
	defer d.probeMu.Unlock()
	if d.probed != nil {
		return cloneInfo(*d.probed), nil
	}
	info, err := d.probe(ctx)
	if err != nil {
		return driver.Info{}, err
	}
	d.probed = &info
	return cloneInfo(info), nil
}

func cloneInfo(info driver.Info) driver.Info {
	info.Controls = maps.Clone(info.Controls)
	return info
}

func (d *Driver) probe(ctx context.Context) (driver.Info, error) {
	unavailable := func(message, hint string) error {
		return cove.Errorf(cove.Unavailable, "runtime", d.name, message, hint)
	}
	if d.rootless && d.kind != kindGvisor {
		return driver.Info{}, unavailable("the daemon does not run as root", "start it as root, or use gvisor, which any user can run")
	}
	path, err := d.program()
	if err != nil {
		hint := fmt.Sprintf("install %s", d.binary)
		if d.kind == kindGvisor {
			hint = "build it with make, and keep cove-runsc beside cove"
		}
		return driver.Info{}, unavailable(err.Error(), hint)
	}
	if _, err := os.Stat(d.options.Agent); err != nil {
		return driver.Info{}, unavailable("the guest agent is missing", "build it with make, and keep cove-agent beside cove")
	}
	version, err := d.version(ctx, path)
	if known := refusal("/proc/sys", d.name, err); d.rootless && err != nil && known != nil {
		return driver.Info{}, known
	}
	if err != nil {
		return driver.Info{}, unavailable(err.Error(), "run "+path+" --version to see what is wrong")
	}
	if len(d.cgroups.Hierarchies) == 0 && !d.rootless {
		return driver.Info{}, unavailable("no cgroup hierarchy is mounted", "mount cgroup2 on /sys/fs/cgroup")
	}
	return d.info(version), nil
}

// The least with which a sandbox is of use, measured: with less memory the agent has no
// room for a command, with less CPU the boot alone takes many seconds, and a smaller disk
// can't be formatted.
var floor = cove.Limits{CPUs: 0.05, Memory: 32 * cove.MiB, Pids: 4, Disk: cove.MiB}

// features are the optional parts of a spec that every runtime program has.
var features = []cove.Feature{cove.FeatureOCI, cove.FeaturePlatform, cove.FeatureBind, cove.FeatureTmpfs, cove.FeatureUlimits, cove.FeatureHosts, cove.FeatureShm, cove.FeatureCapDrop}

// info declares what the runtime is and enforces. What a hierarchy that is not mounted
// would enforce is declared unsupported.
func (d *Driver) info(version string) driver.Info {
	info := driver.Info{Isolation: cove.IsolationSharedKernel, Version: version, Floor: floor, Features: features, Controls: map[cove.Control]cove.Enforcement{}}
	for _, control := range cove.Controls {
		info.Controls[control] = cove.Enforced
	}
	info.Warnings = advisory.Of(d.binary, version)
	if d.kind == kindGvisor {
		info.Isolation = cove.IsolationUserspaceKernel
	} else if !d.disks.Available() {
		info.Controls[cove.ControlDisk] = cove.Degraded // in memory, and so within the memory limit
	}
	for control, controller := range map[cove.Control]string{
		cove.ControlCPU: "cpu", cove.ControlMemory: "memory", cove.ControlPids: "pids",
	} {
		switch {
		case d.cgroups.Has(controller):
		case d.rootless && control != cove.ControlPids:
			info.Controls[control] = cove.Degraded // kept to whole processors; watched from outside
		default:
			info.Controls[control] = cove.Unsupported
		}
	}
	if d.kind == kindGvisor && info.Controls[cove.ControlPids] == cove.Unsupported {
		info.Controls[cove.ControlPids] = cove.Enforced // by gVisor's own kernel
	}
	return info
}

// program returns the path of the runtime program.
func (d *Driver) program() (string, error) {
	if d.kind == kindGvisor {
		if d.binary == "" {
			return "", errors.New("cove-runsc is missing")
		}
		if err := unix.Access(d.binary, unix.X_OK); err != nil {
			return "", fmt.Errorf("%s: %w", d.binary, err)
		}
		return filepath.Abs(d.binary)
	}
	path, err := exec.LookPath(d.binary)
	if err != nil {
		return "", fmt.Errorf("%s is not on PATH", d.binary)
	}
	return filepath.Abs(path)
}

// version returns the first line that the program prints of itself.
func (d *Driver) version(ctx context.Context, path string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, "--version")
	cmd.Env, cmd.WaitDelay, cmd.SysProcAttr = bundle.HelperEnv, time.Second, &syscall.SysProcAttr{}
	if d.rootless { // in a user namespace, to see whether there can be one
		if err := (stage{}).enter(cmd); err != nil {
			return "", err
		}
	}
	output, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s --version: %w", d.binary, err)
	}
	line, _, _ := strings.Cut(strings.TrimSpace(string(output)), "\n")
	if d.kind == kindGvisor && strings.Contains(line, "VERSION_MISSING") {
		line = "gVisor " + moduleVersion(path, "gvisor.dev/gvisor")
	}
	if len(line) > 100 {
		line = line[:100]
	}
	return line, nil
}

// moduleVersion returns the version of a module in a Go program: gVisor built from its
// module carries no release name.
func moduleVersion(program, module string) string {
	info, err := buildinfo.ReadFile(program)
	if err == nil {
		for _, dependency := range info.Deps {
			if dependency.Path == module {
				return dependency.Version
			}
		}
	}
	return "from source"
}
