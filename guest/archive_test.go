package guest_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/covehq/cove"
)

// entry is one file of a tar.
type entry struct {
	name, text, link string
	kind             byte
	mode             int64
	modified         time.Time
}

// tarOf makes a tar.
func tarOf(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var buffer bytes.Buffer
	w := tar.NewWriter(&buffer)
	for _, e := range entries {
		if e.kind == 0 {
			e.kind = tar.TypeReg
		}
		if e.mode == 0 {
			e.mode = 0o644
		}
		header := &tar.Header{Name: e.name, Typeflag: e.kind, Mode: e.mode, Size: int64(len(e.text)), Linkname: e.link, ModTime: e.modified}
		if err := w.WriteHeader(header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.text); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buffer.Bytes()
}

func TestArchiveAndExtract(t *testing.T) {
	c, _, dir := newFiles(t)
	from, to := dir+"/from", dir+"/made/to"
	then := time.Unix(1_500_000_000, 0)
	mustWrite(t, from+"/a.txt", "a")
	mustWrite(t, from+"/empty", "")
	mustWrite(t, from+"/deep/er/b.txt", strings.Repeat("b", 700_000))
	mustWrite(t, from+"/"+strings.Repeat("long", 50)+"/"+strings.Repeat("name", 50), "l")
	mustWrite(t, from+"/bytes\xff\xfe", "not UTF-8")
	if err := errors.Join(
		os.Chmod(from+"/a.txt", 0o755), os.Mkdir(from+"/closed", 0o500), os.Mkdir(from+"/nothing", 0o755),
		os.Symlink("../elsewhere", from+"/link"), os.Symlink("/abs", from+"/abs"), syscall.Mkfifo(from+"/pipe", 0o666),
		os.Chtimes(from+"/a.txt", then, then), os.Chtimes(from+"/deep", then, then),
	); err != nil {
		t.Fatal(err)
	}
	archive, err := c.Archive(t.Context(), from, "")
	if err != nil {
		t.Fatal(err)
	}
	defer archive.Close()
	if err := c.Extract(t.Context(), to, "", archive); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a.txt", "empty", "deep/er/b.txt", "bytes\xff\xfe", strings.Repeat("long", 50) + "/" + strings.Repeat("name", 50)} {
		if mustRead(t, filepath.Join(to, name)) != mustRead(t, filepath.Join(from, name)) {
			t.Errorf("%q differs", name)
		}
	}
	for name, want := range map[string]string{"link": "../elsewhere", "abs": "/abs"} {
		if got, err := os.Readlink(filepath.Join(to, name)); err != nil || got != want {
			t.Errorf("%s: got %q, %v", name, got, err)
		}
	}
	for name, mode := range map[string]os.FileMode{"a.txt": 0o755, "closed": os.ModeDir | 0o500, "nothing": os.ModeDir | 0o755} {
		if info, err := os.Stat(filepath.Join(to, name)); err != nil || info.Mode() != mode {
			t.Errorf("%s: got %v, %v; want %v", name, info, err, mode)
		}
	}
	for _, name := range []string{"a.txt", "deep"} {
		if info, err := os.Stat(filepath.Join(to, name)); err != nil || !info.ModTime().Equal(then) {
			t.Errorf("%s: got time %v, %v; want %v", name, info.ModTime(), err, then)
		}
	}
	if _, err := os.Lstat(to + "/pipe"); err == nil {
		t.Error("a pipe was archived")
	}
}

func TestArchiveOfOneFile(t *testing.T) {
	c, _, dir := newFiles(t)
	archive, err := c.Archive(t.Context(), mustWrite(t, dir+"/sub/file", "text"), "")
	if err != nil {
		t.Fatal(err)
	}
	defer archive.Close()
	reader := tar.NewReader(archive)
	header, err := reader.Next()
	if err != nil || header.Name != "file" {
		t.Fatalf("got %+v, %v", header, err)
	}
	if text, err := io.ReadAll(reader); err != nil || string(text) != "text" {
		t.Errorf("got %q, %v", text, err)
	}
	if _, err := reader.Next(); err != io.EOF {
		t.Errorf("got %v, want the end", err)
	}
}

func TestArchiveOfChangingFiles(t *testing.T) {
	c, _, dir := newFiles(t)
	mustWrite(t, dir+"/file", strings.Repeat("x", 3<<20))
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
			}
			_ = os.Truncate(dir+"/file", 10)
			_ = os.WriteFile(dir+"/file", bytes.Repeat([]byte("y"), 4<<20), 0o644)
			_ = os.WriteFile(dir+"/comes", nil, 0o644)
			_ = os.Remove(dir + "/comes")
		}
	}()
	for range 10 {
		archive, err := c.Archive(t.Context(), dir, "")
		if err != nil {
			t.Fatal(err)
		}
		reader := tar.NewReader(archive)
		for {
			_, err := reader.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatalf("the archive is not whole: %v", err)
			}
			if _, err := io.Copy(io.Discard, reader); err != nil {
				t.Fatalf("the archive is not whole: %v", err)
			}
		}
		if _, err := io.Copy(io.Discard, archive); err != nil {
			t.Errorf("the result: %v", err)
		}
		_ = archive.Close()
	}
	close(stop)
	<-stopped
}

func TestFailureAfterAnArchiveHasBegun(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can act as another user")
	}
	c, _, _ := newFiles(t)
	dir, err := os.MkdirTemp("/tmp", "cove-archive-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	mustWrite(t, dir+"/a", strings.Repeat("a", 1<<20))
	mustWrite(t, dir+"/b", "secret")
	if err := errors.Join(os.Chmod(dir, 0o755), os.Chmod(dir+"/b", 0o600)); err != nil {
		t.Fatal(err)
	}
	archive, err := c.Archive(t.Context(), dir, "nobody")
	if err != nil {
		t.Fatal(err)
	}
	defer archive.Close()
	if _, err := io.Copy(io.Discard, archive); err == nil || !strings.Contains(err.Error(), "permission denied") {
		t.Errorf("got %v, want the reason", err)
	}
}

