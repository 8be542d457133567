// Package image turns an image reference into a root filesystem that any number of
// sandboxes share read-only. What is derived is kept in a content-addressed store and
// made once.
package image

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"

	"github.com/covehq/cove"
)

// Root is a root filesystem on this host, shared by whoever asked for it: neither the
// tree nor this description of it is to be written to.
type Root struct {
	Dir    string           // the tree; a real path, without symlinks
	Over   string           // if not empty, a tree that lies over Dir, as in an overlay
	Binds  []Bind           // host directories that belong on top of both, read-only
	Config cove.ImageConfig // what the image says of itself; it is whoever made the image's
	Digest string           // of the image's manifest; "" for one that has none
	// Volumes are the directories of Config.Volumes: each is an empty one of its own in
	// every sandbox.
	Volumes []Volume
}

// Volume is a directory of an image, with the owner and the mode that it has there.
type Volume struct {
	Path     string // inside
	Mode     uint32
	UID, GID int
}

// Bind is a host path to be seen inside, read-only.
type Bind struct {
	Source string // on the host
	Target string // inside; it exists
}

// Store keeps derived root filesystems below one directory, which only its owner may
// enter. Its methods may be called concurrently, also by several processes.
type Store struct {
	dir     string
	options Options
	host    hostSource
	blobs   blobs

	// index is held while the index changes, and while it is read by who relies on it.
	index sync.Mutex

	mu       sync.Mutex
	building map[string]*build // by directory name, so that concurrent requests share the work
	jobs     map[string]*job   // by reference and platform

	hostMu   sync.Mutex
	hostSeen *Root // the host image as last looked at, and when
	hostAt   time.Time
}

// Options is how a store gets images. The zero value works.
type Options struct {
	// Mirrors are asked before a registry itself: by its name, as in docker.io, the
	// HOST[:PORT][/PATH] of each, the best first.
	Mirrors map[string][]string
	// Limits bounds images that come from elsewhere.
	Limits Limits
	// Keychain knows the logins for registries; DockerLogins if nil.
	Keychain authn.Keychain
	// Transport carries requests to registries; one of our own if nil.
	Transport http.RoundTripper
}

type build struct {
	done chan struct{}
	err  error
}

// Open returns the store in dir with the default options; see OpenWith.
func Open(dir string) (*Store, error) { return OpenWith(dir, Options{}) }

// OpenWith returns the store in dir, which it creates, and removes what a crash has left
// in it. A directory that belongs to somebody else, or that others may write, is refused:
// what is in there becomes a sandbox's system.
func OpenWith(dir string, o Options) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("image store: %w", err)
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return nil, fmt.Errorf("image store: %w", err)
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.IsDir() || int(stat.Uid) != os.Geteuid() || info.Mode().Perm()&0o022 != 0 {
		return nil, cove.Errorf(cove.Forbidden, "image store", dir, "not a directory of this user's alone",
			"remove it, or choose another data directory")
	}
	dir, err = filepath.EvalSymlinks(dir)
	if err != nil {
		return nil, fmt.Errorf("image store: %w", err)
	}
	o.Limits = o.Limits.withDefaults()
	if o.Keychain == nil {
		o.Keychain = DockerLogins{}
	}
	if o.Transport == nil {
		o.Transport = newTransport()
	}
	s := &Store{
		dir: dir, options: o, host: machine, blobs: blobs{filepath.Join(dir, "blobs")},
		building: map[string]*build{}, jobs: map[string]*job{},
	}
	for _, name := range []string{"blobs", "images", "tags"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o700); err != nil {
			return nil, fmt.Errorf("image store: %w", err)
		}
	}
	if err := s.recover(); err != nil {
		return nil, fmt.Errorf("image store: %w", err)
	}
	return s, nil
}

// Resolve returns the root filesystem that ref names: "host", "rootfs:" and the absolute
// path of a directory or a tar archive (plain, gzip, zstd or bzip2), or an image that Pull
// has made be here for this machine's platform. It fetches nothing. An unknown form is
// cove.Invalid, an image or a path that is not there cove.NotFound.
func (s *Store) Resolve(ctx context.Context, ref string) (*Root, error) {
	if ref == "host" {
		return s.hostRoot(ctx)
	}
	if path, ok := strings.CutPrefix(ref, "rootfs:"); ok {
		return s.rootfs(ctx, path)
	}
	root, err := s.kept(ctx, ref)
	return root, cove.Wrap(err, "image", ref[:min(len(ref), 200)])
}

