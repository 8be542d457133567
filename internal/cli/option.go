package cli

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/covehq/cove"
)

// optionFlags adds the flags of what a sandbox is given beside its image: they are written
// as Docker's are. What reaches the host needs the operator's policy.
func optionFlags(flags *pflag.FlagSet, spec *cove.Spec) {
	repeated := func(name, short, kind, help string, add func(string) error) {
		flags.VarP(repeatable{add, kind}, name, short, help+" (repeatable)")
	}
	repeated("mount", "", "KEY=VALUE,…", "type=bind,src=DIR,dst=PATH[,ro], type=volume,src=NAME,dst=PATH[,ro][,remove] or type=tmpfs,dst=PATH[,size=64m]; bind needs the policy, volume is docker's", adder(&spec.Mounts, parseMount))
	repeated("volume", "v", "SRC:DST[:ro]", "directory of the host, which needs the policy, or named volume of the engine, on docker", adder(&spec.Mounts, parseVolume))
	repeated("tmpfs", "", "PATH[:size=SIZE]", "memory at a path, within the memory limit", adder(&spec.Mounts, parseTmpfs))
	repeated("publish", "p", "[[IP:]PORT:]PORT", "port inside that is open on the daemon's machine, on 127.0.0.1 unless the policy allows more; a free one if none is named", adder(&spec.Ports, parsePort))
	repeated("ulimit", "", "NAME=SOFT[:HARD]", "resource limit of each process, as in nofile=1024:4096", adder(&spec.Ulimits, parseUlimit))
	repeated("add-host", "", "NAME:IP", "line of /etc/hosts", func(text string) error { return addHost(&spec.Hosts, text) })
	flags.Var(bytesFlag(&spec.Limits.Shm), "shm-size", "size of /dev/shm, within the memory limit; default 64m")
	repeated("cap-add", "", "NAME", "capability of commands, as in NET_ADMIN; docker and containerd, needs the policy", adder(&spec.Options.CapAdd, text))
	repeated("cap-drop", "", "NAME", "capability that root inside has not, or ALL", adder(&spec.Options.CapDrop, text))
	flags.BoolVar(&spec.Options.Privileged, "privileged", false, "no isolation worth the name; docker, needs the policy")
	repeated("device", "", "PATH[:PATH[:rwm]]", "device of the host; docker and containerd, needs the policy", adder(&spec.Options.Devices, text))
	flags.StringVar(&spec.Options.NetworkMode, "network-mode", "", "network of the engine: bridge, host or a name; docker, needs the policy")
	repeated("dns", "", "IP", "name server, with --network-mode", adder(&spec.Options.DNS, text))
}

// completeOptions offers values for the flags of optionFlags that have a few.
func completeOptions(cmd *cobra.Command) {
	for name, values := range map[string][]string{
		"mount":        {"type=bind,", "type=volume,", "type=tmpfs,"},
		"network-mode": {"bridge", "host"},
		"cap-drop":     {cove.AllCapabilities},
	} {
		must(cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp|cobra.ShellCompDirectiveNoSpace)))
	}
}

// repeatable is a flag that may be given often.
type repeatable struct {
	add  func(string) error
	kind string
}

// Set implements pflag.Value.
func (r repeatable) Set(text string) error { return r.add(text) }

// String implements pflag.Value.
func (repeatable) String() string { return "" }

// Type implements pflag.Value.
func (r repeatable) Type() string { return r.kind }

// adder adds to a list what parse makes of a flag's value.
func adder[T any](to *[]T, parse func(string) (T, error)) func(string) error {
	return func(text string) error {
		value, err := parse(text)
		if err == nil {
			*to = append(*to, value)
		}
		return err
	}
}

func text(value string) (string, error) {
	if value == "" {
		return "", errors.New("the value is empty")
	}
	return value, nil
}

// parseMount reads --mount, as in type=bind,src=/srv,dst=/data,ro.
func parseMount(text string) (cove.Mount, error) {
	mount := cove.Mount{Type: cove.MountVolume} // as Docker has it
	for field := range strings.SplitSeq(text, ",") {
		key, value, given := strings.Cut(field, "=")
		var err error
		switch key {
		case "type":
			mount.Type = cove.MountType(value)
		case "src", "source":
			mount.Source = value
		case "dst", "target", "destination":
			mount.Target = value
		case "ro", "readonly":
			mount.ReadOnly, err = parseSwitch(value, given)
		case "remove":
			mount.Remove, err = parseSwitch(value, given)
		case "size", "tmpfs-size":
			mount.Size, err = cove.ParseBytes(value)
		default:
			err = fmt.Errorf("%s is not one of type, src, dst, ro, remove and size", quote(key))
		}
		if err != nil {
			return mount, err
		}
	}
	if mount.Type == cove.MountBind {
		return absolute(mount)
	}
	return mount, nil
}

