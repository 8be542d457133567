package guest_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/covehq/cove"
	"github.com/covehq/cove/guest"
	"github.com/covehq/cove/guest/dial"
)

// newFiles starts an agent, and returns ways to it and a directory for files.

func newFiles(t testing.TB) (*dial.Client, dial.Dialer, string) {
	t.Helper()
	d := newAgent(t, guest.Options{})
	return initialized(t, d), d, t.TempDir()
}

func mustWrite(t testing.TB, path, text string) string {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
		t.Fatal(err)
	}
	return path
}

func mustRead(t testing.TB, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// breaking is a reader that fails, after it has called its function.

// counter is an endless stream whose bytes differ from place to place.

func TestFilesBelongToTheUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can act as another user")
	}
	c, _, _ := newFiles(t)
	dir, err := os.MkdirTemp("/tmp", "cove-files-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	mine, secret := dir+"/mine", mustWrite(t, dir+"/secret", "root's")
	shared := mustWrite(t, dir+"/shared", "old")
	if err := errors.Join(
		os.Chmod(dir, 0o755), os.Mkdir(mine, 0o755), os.Chown(mine, 65534, 65534), os.Chmod(secret, 0o600),
		os.Symlink("../secret", mine+"/trap"), os.Symlink("..", mine+"/up"), os.Chmod(shared, 0o666),
		os.WriteFile(mine+"/roots", []byte("root's"), 0o644),
	); err != nil {
		t.Fatal(err)
	}
	const user = "nobody"
	ctx := t.Context()
	write := func(path string) error {
		_, err := c.WriteFile(ctx, path, user, strings.NewReader("by nobody"), nil)
		return err
	}
	if err := write(mine + "/a/b"); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{mine + "/a", mine + "/a/b"} {
		info, err := c.Stat(ctx, path, "")
		if err != nil || info.Owner != "nobody" {
			t.Errorf("%s: got owner %q, %v", path, info.Owner, err)
		}
	}
	if err := write(shared); err != nil { // writable, in a directory that is not
		t.Errorf("a file that everybody may write: %v", err)
	}
	if st, err := os.Stat(shared); err != nil || st.Sys().(*syscall.Stat_t).Uid != 0 || mustRead(t, shared) != "by nobody" {
		t.Errorf("got %v, %v with %q; want root's file with new text", st, err, mustRead(t, shared))
	}
	for name, refused := range map[string]func() error{
		"a trap":                   func() error { return write(mine + "/trap") },
		"a directory of root's":    func() error { return write(dir + "/new") },
		"through a symlink upward": func() error { return write(mine + "/up/new") },
		"root's file in nobody's directory": func() error {
			return write(mine + "/roots")
		},
		"reading a secret": func() error { _, err := c.ReadFile(ctx, mine+"/trap", user, nil); return err },
		"making a directory": func() error {
			_, err := c.MakeDir(ctx, mine+"/up/dir", user)
			return err
		},
		"removing":  func() error { return c.Remove(ctx, secret, user) },
		"moving":    func() error { _, err := c.Move(ctx, secret, mine+"/got", user); return err },
		"archiving": func() error { _, err := c.Archive(ctx, secret, user); return err },
		"extracting": func() error {
			return c.Extract(ctx, dir, user, bytes.NewReader(tarOf(t, entry{name: "new", text: "x"})))
		},
		"watching": func() error {
			if err := os.Mkdir(dir+"/private", 0o700); err != nil {
				return err
			}
			_, err := c.Watch(ctx, dir+"/private", false, user)
			return err
		},
	} {
		t.Run("refuses "+name, func(t *testing.T) {
			if err := refused(); !errors.Is(err, cove.Forbidden) {
				t.Errorf("got %v (%s), want forbidden", err, cove.CodeOf(err))
			}
		})
	}
	if got := mustRead(t, secret); got != "root's" {
		t.Errorf("the secret has become %q", got)
	}
	// The agent's threads are root's again.
	for range 50 {
		if _, err := c.Stat(ctx, secret, ""); err != nil {
			t.Fatal(err)
		}
		if response, err := c.ReadFile(ctx, secret, "", nil); err != nil {
			t.Fatal(err)
		} else {
			_ = response.Body.Close()
		}
	}
}

