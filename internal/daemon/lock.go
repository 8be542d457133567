package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/covehq/cove"
)

// Lock is held by one process at a time, and released by the kernel when that process
// ends, however it ends.
type Lock struct{ file *os.File }

// Release gives the lock up. The file stays: removing it would let two processes hold
// a lock of the same name.
func (l *Lock) Release() error { return l.file.Close() }

// Own makes this process the daemon of dirs, which Prepare made. A predecessor that is
// leaving is waited for, until ctx ends; one that answers is not. Then the error is
// cove.Conflict and names the process that keeps them.
func (d Dirs) Own(ctx context.Context) (*Lock, error) {
	path := filepath.Join(d.State, "cove.lock")
	taken := func() error {
		return cove.Errorf(cove.Conflict, "serve", d.State, "another daemon runs here, "+holder(path),
			"use that one, or give this one its own COVE_STATE_DIR and COVE_DATA_DIR")
	}
	if there, err := d.Answers(ctx); err != nil {
		return nil, err
	} else if there {
		return nil, taken()
	}
	lock, err := acquire(ctx, path)
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return nil, taken()
	}
	if err != nil {
		return nil, err
	}
	if err := lock.sign(); err != nil {
		return nil, errors.Join(err, lock.Release())
	}
	return lock, nil
}

// sign writes the holder's process id into the lock, for people and tests to find.
func (l *Lock) sign() error {
	if err := l.file.Truncate(0); err != nil {
		return err
	}
	_, err := l.file.WriteAt(fmt.Appendf(nil, "%d\n", os.Getpid()), 0)
	return err
}

func holder(path string) string {
	file, err := os.Open(path)
	if err != nil {
		return "with an unknown process id"
	}
	defer file.Close()
	pid, err := io.ReadAll(io.LimitReader(file, 32))
	if err != nil || strings.TrimSpace(string(pid)) == "" {
		return "with an unknown process id"
	}
	return "process " + strings.TrimSpace(string(pid))
}

// acquire takes the lock at path, trying until ctx ends. A kernel lock can be waited
// for, but not with a deadline.
func acquire(ctx context.Context, path string) (*Lock, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	retry := time.NewTicker(10 * time.Millisecond)
	defer retry.Stop()
	for {
		err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return &Lock{file: file}, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), file.Close())
		}
		select {
		case <-retry.C:
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), file.Close())
		}
	}
}
