package policy

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/covehq/cove"
)

// maxFile bounds a policy file.
const maxFile = 1 << 20

// Parse reads a policy. Unknown keys and values that can't be are errors, all of them at
// once; path is what hints call the file.
func Parse(data []byte, path string) (*Policy, error) {
	p := new(Policy)
	err := yaml.UnmarshalWithOptions(data, p, yaml.Strict(), yaml.UseJSONUnmarshaler())
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, &cove.Error{
			Code: cove.Invalid, Op: "read policy", ID: path,
			Err:  errors.New(yaml.FormatError(err, false, true)),
			Hint: "see docs/policy.md for its keys",
		}
	}
	p.path = path
	return p, p.tidy()
}

// tidy checks what the file says, and brings it into one form.
func (p *Policy) tidy() error {
	var problems cove.Problems
	for key, list := range map[string][]string{
		"images": p.Images, "runtimes": p.Runtimes, "users": p.Users, "volumes": p.Volumes, "devices": p.Devices, "networks": p.Networks,
	} {
		for _, pattern := range list {
			if pattern == "" || strings.Count(strings.ReplaceAll(pattern, "**", "*"), "*") > maxStars {
				problems.Add(fmt.Sprintf("%s: pattern %q is empty or has more than %d stars", key, pattern, maxStars))
			}
		}
	}
	for i, name := range p.Capabilities {
		known := false
		if p.Capabilities[i], known = cove.ParseCapability(name); !known {
			problems.Add(fmt.Sprintf("capabilities: there is no capability %q", name))
		}
	}
	for i, mount := range p.Mounts {
		if !filepath.IsAbs(mount.Path) {
			problems.Add(fmt.Sprintf("mounts: path %q is not absolute", mount.Path))
		}
		p.Mounts[i].Path = filepath.Clean(mount.Path)
	}
	for _, address := range p.PortAddresses {
		if _, err := netip.ParseAddr(address); err != nil {
			problems.Add(fmt.Sprintf("port_addresses: %q is not an address", address))
		}
	}
	p.Egress.tidy(&problems)
	l := p.Limits
	if l.CPUs < 0 || math.IsNaN(l.CPUs) || l.Pids < 0 || p.MaxSandboxes < 0 {
		problems.Add("limits: a number is negative")
	}
	err := problems.Err(cove.Invalid, "read policy", "see docs/policy.md for what the keys may be")
	var e *cove.Error
	if errors.As(err, &e) {
		e.ID = p.path
	}
	return err
}

// File is a policy that is read again when its file changes. Its methods may be called
// concurrently.
type File struct {
	path string
	log  *slog.Logger

	mu     sync.Mutex
	seen   version
	policy *Policy
}

// version tells one content of a file from the next.
type version struct {
	exists bool
	time   time.Time
	size   int64
	inode  uint64
}

// Open reads the policy file. An optional one may be missing, and is read when it appears.
// A file that others than root and this user may write is an error: it would be their
// policy.
func Open(path string, optional bool, log *slog.Logger) (*File, error) {
	f := &File{path: path, log: log, policy: &Policy{path: path}}
	policy, seen, err := f.read()
	if errors.Is(err, fs.ErrNotExist) && optional {
		return f, nil
	}
	if err != nil {
		return nil, cove.Wrap(err, "read policy", path)
	}
	f.policy, f.seen = policy, seen
	return f, nil
}

// Policy returns what holds now: the file's content, or that of the last good one when it
// is broken or gone, which is logged once. As long as there was none, it is an empty one.
func (f *File) Policy() *Policy {
	f.mu.Lock()
	defer f.mu.Unlock()
	seen := look(f.path)
	if seen == f.seen {
		return f.policy
	}
	f.seen = seen
	policy, _, err := f.read()
	if err != nil {
		f.log.Error("the policy file can't be read, the policy stays as it was", "path", f.path, "err", err)
		return f.policy
	}
	f.policy = policy
	f.log.Info("policy read", "path", f.path)
	return f.policy
}

func look(path string) version {
	info, err := os.Stat(path)
	if err != nil {
		return version{}
	}
	return versionOf(info)
}

func versionOf(info fs.FileInfo) version {
	v := version{exists: true, time: info.ModTime(), size: info.Size()}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		v.inode = stat.Ino
	}
	return v
}

func (f *File) read() (*Policy, version, error) {
	file, err := os.Open(f.path)
	if err != nil {
		return nil, version{}, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, version{}, err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok || info.Mode().Perm()&0o022 != 0 || stat.Uid != 0 && int(stat.Uid) != os.Geteuid() {
		return nil, version{}, &cove.Error{
			Code: cove.Forbidden, Err: errors.New("others than root and the daemon's user may write it"),
			Hint: "run chown root and chmod 644 on it",
		}
	}
	data, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err != nil {
		return nil, version{}, err
	}
	if len(data) > maxFile {
		return nil, version{}, cove.Errorf(cove.TooLarge, "", "", "it is larger than 1MiB", "shorten its lists with patterns")
	}
	policy, err := Parse(data, f.path)
	return policy, versionOf(info), err
}
