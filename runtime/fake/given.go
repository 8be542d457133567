package fake

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/covehq/cove"
)

// openSources opens what the binds among mounts show as mounts that are nowhere yet, in
// their order: a process in another mount namespace can put them where they belong, and
// can't reach them by name. Also on error, what it returns is the caller's to close.
func openSources(mounts []cove.Mount) (sources []*os.File, err error) {
	for _, m := range mounts {
		if m.Type != cove.MountBind {
			continue
		}
		fd, err := unix.OpenTree(unix.AT_FDCWD, m.Source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
		if err != nil {
			return sources, fmt.Errorf("open %s: %w", m.Source, err)
		}
		sources = append(sources, os.NewFile(uintptr(fd), m.Source))
	}
	return sources, nil
}

// firstSource is the descriptor in a sandbox's first process of the first of its sources.
const firstSource = 3

// mountGiven mounts what the spec gives the sandbox.
func (p plan) mountGiven() error {
	source := firstSource
	for _, m := range p.Mounts {
		target := filepath.Join(p.Root, m.Target)
		flags := uintptr(unix.MS_NOSUID | unix.MS_NODEV)
		if m.ReadOnly && !p.Bugs.has(GivenWritable) {
			flags |= unix.MS_RDONLY
		}
		var err error
		if m.Type == cove.MountBind {
			err = place(source, target, flags)
			source++
		} else {
			err = errors.Join(os.MkdirAll(target, 0o755), mount("tmpfs", target, "tmpfs", flags, fmt.Sprintf("mode=1777,size=%d", m.Size)))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// place puts a mount that is nowhere yet at a target, which it makes.
func place(source int, target string, flags uintptr) error {
	var stat unix.Stat_t
	if err := errors.Join(unix.Fstat(source, &stat), os.MkdirAll(filepath.Dir(target), 0o755)); err != nil {
		return err
	}
	var err error
	if stat.Mode&unix.S_IFMT == unix.S_IFDIR {
		err = os.MkdirAll(target, 0o755)
	} else {
		err = os.WriteFile(target, nil, 0o644)
	}
	if err != nil {
		return err
	}
	if err := unix.MoveMount(source, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("mount at %s: %w", target, err)
	}
	return errors.Join(unix.Close(source), mount("", target, "", unix.MS_BIND|unix.MS_REMOUNT|flags, ""))
}

// hosts are the lines of /etc/hosts that the spec asks for.
func (p plan) hosts() string {
	var lines strings.Builder
	if p.Bugs.has(HostsIgnored) {
		return ""
	}
	for _, name := range slices.Sorted(maps.Keys(p.Hosts)) {
		fmt.Fprintf(&lines, "%s %s\n", p.Hosts[name], name)
	}
	return lines.String()
}
