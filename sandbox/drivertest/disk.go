package drivertest

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/covehq/cove"
)

// SmallDisk mounts a file system of a size on a directory for the length of a test, which it
// skips where that can't be done.
func SmallDisk(t testing.TB, dir string, size cove.Bytes) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounts a disk: run as root")
	}
	file := filepath.Join(t.TempDir(), "disk")
	if err := errors.Join(os.MkdirAll(dir, 0o700), os.WriteFile(file, nil, 0o600), os.Truncate(file, int64(size))); err != nil {
		t.Fatal(err)
	}
	for _, command := range [][]string{{"mkfs.ext4", "-q", "-F", "-m", "0", file}, {"mount", "-o", "loop", file, dir}} {
		if output, err := exec.CommandContext(t.Context(), command[0], command[1:]...).CombinedOutput(); err != nil {
			t.Skipf("makes a small disk: %s: %v: %s", command[0], err, output)
		}
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil && !errors.Is(err, syscall.EINVAL) { // gone already
			t.Errorf("unmount %s: %v", dir, err)
		}
	})
}

// FillDisk writes to the file system of a directory until it is full, and returns what makes
// room again.
func FillDisk(t testing.TB, dir string) (free func()) {
	t.Helper()
	path := filepath.Join(dir, "full-of-this")
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	for piece := make([]byte, 1<<20); len(piece) > 0; { // the last room is less than a piece
		if _, err = file.Write(piece); err != nil {
			piece = piece[:len(piece)/2]
		}
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("fill %s: %v", dir, err)
	}
	_ = file.Close() // what it says is that the disk is full
	return func() {
		if err := os.Remove(path); err != nil {
			t.Error(err)
		}
	}
}
