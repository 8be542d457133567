package bundle

import (
	"fmt"
	"os"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/covehq/cove"
)

// addCapabilities gives the agent, and with it root inside, what the spec adds.
func addCapabilities(config *specs.Spec, names []string) {
	if slices.Contains(names, cove.AllCapabilities) {
		names = cove.Capabilities()
	}
	sets := config.Process.Capabilities
	for _, name := range names {
		name = "CAP_" + name
		for _, set := range []*[]string{&sets.Bounding, &sets.Effective, &sets.Permitted} {
			if !slices.Contains(*set, name) {
				*set = append(slices.Clone(*set), name)
			}
		}
	}
}

// addDevices makes devices of the host's inside, and lets the sandbox use them. Each is
// PATH:PATH-INSIDE:rwm.
func addDevices(config *specs.Spec, devices []string) error {
	for _, text := range devices {
		parts := strings.Split(text, ":")
		if len(parts) != 3 {
			return fmt.Errorf("device %q does not have three parts", text)
		}
		device, err := deviceAt(parts[0])
		if err != nil {
			return err
		}
		device.Path = parts[1]
		config.Linux.Devices = append(config.Linux.Devices, *device)
		config.Linux.Resources.Devices = append(config.Linux.Resources.Devices,
			specs.LinuxDeviceCgroup{Allow: true, Type: device.Type, Major: &device.Major, Minor: &device.Minor, Access: parts[2]})
	}
	return nil
}

// deviceAt describes the device that a path of the host's leads to.
func deviceAt(path string) (*specs.LinuxDevice, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return nil, cove.Errorf(cove.NotFound, "create", "", (&os.PathError{Op: "device", Path: path, Err: err}).Error(), "name a device of the daemon's machine")
	}
	device := &specs.LinuxDevice{Major: int64(unix.Major(st.Rdev)), Minor: int64(unix.Minor(st.Rdev)), UID: &st.Uid, GID: &st.Gid}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFCHR:
		device.Type = "c"
	case unix.S_IFBLK:
		device.Type = "b"
	default:
		return nil, cove.Errorf(cove.Invalid, "create", "", path+" is no device", "name a character or block device of the daemon's machine")
	}
	mode := os.FileMode(st.Mode & 0o777)
	device.FileMode = &mode
	return device, nil
}
