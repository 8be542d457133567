package sandbox

import (
	"fmt"
	"maps"
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/covehq/cove"
)

// The bounds of the lists in a spec.
const (
	maxMounts  = 64
	maxPorts   = 64
	maxHosts   = 256
	maxOptions = 64 // of each kind
)

var (
	volumePattern   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{1,62}$`)
	platformPattern = regexp.MustCompile(`^[a-z0-9]{1,16}/[a-z0-9_]{1,16}(/[a-z0-9_.]{1,16})?$`)
	networkPattern  = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}(:[A-Za-z0-9][A-Za-z0-9_.-]{0,127})?$`)
	hostPattern     = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_-]{0,62})(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,62}))*$`)
	accessPattern   = regexp.MustCompile(`^r?w?m?$`)
)

// ulimits are the resource limits of getrlimit(2), as prlimit(1) and Docker name them.
var ulimits = []string{
	"as", "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc", "rss", "rtprio",
	"rttime", "sigpending", "stack",
}

// normal returns the spec with what can be written in several ways in the one that
// drivers get, and with the defaults of the parts of its lists. The lists are copied.
func normal(s cove.Spec) cove.Spec {
	s.Mounts = slices.Clone(s.Mounts)
	for i := range s.Mounts {
		if mount := &s.Mounts[i]; mount.Type == cove.MountTmpfs && mount.Size == 0 {
			mount.Size = s.Limits.Memory / 2
		}
	}
	s.Ports = slices.Clone(s.Ports)
	for i := range s.Ports {
		if port := &s.Ports[i]; port.Address == "" {
			port.Address = "127.0.0.1"
		} else if address, err := netip.ParseAddr(port.Address); err == nil {
			port.Address = address.Unmap().String()
		}
	}
	s.Ulimits, s.Hosts = slices.Clone(s.Ulimits), maps.Clone(s.Hosts)
	for _, list := range []*[]string{&s.Options.CapAdd, &s.Options.CapDrop} {
		*list = slices.Clone(*list)
		for i, name := range *list {
			(*list)[i], _ = cove.ParseCapability(name)
		}
	}
	s.Options.Devices = slices.Clone(s.Options.Devices)
	for i, text := range s.Options.Devices {
		if device, ok := parseDevice(text); ok {
			s.Options.Devices[i] = device
		}
	}
	s.Options.DNS = slices.Clone(s.Options.DNS)
	return s
}

// parseDevice completes PATH[:PATH-INSIDE][:rwm] to all three parts.
func parseDevice(text string) (string, bool) {
	parts := strings.Split(text, ":")
	device := []string{parts[0], parts[0], "rwm"}
	switch {
	case len(parts) == 3:
		device = parts
	case len(parts) == 2 && strings.HasPrefix(parts[1], "/"):
		device[1] = parts[1]
	case len(parts) == 2:
		device[2] = parts[1]
	case len(parts) > 3:
		return "", false
	}
	return strings.Join(device, ":"), validDevice(device)
}

func validDevice(device []string) bool {
	return strings.HasPrefix(device[0], "/dev/") && isClean(device[0]) && strings.HasPrefix(device[1], "/dev/") && isClean(device[1]) &&
		device[2] != "" && accessPattern.MatchString(device[2])
}

func isClean(name string) bool {
	return path.IsAbs(name) && path.Clean(name) == name && len(name) <= maxPath && printable(name)
}

// tooMany notes a list that is longer than most, and reports whether it is.
func tooMany(p *problems, name string, length, most int) bool {
	if length > most {
		p.invalid(fmt.Sprintf("keep %s within %d", name, most), "%d %s are more than %d", length, name, most)
	}
	return length > most
}

// checkLists notes what is wrong with those parts of a complete spec that are lists, and
// with its options.
func checkLists(p *problems, s *cove.Spec) {
	checkMounts(p, s)
	checkPorts(p, s.Ports)
	checkUlimits(p, s.Ulimits)
	checkHosts(p, s.Hosts)
	checkOptions(p, s.Options)
	if s.Platform != "" && !platformPattern.MatchString(s.Platform) {
		p.invalid("write a platform as os/architecture, such as linux/arm64 or linux/arm/v7", "platform %s is not a platform", quote(s.Platform))
	}
	if shm := s.Limits.Shm; shm <= 0 {
		p.invalid("leave shm out for 64MiB", "shm %v is not above 0", shm)
	} else if shm > s.Limits.Memory && shm != cove.DefaultShm {
		p.invalid("raise the memory limit, or lower shm, which is part of it", "shm %v is above the memory limit %v", shm, s.Limits.Memory)
	}
}

// reserved are the places inside that are the sandbox's own.
var reserved = []string{"/proc", "/sys", "/dev", "/.cove"}

func checkMounts(p *problems, s *cove.Spec) {
	if tooMany(p, "mounts", len(s.Mounts), maxMounts) {
		return
	}
	seen := map[string]bool{}
	for _, mount := range s.Mounts {
		const hint = "give the target as an absolute path without .. and doubled slashes, outside /proc, /sys, /dev and /.cove"
		switch place := mount.Target; {
		case !isClean(place) || place == "/":
			p.invalid(hint, "mount target %s is not an absolute, clean path below /", quote(place))
		case slices.ContainsFunc(reserved, func(own string) bool { return place == own || strings.HasPrefix(place, own+"/") }):
			p.invalid(hint, "mount target %s is the sandbox's own", quote(place))
		case seen[place]:
			p.invalid("give each mount a target of its own", "mount target %s is there twice", quote(place))
		}
		seen[mount.Target] = true
		checkSource(p, mount, s.Limits.Memory)
	}
}

func checkSource(p *problems, mount cove.Mount, memory cove.Bytes) {
	where := quote(mount.Target)
	if mount.Remove && mount.Type != cove.MountVolume {
		p.invalid("leave remove out: only a named volume can be removed with the sandbox", "the mount at %s is no volume to remove", where)
	}
	switch mount.Type {
	case cove.MountBind:
		if !isClean(mount.Source) {
			p.invalid("give the source as an absolute path of the daemon's machine, without .. and doubled slashes",
				"source %s of the mount at %s is not an absolute, clean path", quote(mount.Source), where)
		}
	case cove.MountVolume:
		if !volumePattern.MatchString(mount.Source) {
			p.invalid("name a volume with 2 to 63 letters, digits, ., _ and -; a directory of the host is of type bind",
				"source %s of the mount at %s is not the name of a volume", quote(mount.Source), where)
		}
	case cove.MountTmpfs:
		if mount.Source != "" {
			p.invalid("leave the source of a tmpfs out", "the tmpfs at %s has a source", where)
		}
		if mount.Size < 0 || mount.Size > memory && memory > 0 {
			p.invalid("lower its size, or raise the memory limit, which it is part of", "size %v of the tmpfs at %s is not within the memory limit %v", mount.Size, where, memory)
		}
		return
	default:
		p.invalid("use bind, volume or tmpfs", "type %s of the mount at %s is unknown", quote(string(mount.Type)), where)
	}
	if mount.Size != 0 {
		p.invalid("leave the size out: only a tmpfs has one", "the mount at %s has a size", where)
	}
}

func checkPorts(p *problems, ports []cove.Port) {
	if tooMany(p, "ports", len(ports), maxPorts) {
		return
	}
	const hint = "use ports from 1 to 65535, and host_port 0 for a free one"
	taken := map[string]bool{}
	for _, port := range ports {
		if port.Port < 1 || port.Port > 65535 {
			p.invalid(hint, "there is no port %d", port.Port)
		}
		if port.HostPort < 0 || port.HostPort > 65535 {
			p.invalid(hint, "there is no host_port %d", port.HostPort)
		}
		address, err := netip.ParseAddr(port.Address)
		if err != nil || address.Zone() != "" {
			p.invalid("give an IP address of the daemon's machine, such as 127.0.0.1", "address %s of port %d is not an IP address", quote(port.Address), port.Port)
		}
		place := address.String() + " " + strconv.Itoa(port.HostPort)
		if port.HostPort != 0 && taken[place] {
			p.invalid("give each port a host_port of its own", "host_port %d of %s is there twice", port.HostPort, address)
		}
		taken[place] = true
	}
}

func checkUlimits(p *problems, list []cove.Ulimit) {
	seen := map[string]bool{}
	for _, limit := range list[:min(len(list), len(ulimits)+1)] {
		switch {
		case !slices.Contains(ulimits, limit.Name):
			p.invalid("use one of "+strings.Join(ulimits, " "), "there is no ulimit %s", quote(limit.Name))
		case seen[limit.Name]:
			p.invalid("give each ulimit once", "ulimit %s is there twice", limit.Name)
		case limit.Hard >= 0 && (limit.Soft < 0 || limit.Soft > limit.Hard):
			p.invalid("let the soft limit be at most the hard one", "ulimit %s has a soft limit above its hard limit %d", limit.Name, limit.Hard)
		}
		seen[limit.Name] = true
	}
}

func checkHosts(p *problems, hosts map[string]string) {
	if tooMany(p, "hosts", len(hosts), maxHosts) {
		return
	}
	for _, name := range slices.Sorted(maps.Keys(hosts)) {
		if len(name) > 253 || !hostPattern.MatchString(name) {
			p.invalid("name hosts with letters, digits, ., _ and -", "host %s is not a name", quote(name))
		}
		if address, err := netip.ParseAddr(hosts[name]); err != nil || address.Zone() != "" {
			p.invalid("give hosts their IP address, such as 192.0.2.1", "address %s of host %s is not an IP address", quote(hosts[name]), quote(name))
		}
	}
}

func checkOptions(p *problems, o cove.Options) {
	for name, list := range map[string][]string{"cap_add": o.CapAdd, "cap_drop": o.CapDrop, "devices": o.Devices, "dns": o.DNS} {
		if tooMany(p, name, len(list), maxOptions) {
			return
		}
	}
	for _, name := range slices.Concat(o.CapAdd, o.CapDrop) {
		if normal, known := cove.ParseCapability(name); !known || normal != name {
			p.invalid("use a name of capabilities(7), such as NET_ADMIN, or ALL", "there is no capability %s", quote(name))
		}
	}
	for _, text := range o.Devices {
		if _, ok := parseDevice(text); !ok {
			p.invalid("write a device as PATH[:PATH-INSIDE[:rwm]], such as /dev/fuse or /dev/sda:/dev/disk:r", "device %s is not one of /dev", quote(text))
		}
	}
	if o.NetworkMode != "" && !networkPattern.MatchString(o.NetworkMode) {
		p.invalid("use a network of the engine, such as bridge", "network_mode %s is not the name of a network", quote(o.NetworkMode))
	}
	for _, text := range o.DNS {
		if address, err := netip.ParseAddr(text); err != nil || address.Zone() != "" {
			p.invalid("give name servers by IP address, such as 192.0.2.53", "dns %s is not an IP address", quote(text))
		}
	}
	if len(o.DNS) > 0 && o.NetworkMode == "" {
		p.invalid("add network_mode, or leave dns out", "dns has no effect without a network")
	}
}