func TestDirectories(t *testing.T) {
	c, _, dir := newFiles(t)
	ctx := t.Context()
	made, err := c.MakeDir(ctx, dir+"/a/b", "")
	if err != nil || made.Type != cove.TypeDirectory || made.Path != dir+"/a/b" || made.Mode != 0o755 {
		t.Fatalf("making: got %+v, %v", made, err)
	}
	mustWrite(t, dir+"/a/b/file", "12345")
	mustWrite(t, dir+"/a/z", "")
	if err := errors.Join(os.Symlink("b", dir+"/a/link"), os.Symlink("none", dir+"/a/dangling"), os.Symlink("a", dir+"/root"), syscall.Chmod(dir+"/a/z", 0o4711)); err != nil {
		t.Fatal(err)
	}
	names := func(list []cove.FileInfo) string {
		var all []string
		for _, info := range list {
			rel, _ := filepath.Rel(dir, info.Path)
			all = append(all, rel+":"+string(info.Type))
		}
		return strings.Join(all, " ")
	}
	for _, test := range []struct {
		name, path string
		depth      int
		want       string
	}{
		{"one level", "/a", 1, "a/b:directory a/dangling:symlink a/link:symlink a/z:file"},
		{"a depth of 0 is 1", "/a", 0, "a/b:directory a/dangling:symlink a/link:symlink a/z:file"},
		{"two levels, and no symlink followed", "/a", 2, "a/b:directory a/b/file:file a/dangling:symlink a/link:symlink a/z:file"},
		{"a symlink as the root is followed", "/root", 1, "root/b:directory root/dangling:symlink root/link:symlink root/z:file"},
	} {
		t.Run(test.name, func(t *testing.T) {
			list, err := c.ListDir(ctx, dir+test.path, test.depth, "")
			if got := names(list); err != nil || got != test.want {
				t.Errorf("got %s, %v; want %s", got, err, test.want)
			}
		})
	}
	link, err := c.Stat(ctx, dir+"/a/link", "")
	if err != nil || link.Type != cove.TypeSymlink || link.Target != dir+"/a/b" || link.Name != "link" {
		t.Errorf("a symlink: got %+v, %v", link, err)
	}
	dangling, err := c.Stat(ctx, dir+"/a/dangling", "")
	if err != nil || dangling.Type != cove.TypeSymlink || dangling.Target != "none" {
		t.Errorf("a dangling symlink: got %+v, %v", dangling, err)
	}
	file, err := c.Stat(ctx, dir+"/a/z", "")
	if err != nil || file.Mode != 0o4711 || file.Type != cove.TypeFile {
		t.Errorf("a file: got %+v, %v", file, err)
	}
	moved, err := c.Move(ctx, dir+"/a/b/file", dir+"/new/place", "")
	if err != nil || moved.Path != dir+"/new/place" || moved.Size != 5 {
		t.Errorf("moving: got %+v, %v", moved, err)
	}
	if err := errors.Join(c.Remove(ctx, dir+"/a", ""), c.Remove(ctx, dir+"/a", "")); err != nil {
		t.Errorf("removing: %v", err)
	}
	if _, err := os.Lstat(dir + "/a"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it is not removed: %v", err)
	}
}

