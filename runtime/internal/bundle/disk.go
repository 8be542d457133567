package bundle

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/covehq/cove"
)

// Disks makes the writable layers of sandboxes on the host's kernel: file systems of a
// fixed size in sparse files, since a directory of the host has no quota. A formatted
// template of each size is kept, for mkfs takes longer than the rest of a create.
type Disks struct {
	Dir string // where the files are; it is made when it is needed

	mu sync.Mutex
}

// Available reports whether this host can make and mount such a disk.
func (d *Disks) Available() bool {
	_, err := exec.LookPath("mkfs.ext4")
	return err == nil && unix.Access("/dev/loop-control", unix.R_OK|unix.W_OK) == nil
}

// mount mounts a fresh disk of size on target. The file behind it has no name any more when
// mount returns: it goes with the mount.
func (d *Disks) mount(ctx context.Context, size cove.Bytes, target string) error {
	template, err := d.template(ctx, size)
	if err != nil {
		return err
	}
	defer template.Close()
	file, err := os.CreateTemp(d.Dir, "disk-*.tmp")
	if err != nil {
		return err
	}
	defer file.Close()
	defer os.Remove(file.Name())
	if err := copySparse(file, template); err != nil {
		return fmt.Errorf("disk: %w", err)
	}
	return mountLoop(file, target)
}

// template opens the formatted file of a size.
func (d *Disks) template(ctx context.Context, size cove.Bytes) (*os.File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	path := filepath.Join(d.Dir, fmt.Sprintf("%d.ext4", size))
	file, err := os.Open(path)
	if !errors.Is(err, os.ErrNotExist) {
		return file, err
	}
	if err := os.MkdirAll(d.Dir, 0o700); err != nil {
		return nil, err
	}
	if err := d.prune(); err != nil {
		return nil, err
	}
	partial := path + ".partial"
	if err := os.RemoveAll(partial); err != nil {
		return nil, err
	}
	if err := os.WriteFile(partial, nil, 0o600); err != nil {
		return nil, err
	}
	if err := os.Truncate(partial, int64(size)); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	// No journal and nothing reserved: the disk is thrown away, never repaired.
	cmd := exec.CommandContext(ctx, "mkfs.ext4", "-q", "-F", "-m", "0", "-O", "^has_journal,^resize_inode",
		"-E", "lazy_itable_init=1,nodiscard,root_owner=0:0", partial)
	cmd.Env, cmd.WaitDelay = HelperEnv, time.Second
	if output, err := cmd.CombinedOutput(); err != nil {
		os.Remove(partial)
		return nil, fmt.Errorf("mkfs.ext4: %w: %s", err, strings.TrimSpace(string(output)))
	}
	if err := os.Rename(partial, path); err != nil {
		return nil, err
	}
	return os.Open(path)
}

// maxTemplates bounds how many sizes are kept formatted.
const maxTemplates = 16

// prune removes the oldest templates, and what a crash left of a disk.
func (d *Disks) prune() error {
	entries, err := os.ReadDir(d.Dir)
	if err != nil {
		return err
	}
	var oldest string
	var at time.Time
	templates := 0
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil {
			continue
		}
		path := filepath.Join(d.Dir, entry.Name())
		switch {
		case strings.HasSuffix(entry.Name(), ".tmp") && time.Since(info.ModTime()) > time.Hour:
			os.Remove(path)
		case strings.HasSuffix(entry.Name(), ".ext4"):
			templates++
			if oldest == "" || info.ModTime().Before(at) {
				oldest, at = path, info.ModTime()
			}
		}
	}
	if templates >= maxTemplates {
		return os.Remove(oldest)
	}
	return nil
}

// copySparse makes out a copy of in: shared blocks where the file system can, else the
// parts that hold data.
func copySparse(out, in *os.File) error {
	if unix.IoctlFileClone(int(out.Fd()), int(in.Fd())) == nil {
		return nil
	}
	info, err := in.Stat()
	if err != nil {
		return err
	}
	if err := out.Truncate(info.Size()); err != nil {
		return err
	}
	for offset := int64(0); offset < info.Size(); {
		start, err := unix.Seek(int(in.Fd()), offset, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) { // holes to the end
			return nil
		} else if err != nil {
			return err
		}
		end, err := unix.Seek(int(in.Fd()), start, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		section := io.NewSectionReader(in, start, end-start)
		if _, err := io.Copy(io.NewOffsetWriter(out, start), section); err != nil {
			return err
		}
		offset = end
	}
	return nil
}

// mountLoop mounts the ext4 file system in file on target by a loop device that the
// kernel frees at unmount.
func mountLoop(file *os.File, target string) error {
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer control.Close()
	for range 64 { // another process may take the free device first
		number, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return os.NewSyscallError("LOOP_CTL_GET_FREE", err)
		}
		path := fmt.Sprintf("/dev/loop%d", number)
		device, err := os.OpenFile(path, os.O_RDWR, 0)
		if errors.Is(err, os.ErrNotExist) {
			if err := unix.Mknod(path, unix.S_IFBLK|0o600, int(unix.Mkdev(7, uint32(number)))); err != nil && !errors.Is(err, os.ErrExist) {
				return err
			}
			device, err = os.OpenFile(path, os.O_RDWR, 0)
		}
		if err != nil {
			return err
		}
		config := unix.LoopConfig{Fd: uint32(file.Fd()), Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_AUTOCLEAR}}
		err = unix.IoctlLoopConfigure(int(device.Fd()), &config)
		if err == nil {
			err = os.NewSyscallError("mount", unix.Mount(path, target, "ext4", unix.MS_NOATIME|unix.MS_NODEV|unix.MS_NOSUID, "nobarrier"))
		}
		device.Close()
		if errors.Is(err, unix.EBUSY) {
			continue
		}
		return err
	}
	return errors.New("no free loop device")
}
