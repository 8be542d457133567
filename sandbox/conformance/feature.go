package conformance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/covehq/cove"
	"github.com/covehq/cove/sandbox/driver/bind"
)

func featuresChecks() []check {
	return []check{
		{"tmpfs", "A tmpfs is there for the sandbox's user, and no larger than asked for.", Needs{Feature: cove.FeatureTmpfs}, featuresTmpfs},
		{"tmpfs-read-only", "A tmpfs that is read-only can't be written.", Needs{Feature: cove.FeatureTmpfs}, featuresTmpfsReadOnly},
		{"shm", "The size of /dev/shm is the one asked for.", Needs{Feature: cove.FeatureShm}, featuresShm},
		{"hosts", "Names of the spec are in /etc/hosts, beside that of the sandbox itself.", Needs{Feature: cove.FeatureHosts}, featuresHosts},
		{"cap-add", "Commands have the capabilities that the spec adds, and no other.", Needs{Feature: cove.FeatureCapAdd}, featuresCapAdd},
		{"cap-drop", "Root inside has not the capabilities that the spec drops, and keeps the others.", Needs{Feature: cove.FeatureCapDrop}, featuresCapDrop},
		{"ulimits", "Resource limits of the spec are those of commands.", Needs{Feature: cove.FeatureUlimits}, featuresUlimits},
		{"bind", "A directory of the host is seen inside, and what is written there is written on the host.", Needs{Feature: cove.FeatureBind}, featuresBind},
		{"bind-read-only", "A bind that is read-only can't be written, also not by making it writable.", Needs{Feature: cove.FeatureBind}, featuresBindReadOnly},
		{"bind-file", "A file of the host is seen inside, alone.", Needs{Feature: cove.FeatureBind}, featuresBindFile},
		{"bind-stays", "A symlink in a bind leads to what is inside, and not to the host.", Needs{Feature: cove.FeatureBind}, featuresBindStays},
	}
}

func (b *bench) withMount(m cove.Mount) func(*cove.Spec) {
	return func(s *cove.Spec) { s.Mounts = append(slices.Clone(s.Mounts), m) }
}

// full writes more than a size to a directory, and says what came of it.
func (x *box) full(ctx context.Context, directory string, size cove.Bytes) error {
	if err := x.prints(ctx, "half of "+directory, fmt.Sprintf("head -c %d /dev/zero > %s/half && stat -c %%s %s/half", size/2, directory, directory), fmt.Sprint(int64(size/2))); err != nil {
		return err
	}
	r, err := x.sh(ctx, fmt.Sprintf("head -c %d /dev/zero > %s/more", 2*size, directory))
	if err != nil {
		return err
	}
	if r.exit.Code == 0 || !bytes.Contains(bytes.ToLower(r.stderr), []byte("no space left")) {
		return fmt.Errorf("twice the size of %v in %s: got exit code %d, %q, want no space left on device", size, directory, r.exit.Code, r.stderr)
	}
	return nil
}

func featuresTmpfs(ctx context.Context, b *bench) error {
	x, err := b.create(ctx, b.withMount(cove.Mount{Type: cove.MountTmpfs, Target: "/mnt/deep/memory", Size: 4 * cove.MiB}))
	if err != nil {
		return err
	}
	return x.full(ctx, "/mnt/deep/memory", 4*cove.MiB)
}

func featuresTmpfsReadOnly(ctx context.Context, b *bench) error {
	x, err := b.create(ctx, b.withMount(cove.Mount{Type: cove.MountTmpfs, Target: "/mnt/memory", Size: cove.MiB, ReadOnly: true}))
	if err != nil {
		return err
	}
	return x.prints(ctx, "a write to a read-only tmpfs", "echo x > /mnt/memory/file 2>/dev/null || echo refused", "refused")
}