func TestExtractRefuses(t *testing.T) {
	c, _, base := newFiles(t)
	good := entry{name: "good", text: "good"}
	for _, test := range []struct {
		name    string
		archive []byte
		code    cove.Code
		goes    bool // what is good in it is unpacked all the same
	}{
		{"a name that leads up", tarOf(t, entry{name: "../evil", text: "x"}), cove.Invalid, false},
		{"a name that leads up from within", tarOf(t, entry{name: "a/../../evil", text: "x"}), cove.Invalid, false},
		{"a name that leads up and back", tarOf(t, entry{name: "a/../b", text: "x"}), cove.Invalid, false},
		{"an absolute name", tarOf(t, entry{name: base + "/evil", text: "x"}), cove.Invalid, false},
		{"a name through a symlink of the archive", tarOf(t, good, entry{name: "up", kind: tar.TypeSymlink, link: ".."}, entry{name: "up/evil", text: "x"}), cove.Invalid, true},
		{"a name through an absolute symlink", tarOf(t, good, entry{name: "up", kind: tar.TypeSymlink, link: base}, entry{name: "up/evil", text: "x"}), cove.Invalid, true},
		{"a name through a symlink to a sibling", tarOf(t, good, entry{name: "d/", kind: tar.TypeDir, mode: 0o755}, entry{name: "s", kind: tar.TypeSymlink, link: "d"}, entry{name: "s/x", text: "x"}), cove.Invalid, true},
		{"a hard link that leads up", tarOf(t, entry{name: "evil", kind: tar.TypeLink, link: "../outside"}), cove.Invalid, false},
		{"a hard link through a symlink", tarOf(t, good, entry{name: "up", kind: tar.TypeSymlink, link: ".."}, entry{name: "evil", kind: tar.TypeLink, link: "up/outside"}), cove.Invalid, true},
		{"a device, but all else is unpacked", tarOf(t, entry{name: "null", kind: tar.TypeChar}, good), cove.Invalid, true},
		{"a pipe, but all else is unpacked", tarOf(t, entry{name: "pipe", kind: tar.TypeFifo}, good), cove.Invalid, true},
		{"what is no archive", []byte(strings.Repeat("no tar at all ", 100)), cove.Invalid, false},
		{"an archive that is cut off", tarOf(t, good, entry{name: "x", text: strings.Repeat("x", 10_000)})[:4096], cove.Invalid, true},
		{"a file in the place of a full directory", tarOf(t, good, entry{name: "d/f", text: "x"}, entry{name: "d", text: "x"}), cove.Conflict, true},
		{"a directory in the place of a file", tarOf(t, good, entry{name: "good/x", text: "x"}), cove.Invalid, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			outside := mustWrite(t, base+"/outside", "untouched")
			dir, err := os.MkdirTemp(base, "into-")
			if err != nil {
				t.Fatal(err)
			}
			err = c.Extract(t.Context(), dir, "", bytes.NewReader(test.archive))
			if !errors.Is(err, test.code) {
				t.Errorf("got %v (%s), want %s", err, cove.CodeOf(err), test.code)
			}
			if _, err := os.Lstat(base + "/evil"); err == nil {
				t.Error("it has left its directory")
			}
			if mustRead(t, outside) != "untouched" {
				t.Error("it has changed a file outside")
			}
			if info, err := os.Stat(outside); err != nil || info.Sys().(*syscall.Stat_t).Nlink != 1 {
				t.Error("it has linked to a file outside")
			}
			if _, err := os.Stat(dir + "/good"); (err == nil) != test.goes {
				t.Errorf("the good file: got %v, want it there: %v", err, test.goes)
			}
		})
	}
}

func TestExtractReplaces(t *testing.T) {
	c, _, dir := newFiles(t)
	outside := mustWrite(t, dir+"/outside", "untouched")
	into := dir + "/into"
	mustWrite(t, into+"/file", "old")
	mustWrite(t, into+"/kept", "kept")
	if err := errors.Join(os.Symlink(outside, into+"/link"), os.Mkdir(into+"/empty", 0o755), os.Symlink("into", dir+"/alias")); err != nil {
		t.Fatal(err)
	}
	archive := tarOf(t,
		entry{name: "./", kind: tar.TypeDir, mode: 0o700},
		entry{name: "file", text: "new", mode: 0o6755},
		entry{name: "link", text: "a file now"},
		entry{name: "empty", text: "a file too"},
		entry{name: "hard", kind: tar.TypeLink, link: "./file"},
	)
	if err := c.Extract(t.Context(), dir+"/alias", "", bytes.NewReader(archive)); err != nil {
		if !errors.Is(err, cove.Invalid) {
			t.Fatal(err)
		}
		t.Fatalf("a symlink as the destination itself is the caller's choice: %v", err)
	}
	for name, want := range map[string]string{"file": "new", "kept": "kept", "link": "a file now", "empty": "a file too", "hard": "new"} {
		if got := mustRead(t, filepath.Join(into, name)); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
	if mustRead(t, outside) != "untouched" {
		t.Error("a symlink was written through")
	}
	if info, err := os.Stat(into + "/file"); err != nil || info.Mode() != 0o755 {
		t.Errorf("got mode %v, %v; want 0755 without set-user-id", info.Mode(), err)
	}
}