// parseSwitch reads what may stand without a value, as in ro or ro=true.
func parseSwitch(value string, given bool) (bool, error) {
	if !given {
		return true, nil
	}
	return strconv.ParseBool(value)
}

// absolute completes a relative source, which is below the directory of this program.
func absolute(mount cove.Mount) (cove.Mount, error) {
	if mount.Source == "" {
		return mount, errors.New("a bind needs a source, as in src=/srv/data")
	}
	var err error
	mount.Source, err = filepath.Abs(mount.Source)
	return mount, err
}

// parseVolume reads --volume, as in /srv:/data:ro or cache:/root/.cache. A source with a
// slash, or of dots, is a directory of the host.
func parseVolume(text string) (cove.Mount, error) {
	parts := strings.Split(text, ":")
	if len(parts) < 2 || len(parts) > 3 || parts[0] == "" || parts[1] == "" {
		return cove.Mount{}, fmt.Errorf("%s is not SOURCE:TARGET[:ro]", quote(text))
	}
	mount := cove.Mount{Type: cove.MountVolume, Source: parts[0], Target: parts[1]}
	if len(parts) == 3 {
		switch parts[2] {
		case "ro":
			mount.ReadOnly = true
		case "rw":
		default:
			return mount, fmt.Errorf("%s is neither ro nor rw", quote(parts[2]))
		}
	}
	if strings.Contains(parts[0], "/") || strings.HasPrefix(parts[0], ".") {
		mount.Type = cove.MountBind
		return absolute(mount)
	}
	return mount, nil
}

// parseTmpfs reads --tmpfs, as in /scratch or /scratch:size=64m.
func parseTmpfs(text string) (cove.Mount, error) {
	target, options, _ := strings.Cut(text, ":")
	mount := cove.Mount{Type: cove.MountTmpfs, Target: target}
	for option := range strings.SplitSeq(options, ",") {
		key, value, _ := strings.Cut(option, "=")
		switch key {
		case "", "rw":
		case "ro":
			mount.ReadOnly = true
		case "size":
			size, err := cove.ParseBytes(value)
			if err != nil {
				return mount, err
			}
			mount.Size = size
		default:
			return mount, fmt.Errorf("%s is not one of size, ro and rw", quote(key))
		}
	}
	return mount, nil
}

// parsePort reads --publish, as in 8000, 8080:80, 127.0.0.1::80 or [::1]:8080:80/tcp.
func parsePort(text string) (port cove.Port, err error) {
	bad := fmt.Errorf("%s is not [[IP:]PORT:]PORT, as in 8080:80", quote(text))
	rest, protocol, given := strings.Cut(text, "/")
	if given && protocol != "tcp" {
		return port, fmt.Errorf("%s is not TCP, and other ports can't be open", quote(text))
	}
	number := func(text string) (int, error) {
		n, err := strconv.ParseUint(text, 10, 16)
		if err != nil || n == 0 || strconv.FormatUint(n, 10) != text {
			return 0, bad
		}
		return int(n), nil
	}
	last := strings.LastIndex(rest, ":")
	if port.Port, err = number(rest[last+1:]); err != nil || last < 0 {
		return port, err
	}
	rest = rest[:last]
	last = strings.LastIndex(rest, ":")
	if host := rest[last+1:]; host != "" {
		if port.HostPort, err = number(host); err != nil {
			return port, err
		}
	}
	if last < 0 {
		if port.HostPort == 0 {
			err = bad
		}
		return port, err
	}
	address, err := netip.ParseAddr(strings.Trim(rest[:last], "[]"))
	if err != nil {
		return port, bad
	}
	port.Address = address.String()
	return port, nil
}

// parseUlimit reads --ulimit, as in nofile=1024 or nofile=1024:4096.
func parseUlimit(text string) (cove.Ulimit, error) {
	name, limits, given := strings.Cut(text, "=")
	soft, hard, both := strings.Cut(limits, ":")
	if !both {
		hard = soft
	}
	least, softErr := parseLimit(soft)
	most, hardErr := parseLimit(hard)
	if !given || name == "" || softErr != nil || hardErr != nil {
		return cove.Ulimit{}, fmt.Errorf("%s is not NAME=SOFT[:HARD], as in nofile=1024:4096", quote(text))
	}
	return cove.Ulimit{Name: name, Soft: least, Hard: most}, nil
}

func parseLimit(text string) (int64, error) {
	if text == "unlimited" {
		return -1, nil
	}
	return strconv.ParseInt(text, 10, 64)
}

// addHost reads --add-host, as in db:192.0.2.1 or db=2001:db8::1.
func addHost(to *map[string]string, text string) error {
	name, address, given := strings.Cut(text, "=")
	if !given {
		name, address, given = strings.Cut(text, ":")
	}
	if !given || name == "" || address == "" {
		return fmt.Errorf("%s is not NAME:IP", quote(text))
	}
	put(to, name, strings.Trim(address, "[]"))
	return nil
}