func TestFileErrors(t *testing.T) {
	c, _, dir := newFiles(t)
	ctx := t.Context()
	file := mustWrite(t, dir+"/file", "")
	mustWrite(t, dir+"/full/x", "")
	if err := os.Mkdir(dir+"/dir", 0o755); err != nil {
		t.Fatal(err)
	}
	only := func(_ any, err error) error { return err }
	for _, test := range []struct {
		name string
		err  error
		code cove.Code
	}{
		{"stat of nothing", only(c.Stat(ctx, dir+"/none", "")), cove.NotFound},
		{"stat through a file", only(c.Stat(ctx, file+"/x", "")), cove.Invalid},
		{"stat with a zero byte", only(c.Stat(ctx, "a\x00b", "")), cove.Invalid},
		{"stat as an unknown user", only(c.Stat(ctx, file, "nosuchuser")), cove.Invalid},
		{"list of nothing", only(c.ListDir(ctx, dir+"/none", 1, "")), cove.NotFound},
		{"list of a file", only(c.ListDir(ctx, file, 1, "")), cove.Invalid},
		{"make what exists", only(c.MakeDir(ctx, dir+"/dir", "")), cove.Conflict},
		{"make where a file is", only(c.MakeDir(ctx, file, "")), cove.Conflict},
		{"make below a file", only(c.MakeDir(ctx, file+"/x", "")), cove.Invalid},
		{"move nothing", only(c.Move(ctx, dir+"/none", dir+"/to", "")), cove.NotFound},
		{"move over a full directory", only(c.Move(ctx, dir+"/dir", dir+"/full", "")), cove.Conflict},
		{"move into itself", only(c.Move(ctx, dir+"/full", dir+"/full/below", "")), cove.Invalid},
		{"move to a zero byte", only(c.Move(ctx, file, "\x00", "")), cove.Invalid},
		{"stat of what is not UTF-8", only(c.Stat(ctx, "\xff", "")), cove.Invalid},
		{"remove the root", c.Remove(ctx, "/", ""), cove.Invalid},
		{"remove below a file", c.Remove(ctx, file+"/x", ""), cove.Invalid},
		{"watch nothing", only(c.Watch(ctx, dir+"/none", true, "")), cove.NotFound},
		{"watch a file", only(c.Watch(ctx, file, true, "")), cove.Invalid},
		{"read nothing", only(c.ReadFile(ctx, dir+"/none", "", nil)), cove.NotFound},
		{"archive nothing", only(c.Archive(ctx, dir+"/none", "")), cove.NotFound},
		{"archive a device", only(c.Archive(ctx, "/dev/null", "")), cove.Invalid},
		{"extract below a file", c.Extract(ctx, file, "", bytes.NewReader(tarOf(t))), cove.Invalid},
	} {
		t.Run(test.name, func(t *testing.T) {
			var failed *cove.Error
			if !errors.Is(test.err, test.code) || !errors.As(test.err, &failed) || failed.Op == "" {
				t.Errorf("got %v (%s), want %s", test.err, cove.CodeOf(test.err), test.code)
			}
			if cove.HintOf(test.err) == "" {
				t.Errorf("%v has no hint", test.err)
			}
		})
	}
}

func TestPathsAgainstTheHome(t *testing.T) {
	dir := t.TempDir()
	uid := os.Geteuid()
	passwd := mustWrite(t, dir+"/passwd", fmt.Sprintf("me:x:%d:%d::%s/home:/bin/sh\n", uid, os.Getegid(), dir))
	c := dial.New(newAgent(t, guest.Options{Passwd: passwd}))
	mustWrite(t, dir+"/home/file", "")
	for _, path := range []string{"file", "./file", "~/file", "x/../file", dir + "/home/file"} {
		info, err := c.Stat(t.Context(), path, "me")
		if err != nil || info.Path != dir+"/home/file" {
			t.Errorf("%s: got %+v, %v", path, info, err)
		}
	}
	for _, path := range []string{"", "~", "."} {
		if info, err := c.Stat(t.Context(), path, "me"); err != nil || info.Path != dir+"/home" {
			t.Errorf("%q: got %+v, %v", path, info, err)
		}
	}
}
