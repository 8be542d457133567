package docker

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"

	"github.com/covehq/cove"
	"github.com/covehq/cove/image"
	"github.com/covehq/cove/runtime/internal/bundle"
)

// The labels of what is ours in an engine.
const (
	labelInstance = "dev.cove.instance" // tells one daemon's from another's
	labelRuntime  = "dev.cove.runtime"
	labelSandbox  = "dev.cove.sandbox"
)

// quotaVariable tells cove-runsc how large the root filesystem may become: engines have no
// other way to a runtime program.
const quotaVariable = "COVE_ROOT_SIZE"

func (d *Driver) labels(id string) map[string]string {
	return map[string]string{labelInstance: d.instance, labelRuntime: d.name, labelSandbox: id}
}

// containerName is what people see in docker ps.
func containerName(id string) string { return "cove-" + id }

// config is what the engine runs in a sandbox: our agent, and nothing of what the image says.
func (d *Driver) config(id string, spec *cove.Spec, f *facts, from *source, stdin bool) *container.Config {
	env := []string{"PATH=/usr/local/bin:/usr/bin:/bin"}
	// An image has no say in how the agent runs: a name alone takes the image's value away.
	env = append(env, "GODEBUG", "GOGC", "GOMAXPROCS", "GOMEMLIMIT", "GOTRACEBACK", "COVE_BECOME_ROOT", volumesVariable, bundle.NetworkVariable)
	if _, value := bundle.WayOut(spec); value != "" {
		env[len(env)-1] += "=" + value
	}
	if value := writtenVolumes(spec); value != "" {
		env[len(env)-2] += "=" + value
	}
	if f.podman {
		env = withoutNames(env)
	}
	if f.quota {
		env = append(env, quotaVariable+"="+strconv.FormatInt(int64(spec.Limits.Disk), 10))
	}
	hostname := image.Hostname
	if container.NetworkMode(spec.Options.NetworkMode).IsContainer() { // then it is the other one's
		hostname = ""
	}
	return &container.Config{
		Hostname: hostname, User: "0:0", WorkingDir: "/", Env: env,
		Entrypoint: []string{bundle.AgentPath}, Image: from.id, Labels: d.labels(id),
		Healthcheck: &container.HealthConfig{Test: []string{"NONE"}},
		AttachStdin: stdin, OpenStdin: stdin, AttachStdout: stdin, AttachStderr: stdin,
	}
}

// hostConfig maps a spec to what bounds a container.
func (d *Driver) hostConfig(id string, spec *cove.Spec, f *facts, from *source) (*container.HostConfig, error) {
	no := false
	config := &container.HostConfig{
		Runtime: f.runtime, NetworkMode: container.NetworkMode(cmp.Or(spec.Options.NetworkMode, "none")),
		LogConfig:      container.LogConfig{Type: "none"},
		RestartPolicy:  container.RestartPolicy{Name: container.RestartPolicyDisabled},
		Init:           &no,
		IpcMode:        container.IPCModePrivate,
		CgroupnsMode:   container.CgroupnsModePrivate,
		ReadonlyRootfs: spec.ReadOnly || f.givesDisk(),
		Privileged:     spec.Options.Privileged,
		ShmSize:        int64(min(spec.Limits.Shm, spec.Limits.Memory)),
		SecurityOpt:    []string{"no-new-privileges"},
		ExtraHosts:     extraHosts(spec),
		Resources:      resources(spec, f),
		Tmpfs:          map[string]string{},
	}
	if f.near {
		config.CgroupParent = d.cgroupParent(id, f)
	}
	if f.local {
		config.Tmpfs[agentDir] = tmpfs(cove.MiB, "mode=0700")
		config.Mounts = append(config.Mounts, mount.Mount{Type: mount.TypeBind, Source: d.options.Agent, Target: bundle.AgentPath, ReadOnly: true})
	} else {
		config.Tmpfs[agentDir+"/run"] = tmpfs(cove.MiB, "mode=0700")
		config.Mounts = append(config.Mounts, mount.Mount{Type: mount.TypeVolume, Source: from.agent, Target: agentDir, ReadOnly: true,
			VolumeOptions: &mount.VolumeOptions{NoCopy: true}})
	}
	var err error
	if config.DNS, config.DNSSearch, err = nameServers(spec); err != nil {
		return nil, err
	}
	if config.Devices, err = devices(spec.Options.Devices); err != nil {
		return nil, err
	}
	config.CapAdd, config.CapDrop = capabilities(spec, f)
	d.mounts(config, spec, f, from)
	if f.kernel == bundle.SharedKernel && spec.Options.NetworkMode == "" {
		// Engines let everybody send ICMP, which loopback itself would answer for the world.
		config.Sysctls = map[string]string{"net.ipv4.ping_group_range": "1 0"}
	}
	if f.kernel == bundle.SharedKernel {
		config.OomScoreAdj = 500 // under pressure the host kills sandboxes before itself
		if !spec.Options.Privileged {
			config.MaskedPaths, config.ReadonlyPaths = bundle.Hidden()
			profile, err := seccomp()
			if err != nil {
				return nil, err
			}
			config.SecurityOpt = append(config.SecurityOpt, "seccomp="+profile)
		}
	}
	if f.podman {
		return config, fitPodman(config, spec, f, d.dir(id))
	}
	return config, nil
}

