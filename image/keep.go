package image

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/covehq/cove"
)

// List describes the images of the store by name. One that no name leads to any more has
// its digest for a reference.
func (s *Store) List(ctx context.Context) ([]cove.Image, error) {
	tags, err := s.tags()
	if err != nil {
		return nil, err
	}
	records, err := s.records()
	if err != nil {
		return nil, err
	}
	list := []cove.Image{}
	add := func(digest, reference string) error {
		_, view, err := s.findDigest(digest, reference)
		if err == nil {
			list = append(list, *view)
		}
		return skipMissing(err)
	}
	named := map[string]bool{}
	for _, t := range tags {
		named[t.Digest] = true
		if err := add(t.Digest, t.Reference); err != nil {
			return nil, err
		}
	}
	for digest := range records {
		if !named[digest] {
			if err := add(digest, digest); err != nil {
				return nil, err
			}
		}
	}
	slices.SortFunc(list, func(a, b cove.Image) int {
		return cmp.Or(cmp.Compare(a.Reference, b.Reference), cmp.Compare(a.Platform, b.Platform))
	})
	return list, ctx.Err()
}

// normal returns a name in the form that the index has, and a digest as it is.
func normal(ref string) (string, error) {
	if isDigest(ref) {
		return ref, nil
	}
	reference, err := parseReference(ref)
	if err != nil {
		return "", err
	}
	return reference.String(), nil
}

// Remove takes a name from the images that it leads to, or all names from the image with
// that digest. An image without a name is removed, unless it is used: then all stays as it
// is, and the error is cove.Conflict. It is cove.NotFound where there is no such image.
func (s *Store) Remove(ctx context.Context, ref string, used func(digest string) bool) error {
	name, err := normal(ref)
	if err != nil {
		return err
	}
	unlock, err := s.lockIndex(ctx)
	if err != nil {
		return err
	}
	removed, err := s.untag(name, used)
	unlock()
	if err != nil {
		return cove.Wrap(err, "remove image", name)
	}
	return errors.Join(removeTrees(removed), s.collect(ctx, blobLife))
}

// untag does the part of Remove that is under the lock, and returns the trees that are
// not of the store any more.
func (s *Store) untag(name string, used func(string) bool) ([]string, error) {
	tags, err := s.tags()
	if err != nil {
		return nil, err
	}
	left := map[string]int{} // names of each image that stay
	var going []tag
	for _, t := range tags {
		if t.Reference == name || t.Digest == name {
			going = append(going, t)
		} else {
			left[t.Digest]++
		}
	}
	if len(going) == 0 {
		if _, _, err := s.findDigest(name, name); err != nil {
			return nil, notHere(name)
		}
		going = append(going, tag{Digest: name})
	}
	for _, t := range going {
		if left[t.Digest] == 0 && used(t.Digest) {
			return nil, cove.Errorf(cove.Conflict, "", "", "a sandbox that lives was made of the image", "remove the sandbox first: see cove ls")
		}
	}
	var removed []string
	for _, t := range going {
		if err := os.Remove(s.tagPath(t.Reference, t.Platform)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return removed, err
		}
		if left[t.Digest] > 0 {
			continue
		}
		tree, err := s.drop(t.Digest)
		if err != nil {
			return removed, err
		}
		removed = append(removed, tree)
	}
	return removed, nil
}

