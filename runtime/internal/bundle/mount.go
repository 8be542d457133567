package bundle

import (
	"cmp"
	"fmt"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/covehq/cove"
	"github.com/covehq/cove/image"
)

// mounts returns all that is mounted over a sandbox's root filesystem.
func (t Template) mounts(binds []image.Bind, spec *cove.Spec) []specs.Mount {
	inMemory := spec.Limits.Memory / 2
	mounts := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"}},
		tmpfs("/dev/shm", min(spec.Limits.Memory, spec.Limits.Shm), "noexec", "mode=1777"),
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
	}
	for _, bind := range binds {
		mounts = append(mounts, specs.Mount{Destination: bind.Target, Type: "bind", Source: bind.Source, Options: []string{"rbind", "ro", "nosuid", "nodev"}})
	}
	if spec.ReadOnly {
		mounts = append(mounts,
			tmpfs("/tmp", min(inMemory, spec.Limits.Disk), "mode=1777"),
			tmpfs("/workspace", min(inMemory, spec.Limits.Disk), "mode=0755", fmt.Sprintf("uid=%d", image.UserID), fmt.Sprintf("gid=%d", image.UserID)))
	}
	mounts = append(mounts, volumes(t.Volumes, spec)...)
	for _, mount := range spec.Mounts {
		switch mount.Type {
		case cove.MountTmpfs:
			options := []string{"mode=1777"}
			if mount.ReadOnly {
				options = append(options, "ro")
			}
			mounts = append(mounts, tmpfs(mount.Target, cmp.Or(mount.Size, inMemory), options...))
		case cove.MountBind:
			access := "rw"
			if mount.ReadOnly {
				access = "ro"
			}
			mounts = append(mounts, specs.Mount{Destination: mount.Target, Type: "bind", Source: mount.Source, Options: []string{"bind", access, "nosuid", "nodev"}})
		}
	}
	return append(mounts,
		tmpfs("/.cove", cove.MiB, "mode=0700"),
		specs.Mount{Destination: AgentPath, Type: "bind", Source: t.Agent, Options: []string{"bind", "ro", "nosuid", "nodev"}})
}

func tmpfs(target string, size cove.Bytes, options ...string) specs.Mount {
	return specs.Mount{Destination: target, Type: "tmpfs", Source: "tmpfs",
		Options: append([]string{"nosuid", "nodev", fmt.Sprintf("size=%d", size)}, options...)}
}
