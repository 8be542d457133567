package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"syscall"
	"time"
)

// hostSource is where the host image takes its files from; tests use a made-up machine.
type hostSource struct{ root string }

var machine = hostSource{root: "/"}

// recipe changes whenever hostRoot would make another tree from the same host.
const recipe = "3"

// hostRoot returns this machine's own programs as a root filesystem: its system
// directories bound read-only, and beside them a tree of our own with an /etc that knows
// the sandbox's users and nothing of the machine. Homes, configuration, state and
// secrets of the host are not in it.
func (s *Store) hostRoot(ctx context.Context) (*Root, error) {
	s.hostMu.Lock()
	defer s.hostMu.Unlock()
	if s.hostSeen != nil && time.Since(s.hostAt) < hostFresh {
		return s.hostSeen, nil
	}
	root, err := s.makeHostRoot(ctx)
	if err == nil {
		s.hostSeen, s.hostAt = root, time.Now()
	}
	return root, err
}

// hostFresh is how long a look at the host's /etc holds: it takes longer than the rest of
// what an image costs a create.
const hostFresh = 10 * time.Second

func (s *Store) makeHostRoot(ctx context.Context) (*Root, error) {
	files, err := s.host.etc()
	if err != nil {
		return nil, fmt.Errorf("image host: %w", err)
	}
	root := &Root{}
	links := map[string]string{} // merged /usr: bin -> usr/bin
	for _, name := range systemDirs {
		path := filepath.Join(s.host.root, name)
		info, err := os.Lstat(path)
		switch {
		case err != nil:
		case info.Mode()&fs.ModeSymlink != 0:
			if target, err := os.Readlink(path); err == nil && isSystemDir(firstElement(target)) {
				links[name] = target
			}
		case info.IsDir():
			root.Binds = append(root.Binds, Bind{Source: path, Target: "/" + name})
		}
	}
	name := "host-" + fingerprint(files, links, root.Binds)
	root.Dir, err = s.derive(ctx, name, func(dir string) error { return makeHostTree(dir, files, links, root.Binds) })
	if err != nil {
		return nil, fmt.Errorf("image host: %w", err)
	}
	// /usr/local/etc is configuration that lies inside a system directory.
	if _, err := os.Lstat(filepath.Join(s.host.root, "usr/local/etc")); err == nil {
		root.Binds = append(root.Binds, Bind{Source: filepath.Join(root.Dir, "mnt"), Target: "/usr/local/etc"})
	}
	return root, nil
}

func firstElement(path string) string {
	first, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	return first
}

// fingerprint names a host tree by everything that it is made of. The content of /etc's
// files is represented by their sizes and times, as make does.
func fingerprint(files []etcFile, links map[string]string, binds []Bind) string {
	hash := sha256.New()
	fmt.Fprintln(hash, recipe)
	for _, file := range files {
		fmt.Fprintln(hash, file.name, file.mode, file.size, file.modified, file.target, file.content)
	}
	names := make([]string, 0, len(links))
	for name := range links {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		fmt.Fprintln(hash, name, links[name])
	}
	for _, bind := range binds {
		fmt.Fprintln(hash, bind.Source, bind.Target)
	}
	return hex.EncodeToString(hash.Sum(nil))[:16]
}

// UserID is the uid and gid of cove.DefaultUser in every image that doesn't say otherwise.
const UserID = 1000

// dir is a directory of a tree that we make.
type dir struct {
	name string
	mode os.FileMode
	uid  int
}

// ownDirs are where a sandbox mounts or keeps its own, in every image.
var ownDirs = []dir{
	{".cove", 0o700, 0}, {"dev", 0o755, 0}, {"proc", 0o555, 0}, {"sys", 0o555, 0}, {"etc", 0o755, 0},
	{"home", 0o755, 0}, {"home/user", 0o750, UserID}, {"workspace", 0o755, UserID}, {"tmp", 0o777 | os.ModeSticky, 0},
	// gVisor covers an empty /tmp with a tmpfs in the sandbox's memory; with this
	// directory, which a Unix machine often has there anyway, /tmp is on the disk.
	{"tmp/.X11-unix", 0o777 | os.ModeSticky, 0},
}

// hostDirs are the other directories of the host tree.
var hostDirs = []dir{
	{"run", 0o755, 0}, {"root", 0o700, 0}, {"mnt", 0o755, 0}, {"opt", 0o755, 0}, {"srv", 0o755, 0},
	{"var", 0o755, 0}, {"var/cache", 0o755, 0}, {"var/lib", 0o755, 0}, {"var/log", 0o755, 0},
	{"var/spool", 0o755, 0}, {"var/tmp", 0o777 | os.ModeSticky, 0},
}

func makeDirs(root string, dirs []dir) error {
	for _, d := range dirs {
		path := filepath.Join(root, d.name)
		if err := os.Mkdir(path, 0o755); err != nil {
			return err
		}
		if d.uid != 0 && os.Geteuid() == 0 {
			if err := os.Lchown(path, d.uid, d.uid); err != nil {
				return err
			}
		}
		if err := os.Chmod(path, d.mode); err != nil { // past the umask
			return err
		}
	}
	// Where the guest agent is mounted, as a file.
	if err := os.WriteFile(filepath.Join(root, ".cove/agent"), nil, 0o600); err != nil {
		return err
	}
	return os.Chmod(root, 0o755)
}

// makeOver makes what lies over a tree that somebody else made.
func makeOver(root string) error {
	if err := makeDirs(root, ownDirs); err != nil {
		return err
	}
	// The user is whoever the image says.
	if err := os.Chmod(filepath.Join(root, "workspace"), 0o777); err != nil {
		return err
	}
	return writeEtc(root, etcNames)
}

func writeEtc(root string, files []etcFile) error {
	for _, file := range files {
		if err := file.write(filepath.Join(root, "etc")); err != nil {
			return err
		}
	}
	return nil
}

func makeHostTree(root string, files []etcFile, links map[string]string, binds []Bind) error {
	if err := makeDirs(root, slices.Concat(ownDirs, hostDirs)); err != nil {
		return err
	}
	for _, bind := range binds {
		if err := os.Mkdir(filepath.Join(root, bind.Target), 0o755); err != nil {
			return err
		}
	}
	links["var/run"], links["var/lock"] = "../run", "../run/lock"
	for name, target := range links {
		if err := os.Symlink(target, filepath.Join(root, name)); err != nil {
			return err
		}
	}
	return writeEtc(root, files)
}

// statOf returns what the fingerprint needs of a file.
func statOf(info fs.FileInfo) (size, modified int64) {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return info.Size(), stat.Mtim.Nano()
	}
	return info.Size(), info.ModTime().UnixNano()
}