func featuresShm(ctx context.Context, b *bench) error {
	x, err := b.create(ctx, func(s *cove.Spec) { s.Limits.Shm = 4 * cove.MiB })
	if err != nil {
		return err
	}
	return x.full(ctx, "/dev/shm", 4*cove.MiB)
}

func featuresHosts(ctx context.Context, b *bench) error {
	x, err := b.create(ctx, func(s *cove.Spec) { s.Hosts = map[string]string{"db.test": "192.0.2.7", "six.test": "2001:db8::7"} })
	if err != nil {
		return err
	}
	// One line of the file for each name, in the order asked for.
	const find = `for name in db.test six.test localhost; do while read -r address names; do case " $names " in *" $name "*) echo "$address $name"; break;; esac; done < /etc/hosts; done`
	return x.prints(ctx, "addresses in /etc/hosts", find, "192.0.2.7 db.test\n2001:db8::7 six.test\n127.0.0.1 localhost")
}

func featuresUlimits(ctx context.Context, b *bench) error {
	x, err := b.create(ctx, func(s *cove.Spec) {
		s.Ulimits = []cove.Ulimit{{Name: "nofile", Soft: 100, Hard: 200}, {Name: "core", Soft: 0, Hard: 0}}
	})
	if err != nil {
		return err
	}
	return x.prints(ctx, "limits", "ulimit -Sn; ulimit -Hn; ulimit -Sc", "100\n200\n0")
}

func featuresCapAdd(ctx context.Context, b *bench) error {
	// Of a kernel of the sandbox's own, which may have no ambient capabilities, root can make
	// use of them, and has others too.
	mask, root := "0xffffffffff", b.info.Isolation.RootInside()
	if root {
		mask = "0x800000"
	}
	x, err := b.create(ctx, func(s *cove.Spec) {
		s.Options.CapAdd = []string{"SYS_NICE"}
		if root {
			s.User = "root"
		}
	})
	if err != nil {
		return err
	}
	const read = `while read -r key value; do if [ "$key" = CapEff: ]; then echo $((0x$value & ` // SYS_NICE is 1 << 23
	return x.prints(ctx, "effective capabilities", read+mask+` )); fi; done < /proc/self/status`, "8388608")
}

func featuresCapDrop(ctx context.Context, b *bench) error {
	for _, test := range []struct{ name, mask, want string }{
		{"KILL", "0x21", "0x1 0x1"}, // KILL is 1 << 5, and the agent has CHOWN, 1 << 0, everywhere
		{cove.AllCapabilities, "0xffffffffff", "0x0 0x0"},
	} {
		x, err := b.create(ctx, func(s *cove.Spec) { s.User, s.Options.CapDrop = "root", []string{test.name} })
		if err != nil {
			return err
		}
		const read = `while read -r key value; do case "$key" in CapEff:) eff=$((0x$value & MASK));; CapBnd:) bnd=$((0x$value & MASK));; esac; done < /proc/self/status; printf '0x%x 0x%x' $eff $bnd`
		if err := x.prints(ctx, "capabilities without "+test.name, strings.ReplaceAll(read, "MASK", test.mask), test.want); err != nil {
			return err
		}
	}
	return nil
}

// hostDirectory is a directory of the host that everybody may write, with a file in it, and what a
// driver gets for it.
type hostDirectory struct {
	path   string
	source *os.File
	end    func()
}

func newHostDirectory(name string) (*hostDirectory, error) {
	top, err := os.MkdirTemp("", "cove-bind-")
	if err != nil {
		return nil, err
	}
	h := &hostDirectory{path: filepath.Join(top, "given"), end: func() { _ = os.RemoveAll(top) }}
	err = errors.Join(
		os.Chmod(top, 0o755), os.Mkdir(h.path, 0o755), os.Chmod(h.path, 0o777), // whatever the umask
		os.WriteFile(filepath.Join(h.path, "file"), []byte("of the host"), 0o644), os.Chmod(filepath.Join(h.path, "file"), 0o666),
		os.WriteFile(filepath.Join(top, "secret"), []byte("of nobody else"), 0o644),
		os.Symlink(filepath.Join(top, "secret"), filepath.Join(h.path, "out")), os.Symlink("../secret", filepath.Join(h.path, "up")),
	)
	if err == nil {
		h.source, err = bind.Rules{Prefixes: []string{h.path}}.Resolve(filepath.Join(h.path, name))
	}
	if err != nil {
		h.end()
		return nil, err
	}
	return h, nil
}

