package cgroup

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// top is the group that everything of Cove's is in. Below it each daemon's state directory,
// its instance, has one, and there each runtime.
const top = "cove"

// Prefix returns where the groups of one runtime's sandboxes are, of the state directory that
// instance stands for.
func Prefix(instance, runtime string) string { return path.Join(top, instance, runtime) }

// A Hold keeps other daemons from taking an instance for one whose daemon was killed. Its
// zero value holds nothing. What it holds ends with the process.
type Hold struct {
	mu   sync.Mutex
	lock *os.File // the instance's group in the first hierarchy
}

// holdAttempts bounds how often the groups are made again that somebody has just removed.
const holdAttempts = 100

// Take holds the instance of a tree, and makes its group in every hierarchy: it is for a
// driver about to make a sandbox. Where groups are only the engine's to make it holds what
// there is; an instance that can't be held loses nothing but the certainty that no other
// daemon removes an empty group of its own in the moment in which a sandbox is put into it.
func (h *Hold) Take(t Tree) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(t.Hierarchies) == 0 {
		return
	}
	instance := path.Dir(t.Prefix)
	dir := filepath.Join(t.Hierarchies[0].Mount, instance)
	for range holdAttempts {
		if h.lock == nil || !isAt(h.lock, dir) {
			h.lock.Close() // nil is fine
			makeGroup(dir)
			// It waits for whoever removes the group just now; isAt finds that out.
			if h.lock = lock(dir, unix.LOCK_SH); h.lock == nil {
				if _, err := os.Lstat(dir); !errors.Is(err, os.ErrNotExist) {
					return
				}
			}
			continue
		}
		// Only now: what is made before the lock is had, whoever had it may still remove.
		for _, hierarchy := range t.Hierarchies[1:] {
			makeGroup(filepath.Join(hierarchy.Mount, instance))
		}
		return
	}
}

// makeGroup makes a group and those above, also where somebody removes them as they are made.
func makeGroup(dir string) {
	for range holdAttempts {
		// That a group exists is an error of MkdirAll where it is gone on the second look.
		err := os.MkdirAll(dir, 0o755)
		if !errors.Is(err, os.ErrNotExist) && !errors.Is(err, os.ErrExist) {
			return
		}
	}
}

// lock opens a group and locks it, nil if that can't be done.
func lock(dir string, how int) *os.File {
	file, err := os.Open(dir)
	if err != nil {
		return nil
	}
	for {
		err := unix.Flock(int(file.Fd()), how)
		if err == nil {
			return file
		}
		if !errors.Is(err, unix.EINTR) {
			file.Close()
			return nil
		}
	}
}

// isAt reports whether an open file is the one that has the path now.
func isAt(file *os.File, path string) bool {
	have, err := file.Stat()
	if err != nil {
		return false
	}
	now, err := os.Lstat(path)
	return err == nil && os.SameFile(have, now)
}

// find returns the hierarchies in which this user's daemon has groups.
func find() Tree {
	if os.Geteuid() != 0 {
		return FindDelegated(top)
	}
	return Find(top)
}

// Release removes the groups of an instance that nobody is in, and those above that are
// empty then. It is for a daemon that leaves; groups of sandboxes that stay are not touched.
func Release(instance string) error { return find().release(instance) }

func (t Tree) release(instance string) error {
	if !valid(instance) {
		return &fs.PathError{Op: "remove cgroup", Path: instance, Err: fs.ErrInvalid}
	}
	var errs []error
	// The first hierarchy goes last: its group is the lock.
	for _, hierarchy := range slices.Backward(t.Hierarchies) {
		errs = append(errs, removeEmpty(filepath.Join(hierarchy.Mount, top, instance)), rmdir(filepath.Join(hierarchy.Mount, top)))
	}
	return errors.Join(errs...)
}

// Sweep removes what daemons that were killed have left, as Release does for one that
// leaves: the groups of every instance that no process holds.
func Sweep() error { return find().sweep() }

func (t Tree) sweep() error {
	if len(t.Hierarchies) == 0 {
		return nil
	}
	first := filepath.Join(t.Hierarchies[0].Mount, top)
	var errs []error
	for _, instance := range (Tree{Prefix: top, Hierarchies: t.Hierarchies}).instances() {
		dir := filepath.Join(first, instance)
		makeGroup(dir) // what was left may be in other hierarchies alone
		held := lock(dir, unix.LOCK_EX|unix.LOCK_NB)
		if held == nil {
			continue
		}
		if isAt(held, dir) {
			errs = append(errs, t.release(instance))
		}
		held.Close()
	}
	return errors.Join(errs...)
}

// instances returns the names of the groups below the top one in any hierarchy.
func (t Tree) instances() []string {
	names := slices.DeleteFunc(t.List(), func(name string) bool { return !valid(name) })
	slices.Sort(names)
	return slices.Compact(names)
}

func valid(instance string) bool {
	return instance != "" && filepath.Base(instance) == instance && instance[0] != '.'
}

// removeEmpty removes a group and those below it, as far as nobody is in them.
func removeEmpty(dir string) error {
	var groups []string // parents first
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() {
			groups = append(groups, path)
		}
		return nil // what went in the meantime is no loss
	})
	errs := []error{err}
	for _, group := range slices.Backward(groups) {
		errs = append(errs, rmdir(group))
	}
	return errors.Join(errs...)
}

// rmdir removes a group. That somebody is in it is no error.
func rmdir(dir string) error {
	switch err := unix.Rmdir(dir); {
	case err == nil, errors.Is(err, unix.ENOENT), errors.Is(err, unix.EBUSY), errors.Is(err, unix.ENOTEMPTY):
		return nil
	default:
		return &fs.PathError{Op: "rmdir", Path: dir, Err: err}
	}
}