// cgroupParent is the group in which the engine makes the container's. It carries the id of
// the sandbox, and is found also without the engine. Engines that leave cgroups to systemd
// take a slice, which goes when it is empty.
func (d *Driver) cgroupParent(id string, f *facts) string {
	if f.systemd {
		return "cove-" + id + ".slice"
	}
	return d.cgroups.Path(id)
}

// givesDisk reports whether sandboxes get a root from us: see giveDisk.
func (f *facts) givesDisk() bool { return f.near && f.kernel == bundle.SharedKernel }

// seccomp returns the profile as engines take it. Their own ones are as old as they are.
func seccomp() (string, error) {
	profile, err := bundle.Seccomp()
	if err != nil {
		return "", err
	}
	data, err := json.Marshal(profile)
	if err != nil {
		return "", err
	}
	var compact bytes.Buffer
	err = json.Compact(&compact, data)
	return compact.String(), err
}

// resources maps limits to what the engine sets for the cgroup of a sandbox.
func resources(spec *cove.Spec, f *facts) container.Resources {
	memory, pids := spec.Limits.Memory, int64(spec.Limits.Pids+bundle.AgentThreads)
	files := int64(bundle.OpenFiles())
	ulimits := []*container.Ulimit{{Name: "nofile", Soft: files, Hard: files}, {Name: "core"}}
	if f.kernel == bundle.GvisorKernel {
		memory += bundle.SentryMemory
		pids = int64(4*spec.Limits.Pids + 128) // host threads of its kernel
		limit := int64(spec.Limits.Pids)       // its kernel counts tasks by itself
		if !f.has("CAP_SYS_RESOURCE") {        // which would exempt the agent
			limit = max(limit, bundle.AgentThreads)
		}
		ulimits = append(ulimits, &container.Ulimit{Name: "nproc", Soft: limit, Hard: limit})
	}
	return container.Resources{
		Memory: int64(memory), MemorySwap: int64(memory), // together: no swap
		NanoCPUs: int64(spec.Limits.CPUs * 1e9), PidsLimit: &pids, Ulimits: ulimits,
	}
}

// capabilities returns what the agent has, and root inside, with what the spec adds to it and
// takes from it. The agent keeps what it can't work without, and takes that from commands.
func capabilities(spec *cove.Spec, f *facts) (add, drop []string) {
	wayOut, _ := bundle.WayOut(spec)
	for _, name := range slices.Concat(bundle.Without(bundle.Capabilities(f.kernel), spec.Options.CapDrop), wayOut) {
		if f.has(name) { // an engine refuses what it has not itself, also for another kernel
			add = append(add, strings.TrimPrefix(name, "CAP_"))
		}
	}
	for _, name := range spec.Options.CapAdd {
		if !slices.Contains(add, name) {
			add = append(add, name)
		}
	}
	if slices.Contains(add, cove.AllCapabilities) {
		return []string{cove.AllCapabilities}, nil
	}
	return add, []string{cove.AllCapabilities}
}

// extraHosts are lines of /etc/hosts. A sandbox in the network of another container has its file,
// and an engine refuses lines for it.
func extraHosts(spec *cove.Spec) []string {
	var hosts []string
	if !container.NetworkMode(spec.Options.NetworkMode).IsContainer() {
		hosts = append(hosts, image.Hostname+":127.0.1.1")
	}
	for _, name := range slices.Sorted(maps.Keys(spec.Hosts)) {
		hosts = append(hosts, name+":"+spec.Hosts[name])
	}
	return hosts
}