// drop takes an image out of the store and returns where its tree is now. The caller holds
// the lock of the index. The record goes first: a tree without one is nobody's.
func (s *Store) drop(digest string) (string, error) {
	if err := os.Remove(s.recordPath(digest)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	trash := filepath.Join(s.dir, trashPrefix+rand.Text())
	if err := os.Rename(s.tree(digest), trash); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	return trash, nil
}

// trashPrefix begins the names of trees that are being removed.
const trashPrefix = "trash-"

func removeTrees(trees []string) error {
	var failures []error
	for _, tree := range trees {
		failures = append(failures, removeTree(tree))
	}
	return errors.Join(failures...)
}

// Prune removes the images that are not used, and everything that was fetched and is not
// part of one, and returns the images.
func (s *Store) Prune(ctx context.Context, used func(digest string) bool) ([]cove.Image, error) {
	unlock, err := s.lockIndex(ctx)
	if err != nil {
		return nil, err
	}
	pruned, trees, err := s.dropUnused(ctx, used)
	unlock()
	if err := errors.Join(err, removeTrees(trees), s.collect(ctx, 0)); err != nil {
		return nil, cove.Wrap(err, "prune images", "")
	}
	return pruned, nil
}

func (s *Store) dropUnused(ctx context.Context, used func(string) bool) (pruned []cove.Image, trees []string, err error) {
	list, err := s.List(ctx)
	if err != nil {
		return nil, nil, err
	}
	tags, err := s.tags()
	if err != nil {
		return nil, nil, err
	}
	for _, t := range tags {
		if used(t.Digest) {
			continue
		}
		if err := os.Remove(s.tagPath(t.Reference, t.Platform)); err != nil {
			return pruned, trees, err
		}
	}
	pruned = []cove.Image{}
	dropped := map[string]bool{}
	for _, image := range list {
		if used(image.Digest) {
			continue
		}
		pruned = append(pruned, image)
		if dropped[image.Digest] {
			continue
		}
		dropped[image.Digest] = true
		tree, err := s.drop(image.Digest)
		if err != nil {
			return pruned, trees, err
		}
		trees = append(trees, tree)
	}
	return pruned, trees, nil
}

// blobLife is how long parts that belong to no image are kept: a pull that was interrupted
// goes on where it was, and a new version of an image has most layers of the old one.
const blobLife = 24 * time.Hour

// collect removes what belongs to no image: trees and leftovers at once, blobs when they
// have not changed for a while. Where somebody is pulling, it leaves that to the next time.
func (s *Store) collect(ctx context.Context, life time.Duration) error {
	lock, err := os.OpenFile(filepath.Join(s.dir, "pull.lock"), os.O_CREATE|os.O_RDWR|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil
		}
		return os.NewSyscallError("flock", err)
	}
	records, err := s.records()
	if err != nil {
		return err
	}
	needed := map[string]bool{}
	for digest, r := range records {
		needed[s.treeName(digest)] = true
		for _, blob := range r.Blobs {
			needed[blob] = true
		}
	}
	if err := s.collectBlobs(needed, time.Now().Add(-life)); err != nil {
		return err
	}
	return s.collectTrees(ctx, needed)
}

func (s *Store) collectBlobs(needed map[string]bool, before time.Time) error {
	entries, err := os.ReadDir(s.blobs.dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		info, err := entry.Info()
		if errors.Is(err, fs.ErrNotExist) || needed[entry.Name()] {
			continue
		}
		if err != nil {
			return err
		}
		if info.ModTime().Before(before) {
			if err := os.Remove(filepath.Join(s.blobs.dir, entry.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *Store) collectTrees(ctx context.Context, needed map[string]bool) error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		name := entry.Name()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case strings.HasPrefix(name, trashPrefix):
		case strings.HasPrefix(name, filePrefix):
			if _, err := os.Lstat(filepath.Join(s.dir, treeOf(name))); err == nil {
				continue
			}
		case !strings.HasPrefix(name, treePrefix) || needed[strings.TrimSuffix(name, ".lock")]:
			continue
		}
		if err := removeTree(filepath.Join(s.dir, name)); err != nil {
			return err
		}
	}
	return nil
}

// recover clears what a process that was killed has left.
func (s *Store) recover() error {
	if err := s.collect(context.Background(), blobLife); err != nil {
		return err
	}
	for _, name := range []string{"images", "tags"} {
		leftovers, err := filepath.Glob(filepath.Join(s.dir, name, "*"+partial))
		if err != nil {
			return err
		}
		unlock, err := s.lockIndex(context.Background()) // nobody is writing one of them
		if err != nil {
			return err
		}
		for _, path := range leftovers {
			if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				unlock()
				return err
			}
		}
		unlock()
	}
	return nil
}

// volumes looks up the owners and modes of an image's volumes.
func volumes(dir string, paths []string) ([]Volume, error) {
	if len(paths) == 0 {
		return nil, nil
	}
	root, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(root)
	var list []Volume
	for _, path := range paths {
		volume := Volume{Path: path}
		fd, err := unix.Openat2(root, path, &unix.OpenHow{
			Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
		})
		if err == nil {
			var stat unix.Stat_t
			err = unix.Fstat(fd, &stat)
			unix.Close(fd)
			volume.Mode = stat.Mode & 0o1777
			if os.Geteuid() == 0 { // else all is of whoever unpacked it
				volume.UID, volume.GID = int(stat.Uid), int(stat.Gid)
			}
		}
		if err != nil {
			return nil, fmt.Errorf("the image's volume %.100q: %w", path, err)
		}
		list = append(list, volume)
	}
	return list, nil
}