// kept resolves a reference to an image of the store.
func (s *Store) kept(ctx context.Context, ref string) (*Root, error) {
	reference, err := parseReference(ref)
	if err != nil {
		return nil, err
	}
	platform, err := parsePlatform("")
	if err != nil {
		return nil, err
	}
	// Under the lock, for an image that is being removed is either here or not.
	s.index.Lock()
	_, r, _, err := s.find(reference.String(), platform.String())
	if err == nil {
		s.touch(r.Digest)
	}
	s.index.Unlock()
	if errors.Is(err, os.ErrNotExist) {
		return nil, notHere(reference.String())
	}
	if err != nil {
		return nil, err
	}
	over, err := s.derive(ctx, "over-"+recipe, makeOver)
	if err != nil {
		return nil, err
	}
	root := &Root{Dir: s.tree(r.Digest), Over: over, Config: r.Config, Digest: r.Digest}
	root.Volumes, err = volumes(root.Dir, r.Config.Volumes)
	return root, err
}

// Over returns the tree that belongs over an image that somebody else keeps, as Root.Over:
// the directories that every sandbox has, and the files of /etc that name things.
func (s *Store) Over(ctx context.Context) (string, error) {
	return s.derive(ctx, "over-"+recipe, makeOver)
}

// rootfs resolves the path of a rootfs: reference.
func (s *Store) rootfs(ctx context.Context, path string) (*Root, error) {
	if !filepath.IsAbs(path) || strings.ContainsRune(path, 0) {
		return nil, cove.Errorf(cove.Invalid, "image", "rootfs:"+path, "path is not absolute", "name the directory or archive by its absolute path")
	}
	real, err := filepath.EvalSymlinks(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, cove.Errorf(cove.NotFound, "image", "rootfs:"+path, "no such file or directory", "the path is one of the daemon's machine")
	} else if err != nil {
		return nil, &cove.Error{Code: cove.Invalid, Op: "image", ID: "rootfs:" + path, Err: err}
	}
	info, err := os.Stat(real)
	if err != nil {
		return nil, &cove.Error{Code: cove.Invalid, Op: "image", ID: "rootfs:" + path, Err: err}
	}
	switch {
	case real == "/":
		return nil, cove.Errorf(cove.Forbidden, "image", "rootfs:/", "the whole machine is no image", "use image host for this machine's system directories")
	case info.IsDir():
	case info.Mode().IsRegular():
		if real, err = s.unpacked(ctx, real); err != nil {
			return nil, err
		}
	default:
		return nil, cove.Errorf(cove.Invalid, "image", "rootfs:"+path, "neither a directory nor an archive", "use "+References)
	}
	// Somebody else's tree may lack the places where a sandbox mounts its own, or have
	// links there that have led runtimes out of a tree (CVE-2026-41579), and its files
	// by which programs find names are true of another machine. Ours hide all of that.
	over, err := s.derive(ctx, "over-"+recipe, makeOver)
	return &Root{Dir: real, Over: over}, err
}

// derive makes the tree called name by fill, once: fill gets an empty directory, which is
// renamed into place when it returns nil and removed when it doesn't.
func (s *Store) derive(ctx context.Context, name string, fill func(dir string) error) (string, error) {
	final := filepath.Join(s.dir, name)
	for {
		if _, err := os.Lstat(final); err == nil {
			return final, nil
		}
		s.mu.Lock()
		running, ok := s.building[name]
		if !ok {
			running = &build{done: make(chan struct{})}
			s.building[name] = running
		}
		s.mu.Unlock()
		if !ok {
			running.err = s.fill(ctx, final, fill)
			s.mu.Lock()
			delete(s.building, name)
			s.mu.Unlock()
			close(running.done)
			return final, running.err
		}
		select {
		case <-running.done: // its error was for another context: try anew
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
}

func (s *Store) fill(ctx context.Context, final string, fill func(dir string) error) error {
	lock, err := lockFile(ctx, final+".lock")
	if err != nil {
		return err
	}
	defer lock.Close()
	if _, err := os.Lstat(final); err == nil { // another process made it
		return nil
	}
	partial := final + partial // of a crash, if it is there: the lock says that nobody works on it
	if err := removeTree(partial); err != nil {
		return err
	}
	if err := os.Mkdir(partial, 0o755); err != nil {
		return diskError(err)
	}
	if err := fill(partial); err != nil {
		return errors.Join(diskError(err), removeTree(partial))
	}
	return os.Rename(partial, final)
}

// systemDirs are the top-level directories that make up an operating system's programs.
var systemDirs = []string{"bin", "sbin", "lib", "lib32", "lib64", "libx32", "usr"}

func isSystemDir(name string) bool { return slices.Contains(systemDirs, name) }
