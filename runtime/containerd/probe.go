package containerd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/covehq/cove"
	"github.com/covehq/cove/runtime/internal/advisory"
	"github.com/covehq/cove/runtime/internal/bundle"
	"github.com/covehq/cove/sandbox/driver"
)

// The least with which a sandbox is of use: see package oci. A virtual machine has a kernel
// to boot beside that.
var (
	floor   = cove.Limits{CPUs: 0.05, Memory: 32 * cove.MiB, Pids: 4, Disk: cove.MiB}
	floorVM = cove.Limits{CPUs: 0.1, Memory: 128 * cove.MiB, Pids: 4, Disk: cove.MiB}
)

// features are the optional parts of a spec that every variant has.
var features = []cove.Feature{cove.FeatureOCI, cove.FeaturePlatform, cove.FeatureBind, cove.FeatureTmpfs, cove.FeatureUlimits, cove.FeatureHosts, cove.FeatureShm, cove.FeatureCapAdd, cove.FeatureCapDrop}

// kataFloor is the oldest Kata that is known to run what is asked of it.
const kataFloor = 3

// probe looks at the engine and at what the variant needs beside it.
func (d *Driver) probe(ctx context.Context) (driver.Info, error) {
	if os.Geteuid() != 0 {
		return driver.Info{}, d.unavailable("the daemon does not run as root", "start it as root, or use gvisor, which any user can run")
	}
	version, err := d.engine.version(ctx)
	if err != nil {
		return driver.Info{}, err
	}
	if _, err := os.Stat(d.options.Agent); err != nil {
		return driver.Info{}, d.unavailable("the guest agent is missing", "build it with make, and keep cove-agent beside cove")
	}
	if len(d.cgroups.Hierarchies) == 0 {
		return driver.Info{}, d.unavailable("no cgroup hierarchy is mounted", "mount cgroup2 on /sys/fs/cgroup")
	}
	info := d.info("containerd " + version)
	info.Warnings = advisory.Of("containerd", version)
	path := d.engine.path(ctx)
	shim, err := findProgram(path, d.variant.shimProgram())
	if d.variant.kernel == bundle.GuestKernel {
		if virtual := canVirtualize(kvm); virtual != nil {
			return driver.Info{}, d.unavailable(together(virtual, err), virtualHint)
		}
	}
	if err != nil {
		return driver.Info{}, d.unavailable(err.Error(), d.shimHint())
	}
	switch d.variant.kernel {
	case bundle.GvisorKernel:
		if err := unix.Access(d.options.Runsc, unix.X_OK); err != nil {
			return driver.Info{}, d.unavailable("cove-runsc is missing", "build it with make, and keep cove-runsc beside cove")
		}
	case bundle.GuestKernel:
		line, err := firstLine(ctx, shim, "--version")
		if err != nil {
			return driver.Info{}, d.unavailable(err.Error(), "run "+shim+" --version to see what is wrong")
		}
		release, err := kataVersion(line)
		if err != nil {
			return driver.Info{}, d.unavailable(err.Error(), d.shimHint())
		}
		info.Version += ", kata " + release
	default:
		if d.variant.shim != runcShim {
			break
		}
		program, err := findProgram(path, "runc")
		if err != nil {
			return driver.Info{}, d.unavailable(err.Error(), "install runc, or have it on the PATH of containerd")
		}
		first, err := firstLine(ctx, program, "--version")
		if err != nil {
			return driver.Info{}, d.unavailable(err.Error(), "run "+program+" --version to see what is wrong")
		}
		info.Version += ", " + strings.Replace(first, "runc version", "runc", 1)
		info.Warnings = append(info.Warnings, advisory.Of("runc", first)...)
	}
	return info, nil
}

