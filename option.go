package cove

import "strings"

// MountType is what a mount shows.
type MountType string

// The types.
const (
	MountBind   MountType = "bind"   // a directory or file of the daemon's machine
	MountVolume MountType = "volume" // a named directory that outlives sandboxes, of the runtime's engine
	MountTmpfs  MountType = "tmpfs"  // memory, within the memory limit
)

// Mount is something from outside the image that is seen inside.
type Mount struct {
	Type     MountType `json:"type" enum:"bind,volume,tmpfs"`
	Source   string    `json:"source,omitempty" doc:"bind: absolute path on the daemon's machine; volume: its name"`
	Target   string    `json:"target" doc:"absolute path inside; made if it is not there"`
	ReadOnly bool      `json:"read_only,omitempty"`
	Size     Bytes     `json:"size,omitempty" doc:"tmpfs: its size; default half of the memory limit"`
	Remove   bool      `json:"remove,omitempty" doc:"volume: it is made for the sandbox and removed with it; one that is there already is a conflict"`
}

// Port is a TCP port inside that is open on the daemon's machine. Its connections go by
// the agent, so that it works without a network.
type Port struct {
	Port     int    `json:"port" doc:"inside" example:"8000"`
	HostPort int    `json:"host_port,omitempty" doc:"on the daemon's machine; 0: a free one, which the reply names"`
	Address  string `json:"address,omitempty" doc:"address of the daemon's machine; default 127.0.0.1" example:"127.0.0.1"`
}

// Ulimit is a resource limit of each process. A negative number is no limit.
type Ulimit struct {
	Name string `json:"name" doc:"in lower case without RLIMIT_" example:"nofile"`
	Soft int64  `json:"soft"`
	Hard int64  `json:"hard"`
}

// Options is what single runtimes have and Cove has no portable word for. Most of it
// weakens the isolation and so is refused unless the operator's policy allows it.
type Options struct {
	CapAdd      []string `json:"cap_add,omitempty" doc:"capabilities that commands have, as in NET_ADMIN"`
	CapDrop     []string `json:"cap_drop,omitempty" doc:"capabilities that root inside has not, or ALL"`
	Privileged  bool     `json:"privileged,omitempty" doc:"no isolation worth the name"`
	Devices     []string `json:"devices,omitempty" doc:"devices of the host, PATH[:PATH-INSIDE[:rwm]]"`
	NetworkMode string   `json:"network_mode,omitempty" doc:"a network of the engine: bridge, host or a name"`
	DNS         []string `json:"dns,omitempty" doc:"addresses of name servers, with a network of the engine"`
}

// Feature names a part of a Spec that not every runtime has, by its path in JSON.
type Feature string

// The features.
const (
	FeatureOCI         Feature = "image"    // OCI references and archives
	FeaturePlatform    Feature = "platform" // other than the host's
	FeatureBind        Feature = "mounts.bind"
	FeatureVolume      Feature = "mounts.volume"
	FeatureTmpfs       Feature = "mounts.tmpfs"
	FeatureUlimits     Feature = "ulimits"
	FeatureHosts       Feature = "hosts"
	FeatureShm         Feature = "limits.shm"
	FeatureCapAdd      Feature = "options.cap_add"
	FeatureCapDrop     Feature = "options.cap_drop"
	FeaturePrivileged  Feature = "options.privileged"
	FeatureDevices     Feature = "options.devices"
	FeatureNetworkMode Feature = "options.network_mode"
	FeatureDNS         Feature = "options.dns"
)

// Features returns the features that the spec uses, each once.
func (s *Spec) Features() []Feature {
	var used []Feature
	note := func(feature Feature, uses bool) {
		if uses {
			used = append(used, feature)
		}
	}
	mounts := map[MountType]bool{}
	for _, mount := range s.Mounts {
		mounts[mount.Type] = true
	}
	note(FeatureOCI, s.Image != "" && s.Image != DefaultImage && !strings.HasPrefix(s.Image, "rootfs:"))
	note(FeaturePlatform, s.Platform != "")
	note(FeatureBind, mounts[MountBind])
	note(FeatureVolume, mounts[MountVolume])
	note(FeatureTmpfs, mounts[MountTmpfs])
	note(FeatureUlimits, len(s.Ulimits) > 0)
	note(FeatureHosts, len(s.Hosts) > 0)
	note(FeatureShm, s.Limits.Shm != 0 && s.Limits.Shm != DefaultShm)
	note(FeatureCapAdd, len(s.Options.CapAdd) > 0)
	note(FeatureCapDrop, len(s.Options.CapDrop) > 0)
	note(FeaturePrivileged, s.Options.Privileged)
	note(FeatureDevices, len(s.Options.Devices) > 0)
	note(FeatureNetworkMode, s.Options.NetworkMode != "")
	note(FeatureDNS, len(s.Options.DNS) > 0)
	return used
}