// given makes a sandbox with a part of a directory of the host at a target. The caller
// closes what it returns.
func (b *bench) given(ctx context.Context, name, target string, readOnly bool) (*hostDirectory, *box, error) {
	host, err := newHostDirectory(name)
	if err != nil {
		return nil, nil, err
	}
	x, err := b.create(ctx, b.withMount(cove.Mount{Type: cove.MountBind, Source: bind.Path(host.source), Target: target, ReadOnly: readOnly}))
	err = errors.Join(err, host.source.Close()) // the driver has it by now
	if err != nil {
		host.end()
		return nil, nil, err
	}
	return host, x, nil
}

func featuresBind(ctx context.Context, b *bench) error {
	host, x, err := b.given(ctx, "", "/mnt/deep/host", false)
	if err != nil {
		return err
	}
	defer host.end()
	if err := x.prints(ctx, "a file of the host", "cat /mnt/deep/host/file", "of the host"); err != nil {
		return err
	}
	if err := x.prints(ctx, "a write", "echo inside > /mnt/deep/host/new && echo inside > /mnt/deep/host/file && echo done", "done"); err != nil {
		return err
	}
	for _, name := range []string{"new", "file"} {
		content, err := os.ReadFile(filepath.Join(host.path, name))
		if err != nil {
			return fmt.Errorf("what was written, on the host: %w", err)
		}
		if err := equal("content of "+name+" on the host", string(content), "inside\n"); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(host.path, "later"), []byte("later"), 0o644); err != nil {
		return err
	}
	return x.prints(ctx, "a file that the host made later", "cat /mnt/deep/host/later", "later")
}

func featuresBindReadOnly(ctx context.Context, b *bench) error {
	host, x, err := b.given(ctx, "", "/mnt/host", true)
	if err != nil {
		return err
	}
	defer host.end()
	const try = `cat /mnt/host/file; echo
echo x > /mnt/host/file || echo refused
echo x > /mnt/host/new || echo refused
mount -o remount,rw,bind /mnt/host && echo writable
rm -f /mnt/host/file
mv /mnt/host/file /mnt/host/moved || echo refused`
	if err := x.prints(ctx, "writes to a read-only bind", "{ "+try+"; } 2>/dev/null", "of the host\nrefused\nrefused\nrefused"); err != nil {
		return err
	}
	content, err := os.ReadFile(filepath.Join(host.path, "file"))
	if err != nil {
		return err
	}
	return equal("content on the host", string(content), "of the host")
}

func featuresBindFile(ctx context.Context, b *bench) error {
	host, x, err := b.given(ctx, "file", "/mnt/only", false)
	if err != nil {
		return err
	}
	defer host.end()
	if err := x.prints(ctx, "the file", "cat /mnt/only; echo; ls /mnt; echo inside > /mnt/only", "of the host\nonly"); err != nil {
		return err
	}
	content, err := os.ReadFile(filepath.Join(host.path, "file"))
	if err != nil {
		return err
	}
	return equal("content on the host", string(content), "inside\n")
}

func featuresBindStays(ctx context.Context, b *bench) error {
	host, x, err := b.given(ctx, "", "/mnt/host", false)
	if err != nil {
		return err
	}
	defer host.end()
	return x.prints(ctx, "what lies beside the source", "{ cat /mnt/host/out || cat /mnt/host/up || cat /mnt/host/../secret || echo nothing; } 2>/dev/null", "nothing")
}