// info declares what the variant is and enforces. What a hierarchy that is not mounted would
// enforce is declared unsupported, unless a kernel of the sandbox's own does.
func (d *Driver) info(version string) driver.Info {
	info := driver.Info{Isolation: d.variant.isolation, Version: version, Floor: floor, Features: features, Controls: map[cove.Control]cove.Enforcement{}}
	for _, control := range cove.Controls {
		info.Controls[control] = cove.Enforced
	}
	switch d.variant.kernel {
	case bundle.GuestKernel:
		info.Floor = floorVM
	case bundle.SharedKernel: // a device of the host means nothing to another kernel
		info.Features = append(slices.Clone(features), cove.FeatureDevices)
	}
	if d.variant.kernel != bundle.GvisorKernel && !d.disks.Available() {
		info.Controls[cove.ControlDisk] = cove.Degraded // in memory, and so within the memory limit
	}
	for control, controller := range map[cove.Control]string{
		cove.ControlCPU: "cpu", cove.ControlMemory: "memory", cove.ControlPids: "pids",
	} {
		if !d.cgroups.Has(controller) && d.variant.kernel != bundle.GuestKernel {
			info.Controls[control] = cove.Unsupported
		}
	}
	if d.variant.kernel == bundle.GvisorKernel {
		info.Controls[cove.ControlPids] = cove.Enforced // by gVisor's own kernel too
	}
	return info
}

// shimHint says how to get the variant's shim.
func (d *Driver) shimHint() string {
	switch {
	case d.variant.kernel == bundle.GuestKernel:
		return "install Kata Containers 3 or newer (https://katacontainers.io, kata-static into /opt/kata), and link " +
			d.variant.shimProgram() + " into /usr/local/bin"
	case d.variant.shim == runcShim:
		return "install containerd whole: the shim comes with it"
	}
	return "install the shim, and have it on the PATH of containerd"
}

// kvm is the host's door to virtual machines.
const kvm = "/dev/kvm"

const virtualHint = "use a machine with hardware virtualization, or of a cloud that passes it on, and load kvm_intel or kvm_amd; " +
	"or use containerd:gvisor, which needs none"

// together is what is wrong, in one line.
func together(errs ...error) string {
	var texts []string
	for _, err := range errs {
		if err != nil {
			texts = append(texts, err.Error())
		}
	}
	return strings.Join(texts, ", and ")
}

// canVirtualize opens the device as a virtual machine monitor does.
func canVirtualize(device string) error {
	file, err := os.OpenFile(device, os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("this machine has no %s", device)
	}
	if err != nil {
		return fmt.Errorf("%s can't be used: %w", device, err)
	}
	return file.Close()
}

var versionPattern = regexp.MustCompile(`\b([0-9]{1,3})\.[0-9]{1,3}\.[0-9]{1,3}\b`)

// kataVersion reads what a shim of Kata's says of itself, and refuses one that is too old.
func kataVersion(line string) (string, error) {
	match := versionPattern.FindStringSubmatch(line)
	if match == nil {
		return "", fmt.Errorf("the shim does not tell its version: %q", line)
	}
	if major, _ := strconv.Atoi(match[1]); major < kataFloor {
		return "", fmt.Errorf("kata %s is too old", match[0])
	}
	return match[0], nil
}

// findProgram returns where a program is on a PATH that is not ours.
func findProgram(path, name string) (string, error) {
	for _, dir := range filepath.SplitList(path) {
		file := filepath.Join(dir, name)
		if info, err := os.Stat(file); filepath.IsAbs(dir) && err == nil && info.Mode().IsRegular() && unix.Access(file, unix.X_OK) == nil {
			return file, nil
		}
	}
	return "", fmt.Errorf("%s is not on the PATH of containerd", name)
}

// firstLine returns the first line that a program prints.
func firstLine(ctx context.Context, program string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env, cmd.WaitDelay = bundle.HelperEnv, time.Second
	output, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w", filepath.Base(program), strings.Join(args, " "), err)
	}
	line, _, _ := strings.Cut(strings.TrimSpace(string(output)), "\n")
	return strings.ToValidUTF8(line[:min(len(line), 200)], "?"), nil
}
