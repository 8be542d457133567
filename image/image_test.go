package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/covehq/cove"
)

func archive(t *testing.T, headers ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		content := []byte(nil)
		if h.Typeflag == tar.TypeReg || h.Typeflag == 0 {
			h.Typeflag, content = tar.TypeReg, []byte("content of "+h.Name)
			h.Size = int64(len(content))
		}
		if h.Mode == 0 {
			h.Mode = 0o755
		}
		h.Uid, h.Gid = os.Geteuid(), os.Getegid()
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestUnpackNeverLeavesItsDirectory(t *testing.T) {
	dir := func(name string) tar.Header { return tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: 0o777} }
	link := func(name, to string) tar.Header {
		return tar.Header{Name: name, Linkname: to, Typeflag: tar.TypeSymlink}
	}
	hard := func(name, to string) tar.Header {
		return tar.Header{Name: name, Linkname: to, Typeflag: tar.TypeLink}
	}
	for name, headers := range map[string]func(canary string) []tar.Header{
		"dots in a name":              func(c string) []tar.Header { return []tar.Header{{Name: "../../../../../../../.." + c + "/x"}} },
		"an absolute name":            func(c string) []tar.Header { return []tar.Header{{Name: c + "/x"}} },
		"through an absolute symlink": func(c string) []tar.Header { return []tar.Header{link("l", c), {Name: "l/x"}} },
		"through a relative symlink": func(c string) []tar.Header {
			return []tar.Header{link("l", "../../../../../../../.."+c), {Name: "l/x"}}
		},
		"over a symlink to a file":        func(c string) []tar.Header { return []tar.Header{link("l", c+"/canary"), {Name: "l"}} },
		"a directory over a symlink":      func(c string) []tar.Header { return []tar.Header{link("l", c), dir("l"), {Name: "l/x"}} },
		"a hard link to outside":          func(c string) []tar.Header { return []tar.Header{hard("h", c+"/canary"), {Name: "h"}} },
		"a hard link through a symlink":   func(c string) []tar.Header { return []tar.Header{link("l", c), hard("h", "l/canary"), {Name: "h"}} },
		"a chain of symlinks":             func(c string) []tar.Header { return []tar.Header{link("a", "b"), link("b", c), {Name: "a/x"}} },
		"a symlink made late":             func(c string) []tar.Header { return []tar.Header{dir("d"), link("d", c), {Name: "d/x"}} },
		"directories through a symlink":   func(c string) []tar.Header { return []tar.Header{link("l", c), dir("l/new/deep")} },
		"a mode change through a symlink": func(c string) []tar.Header { return []tar.Header{link("l", c), dir("l")} },
	} {
		t.Run(name, func(t *testing.T) {
			canary, root := t.TempDir(), t.TempDir()
			if err := os.WriteFile(filepath.Join(canary, "canary"), []byte("alive"), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(canary, 0o750); err != nil {
				t.Fatal(err)
			}
			err := Unpack(bytes.NewReader(archive(t, headers(canary)...)), root, UnpackLimits{})
			if err != nil && !errors.Is(err, cove.Invalid) {
				t.Errorf("Unpack: got %v, want success or invalid", err)
			}
			entries, err := os.ReadDir(canary)
			if err != nil || len(entries) != 1 {
				t.Errorf("outside: got %v, %v, want the canary alone", entries, err)
			}
			content, _ := os.ReadFile(filepath.Join(canary, "canary"))
			info, _ := os.Stat(canary)
			if string(content) != "alive" || info.Mode().Perm() != 0o750 {
				t.Errorf("canary: got %q in a directory of mode %v, want it untouched", content, info.Mode())
			}
		})
	}
}

func TestUnpackKeepsWhatItShould(t *testing.T) {
	root := t.TempDir()
	data := archive(t,
		tar.Header{Name: "usr/", Typeflag: tar.TypeDir},
		tar.Header{Name: "bin", Linkname: "/usr/bin", Typeflag: tar.TypeSymlink},
		tar.Header{Name: "usr/bin/", Typeflag: tar.TypeDir},
		tar.Header{Name: "bin/sh", Mode: 0o755}, // through an absolute symlink, as distributions have it
		tar.Header{Name: "bin/bash", Linkname: "bin/sh", Typeflag: tar.TypeLink},
		tar.Header{Name: "dev/null", Typeflag: tar.TypeChar},
		tar.Header{Name: "twice"}, tar.Header{Name: "twice", Mode: 0o600},
	)
	if err := Unpack(bytes.NewReader(data), root, UnpackLimits{}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"usr/bin/sh", "usr/bin/bash"} {
		content, err := os.ReadFile(filepath.Join(root, name))
		if err != nil || string(content) != "content of bin/sh" {
			t.Errorf("%s: got %q, %v", name, content, err)
		}
	}
	if _, err := os.Lstat(filepath.Join(root, "dev/null")); err == nil {
		t.Error("dev/null: got a device, want it left out")
	}
	if info, err := os.Stat(filepath.Join(root, "twice")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("twice: got %v, %v, want the later entry", info, err)
	}
}

func TestUnpackRefusesWhatIsTooLarge(t *testing.T) {
	many := make([]tar.Header, 50)
	for i := range many {
		many[i] = tar.Header{Name: strings.Repeat("f", i+1)}
	}
	for name, limits := range map[string]UnpackLimits{
		"in entries": {Entries: 10},
		"in bytes":   {Bytes: 100},
	} {
		t.Run(name, func(t *testing.T) {
			err := Unpack(bytes.NewReader(archive(t, many...)), t.TempDir(), limits)
			if !errors.Is(err, cove.TooLarge) {
				t.Errorf("got %v, want too large", err)
			}
		})
	}
	for name, data := range map[string][]byte{
		"noise":        []byte(strings.Repeat("noise", 1000)),
		"a torn entry": archive(t, tar.Header{Name: "x"})[:515],
	} {
		t.Run(name, func(t *testing.T) {
			if err := Unpack(bytes.NewReader(data), t.TempDir(), UnpackLimits{}); !errors.Is(err, cove.Invalid) {
				t.Errorf("got %v, want invalid", err)
			}
		})
	}
}

func FuzzUnpack(f *testing.F) {
	var t testing.T
	f.Add(archive(&t, tar.Header{Name: "a/b"}, tar.Header{Name: "l", Linkname: "..", Typeflag: tar.TypeSymlink}, tar.Header{Name: "l/x"}))
	f.Fuzz(func(t *testing.T, data []byte) {
		outer := t.TempDir()
		root := filepath.Join(outer, "root")
		if err := os.Mkdir(root, 0o755); err != nil {
			t.Fatal(err)
		}
		_ = Unpack(bytes.NewReader(data), root, UnpackLimits{Bytes: 1 << 20, Entries: 1000})
		if entries, err := os.ReadDir(outer); err != nil || len(entries) != 1 {
			t.Errorf("outside: got %v, %v, want the root alone", entries, err)
		}
	})
}

func open(t *testing.T) *Store {
	t.Helper()
	store, err := Open(filepath.Join(t.TempDir(), "images"))
	if err != nil {
		t.Fatal(err)
	}
	return store
}

// madeUpHost is a machine with secrets in the usual places.
func madeUpHost(t *testing.T) hostSource {
	t.Helper()
	root := t.TempDir()
	write := func(name, content string, mode os.FileMode) {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
	}
	write("etc/shadow", "SECRET", 0o640)
	write("etc/passwd", "alice SECRET", 0o644)
	write("etc/app/config.yaml", "SECRET", 0o644)
	write("etc/ssl/private/key.pem", "SECRET", 0o600)
	write("etc/ssl/certs/leaked.key", "SECRET", 0o600)
	write("etc/ssl/certs/ca-certificates.crt", "certificates", 0o644)
	write("etc/ld.so.cache", "cache", 0o644)
	write("etc/java-17/security/java.security", "java", 0o644)
	write("home/alice/.ssh/id_rsa", "SECRET", 0o644)
	write("usr/bin/sh", "sh", 0o755)
	write("usr/local/etc/app.conf", "SECRET", 0o644)
	for name, target := range map[string]string{
		"bin": "usr/bin", "lib": "/home/alice", "etc/alternatives/vi": "/usr/bin/vim",
		"etc/ssl/certs/home.pem": filepath.Join(root, "home/alice/.ssh/id_rsa"),
	} {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(target, path); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(root, "home/alice"), 0o700); err != nil {
		t.Fatal(err)
	}
	return hostSource{root: root}
}

func TestHostImageHasThePublicPartOfTheMachineOnly(t *testing.T) {
	store := open(t)
	store.host = madeUpHost(t)
	root, err := store.Resolve(context.Background(), "host")
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"etc/ssl/certs/ca-certificates.crt":  "certificates",
		"etc/ld.so.cache":                    "cache",
		"etc/java-17/security/java.security": "java",
	} {
		got, err := os.ReadFile(filepath.Join(root.Dir, name))
		if err != nil || string(got) != want {
			t.Errorf("%s: got %q, %v, want %q", name, got, err, want)
		}
	}
	if target, err := os.Readlink(filepath.Join(root.Dir, "etc/alternatives/vi")); target != "/usr/bin/vim" {
		t.Errorf("alternatives: got %q, %v", target, err)
	}
	if target, err := os.Readlink(filepath.Join(root.Dir, "bin")); target != "usr/bin" {
		t.Errorf("bin: got %q, %v, want the host's link", target, err)
	}
	if _, err := os.Lstat(filepath.Join(root.Dir, "lib")); err == nil {
		t.Error("lib: a link out of the system directories was kept")
	}
	err = filepath.WalkDir(root.Dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(path)
		if bytes.Contains(content, []byte("SECRET")) {
			t.Errorf("%s holds a secret of the host", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	binds := map[string]bool{}
	for _, bind := range root.Binds {
		binds[bind.Target] = true
	}
	if !binds["/usr"] || !binds["/usr/local/etc"] || len(binds) != 2 {
		t.Errorf("binds: got %v, want /usr and a cover for /usr/local/etc", root.Binds)
	}
}

func TestHostImageIsMadeOnceAndAnewWhenTheHostChanges(t *testing.T) {
	store := open(t)
	store.host = madeUpHost(t)
	var wait sync.WaitGroup
	dirs := make([]string, 8)
	for i := range dirs {
		wait.Go(func() {
			root, err := store.Resolve(context.Background(), "host")
			if err != nil {
				t.Error(err)
				return
			}
			dirs[i] = root.Dir
		})
	}
	wait.Wait()
	for _, dir := range dirs {
		if dir != dirs[0] {
			t.Errorf("got %v, want one tree", dirs)
		}
	}
	if err := os.WriteFile(filepath.Join(store.host.root, "etc/ld.so.cache"), []byte("newer cache"), 0o644); err != nil {
		t.Fatal(err)
	}
	store.hostAt = store.hostAt.Add(-hostFresh)
	root, err := store.Resolve(context.Background(), "host")
	if err != nil || root.Dir == dirs[0] {
		t.Errorf("after a change: got %v, %v, want another tree", root, err)
	}
}

func TestResolveSaysWhatIsWrong(t *testing.T) {
	store := open(t)
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "plain"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "noise.tar"), []byte(strings.Repeat("x", 2000)), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		ref  string
		want error
	}{
		"a name that none can have":    {"Docker:://alpine", cove.Invalid},
		"an image that is not here":    {"docker:alpine", cove.NotFound},
		"an archive's relative path":   {"docker-archive:some.tar", cove.Invalid},
		"a relative path":              {"rootfs:some/dir", cove.Invalid},
		"a path with NUL":              {"rootfs:/a\x00b", cove.Invalid},
		"a missing path":               {"rootfs:" + dir + "/missing", cove.NotFound},
		"the whole machine":            {"rootfs:/", cove.Forbidden},
		"a device":                     {"rootfs:/dev/null", cove.Invalid},
		"something that is no archive": {"rootfs:" + dir + "/noise.tar", cove.Invalid},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := store.Resolve(context.Background(), test.ref)
			if !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
		})
	}
	if root, err := store.Resolve(context.Background(), "rootfs:"+dir+"/plain"); err != nil || root.Dir != filepath.Join(dir, "plain") {
		t.Errorf("a directory: got %v, %v", root, err)
	}
}

func TestArchiveIsUnpackedOncePerContent(t *testing.T) {
	store := open(t)
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	if _, err := w.Write(archive(t, tar.Header{Name: "bin/sh"})); err != nil {
		t.Fatal(err)
	}
	w.Close()
	var dirs []string
	for _, name := range []string{"one.tar.gz", "same.tar.gz"} {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, packed.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		root, err := store.Resolve(context.Background(), "rootfs:"+path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(root.Dir, "bin/sh")); err != nil {
			t.Error(err)
		}
		dirs = append(dirs, root.Dir)
	}
	if dirs[0] != dirs[1] {
		t.Errorf("got %v, want one tree for one content", dirs)
	}
}
