package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/covehq/cove"
)

// The index of a store is two directories of small files: one for every image, by its
// digest, and one for every name that leads to an image. A file is written beside its
// place and then renamed, so that what is there is whole; the one of an image comes after
// its tree, and the one of a name after that.

// record is what is known of an image whose tree is here.
type record struct {
	Digest    string           `json:"digest"` // of its manifest
	Platform  string           `json:"platform"`
	Size      cove.Bytes       `json:"size"` // of the files that its layers have
	CreatedAt time.Time        `json:"created_at"`
	Blobs     []string         `json:"blobs"` // digests in hex
	Config    cove.ImageConfig `json:"config"`
}

// tag is a name for an image.
type tag struct {
	Reference string `json:"reference"`
	Platform  string `json:"platform"`
	Digest    string `json:"digest"`
	Stamp     string `json:"stamp,omitempty"` // of the archive that it is about, as it was then
}

func (s *Store) recordPath(digest string) string {
	return filepath.Join(s.dir, "images", strings.TrimPrefix(digest, "sha256:")+".json")
}

func (s *Store) tagPath(reference, platform string) string {
	sum := sha256.Sum256([]byte(reference + "\x00" + platform))
	return filepath.Join(s.dir, "tags", hex.EncodeToString(sum[:])+".json")
}

func (s *Store) tree(digest string) string {
	return filepath.Join(s.dir, s.treeName(digest))
}

func (s *Store) treeName(digest string) string {
	return treePrefix + flattenRecipe + "-" + strings.TrimPrefix(digest, "sha256:")
}

// treePrefix begins the names of flattened images.
const treePrefix = "image-"

// lockIndex makes the caller the only one who changes the index, of this process and of
// others.
func (s *Store) lockIndex(ctx context.Context) (unlock func(), err error) {
	s.index.Lock()
	file, err := lockFile(ctx, filepath.Join(s.dir, "index.lock"))
	if err != nil {
		s.index.Unlock()
		return nil, err
	}
	return func() {
		file.Close()
		s.index.Unlock()
	}, nil
}

// writeIndex writes one file of the index. The caller holds the lock of the index.
func writeIndex(path string, value any) error {
	data, err := json.Marshal(value)
	if err != nil {
		return err
	}
	if err := os.WriteFile(path+partial, data, 0o600); err != nil {
		return errors.Join(diskError(err), os.Remove(path+partial))
	}
	return os.Rename(path+partial, path)
}

// readIndex reads one file of the index. One that makes no sense is as good as missing:
// the image is fetched again.
func readIndex(path string, into any) (modified time.Time, err error) {
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return modified, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return modified, err
	}
	data, err := readAll(file, 2*maxManifest, "index")
	if err == nil && json.Unmarshal(data, into) != nil {
		err = fs.ErrNotExist
	}
	return info.ModTime(), err
}

// find returns the image that a name leads to, if it is here. Its UsedAt is that of the
// file; see touch. The error is fs.ErrNotExist without it.
func (s *Store) find(reference, platform string) (tag, record, *cove.Image, error) {
	var t tag
	if _, err := readIndex(s.tagPath(reference, platform), &t); err != nil {
		return t, record{}, nil, err
	}
	r, view, err := s.findDigest(t.Digest, t.Reference)
	return t, r, view, err
}

// findDigest returns the image with a digest, if it is here.
func (s *Store) findDigest(digest, reference string) (record, *cove.Image, error) {
	var r record
	if !isDigest(digest) {
		return r, nil, fs.ErrNotExist
	}
	used, err := readIndex(s.recordPath(digest), &r)
	if err != nil {
		return r, nil, err
	}
	if _, err := os.Lstat(s.tree(digest)); err != nil || r.Digest != digest {
		return r, nil, fs.ErrNotExist
	}
	view := &cove.Image{
		Reference: reference, Digest: r.Digest, Platform: r.Platform, Size: r.Size, CreatedAt: &r.CreatedAt, Config: r.Config,
	}
	if used = used.UTC().Truncate(time.Microsecond); used.After(r.CreatedAt) {
		view.UsedAt = &used
	}
	return r, view, nil
}

// touch notes that a sandbox is made of an image. A failure costs no more than the note.
func (s *Store) touch(digest string) {
	_ = os.Chtimes(s.recordPath(digest), time.Time{}, time.Now())
}

// enter adds an image and a name for it to the index, in place of what the name led to.
func (s *Store) enter(ctx context.Context, t tag, r record) error {
	unlock, err := s.lockIndex(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	var known record
	if _, err := readIndex(s.recordPath(r.Digest), &known); err != nil {
		path := s.recordPath(r.Digest)
		if err := writeIndex(path, r); err != nil {
			return err
		}
		if err := os.Chtimes(path, time.Time{}, r.CreatedAt); err != nil { // not used yet
			return err
		}
	}
	return writeIndex(s.tagPath(t.Reference, t.Platform), t)
}

// tags returns all names.
func (s *Store) tags() ([]tag, error) {
	var all []tag
	err := eachFile(filepath.Join(s.dir, "tags"), func(path string) error {
		var t tag
		if _, err := readIndex(path, &t); err != nil {
			return skipMissing(err)
		}
		if path == s.tagPath(t.Reference, t.Platform) {
			all = append(all, t)
		}
		return nil
	})
	return all, err
}

// records returns all images, by digest.
func (s *Store) records() (map[string]record, error) {
	all := map[string]record{}
	err := eachFile(filepath.Join(s.dir, "images"), func(path string) error {
		var r record
		if _, err := readIndex(path, &r); err != nil {
			return skipMissing(err)
		}
		if path == s.recordPath(r.Digest) {
			all[r.Digest] = r
		}
		return nil
	})
	return all, err
}

func skipMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// eachFile calls do with every file of the index that is whole.
func eachFile(dir string, do func(path string) error) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("image store: %w", err)
	}
	for _, entry := range entries {
		if entry.Type().IsRegular() && filepath.Ext(entry.Name()) == ".json" {
			if err := do(filepath.Join(dir, entry.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}