// nameServers returns what /etc/resolv.conf is to say. Without a network it says nothing of
// this machine's, which engines would copy.
func nameServers(spec *cove.Spec) (servers []netip.Addr, search []string, err error) {
	if mode := spec.Options.NetworkMode; mode != "" && mode != "none" {
		return engineServers(spec)
	}
	for _, text := range image.Resolvers {
		servers = append(servers, netip.MustParseAddr(text))
	}
	return servers, []string{"."}, nil
}

// engineServers returns what a spec wants of /etc/resolv.conf on a network of the engine's.
func engineServers(spec *cove.Spec) (servers []netip.Addr, search []string, err error) {
	for _, text := range spec.Options.DNS {
		address, err := netip.ParseAddr(text)
		if err != nil {
			return nil, nil, cove.Errorf(cove.Invalid, "create", "", fmt.Sprintf("name server %.64q is no address", text), "write it as in 10.0.0.53")
		}
		servers = append(servers, address)
	}
	return servers, nil, nil
}

// devices reads PATH[:PATH-INSIDE[:rwm]].
func devices(list []string) ([]container.DeviceMapping, error) {
	var mappings []container.DeviceMapping
	for _, text := range list {
		parts := strings.Split(text, ":")
		if len(parts) > 3 || slices.Contains(parts, "") {
			return nil, cove.Errorf(cove.Invalid, "create", "", fmt.Sprintf("device %.200q is none", text), "write it as PATH[:PATH-INSIDE[:rwm]]")
		}
		if len(parts) == 1 {
			parts = append(parts, parts[0])
		}
		if len(parts) == 2 {
			parts = append(parts, "rwm")
		}
		mappings = append(mappings, container.DeviceMapping{PathOnHost: parts[0], PathInContainer: parts[1], CgroupPermissions: parts[2]})
	}
	return mappings, nil
}

// mounts adds all that is mounted over the root filesystem.
func (d *Driver) mounts(config *container.HostConfig, spec *cove.Spec, f *facts, from *source) {
	inMemory := spec.Limits.Memory / 2
	show := func(source, target string, readOnly, whole bool) {
		config.Mounts = append(config.Mounts, mount.Mount{Type: mount.TypeBind, Source: source, Target: target, ReadOnly: readOnly,
			BindOptions: &mount.BindOptions{Propagation: mount.PropagationRPrivate, NonRecursive: !whole}})
	}
	for _, bind := range from.binds {
		show(bind.Source, bind.Target, true, true)
	}
	if spec.ReadOnly {
		size := min(inMemory, spec.Limits.Disk)
		if !hasMount(spec, "/tmp") {
			config.Tmpfs["/tmp"] = tmpfs(size, "mode=1777")
		}
		if !hasMount(spec, workspace) {
			config.Tmpfs[workspace] = tmpfs(size, "mode=0755", fmt.Sprintf("uid=%d", image.UserID), fmt.Sprintf("gid=%d", image.UserID))
		}
	}
	for _, volume := range from.volumes {
		if !hasMount(spec, volume) && strings.HasPrefix(volume, "/") && volume != "/" {
			config.Mounts = append(config.Mounts, memory(volume, inMemory))
		}
	}
	for _, m := range spec.Mounts {
		switch m.Type {
		case cove.MountTmpfs:
			options := []string{"mode=1777"}
			if m.ReadOnly {
				options = append(options, "ro")
			}
			config.Tmpfs[m.Target] = tmpfs(cmp.Or(m.Size, inMemory), options...)
		case cove.MountBind:
			show(m.Source, m.Target, m.ReadOnly, false)
		case cove.MountVolume:
			config.Mounts = append(config.Mounts, mount.Mount{Type: mount.TypeVolume, Source: m.Source, Target: m.Target, ReadOnly: m.ReadOnly})
		}
	}
}

// workspace is where commands work unless a spec says otherwise.
const workspace = cove.DefaultWorkdir

// hasMount reports whether a spec mounts something at a place itself.
func hasMount(spec *cove.Spec, target string) bool {
	return slices.ContainsFunc(spec.Mounts, func(m cove.Mount) bool { return m.Target == target })
}

// memory is a tmpfs in the form that takes the place of a volume of the image: for the other
// one, which may have programs on it, engines make the volume all the same.
func memory(target string, size cove.Bytes) mount.Mount {
	return mount.Mount{Type: mount.TypeTmpfs, Target: target, TmpfsOptions: &mount.TmpfsOptions{SizeBytes: int64(size), Mode: 0o1777}}
}

func tmpfs(size cove.Bytes, options ...string) string {
	return strings.Join(append([]string{"exec", "nosuid", "nodev", fmt.Sprintf("size=%d", size)}, options...), ",")
}
