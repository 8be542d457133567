package server

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/covehq/cove"
)

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func TestFiles(t *testing.T) {
	w, ctx := newWorld(t, Options{}), t.Context()
	box := w.sandbox()
	files := box.Files()
	dir := box.Spec.Workdir
	path := dir + "/a/b/größe 1.txt"
	info, err := files.WriteFile(ctx, path, strings.NewReader("hello"), 0o750)
	if err != nil || info.Size != 5 || info.Mode != 0o750 || info.Type != cove.TypeFile || info.Path != path {
		t.Fatalf("written as %+v, %v", info, err)
	}
	if data, err := files.ReadFile(ctx, path); err != nil || string(data) != "hello" {
		t.Errorf("read %q, %v", data, err)
	}
	if data, err := files.ReadFile(ctx, "a/b/größe 1.txt"); err != nil || string(data) != "hello" {
		t.Errorf("by a relative path: %q, %v", data, err)
	}
	if info, err := files.Stat(ctx, path); err != nil || info.Size != 5 || info.Name != "größe 1.txt" {
		t.Errorf("stat: %+v, %v", info, err)
	}
	if _, err := files.MakeDir(ctx, dir+"/new/dir"); err != nil {
		t.Error(err)
	}
	if _, err := files.MakeDir(ctx, dir+"/new/dir"); !errors.Is(err, cove.Conflict) {
		t.Errorf("a directory that exists: %v, want conflict", err)
	}
	if _, err := files.Move(ctx, path, dir+"/moved"); err != nil {
		t.Error(err)
	}
	list, err := files.List(ctx, dir, 2)
	var names []string
	for _, entry := range list {
		names = append(names, strings.TrimPrefix(entry.Path, dir+"/"))
	}
	slices.Sort(names)
	if err != nil || !slices.Equal(names, []string{"a", "a/b", "moved", "new", "new/dir"}) {
		t.Errorf("listed %q, %v", names, err)
	}
	if err := files.Remove(ctx, dir+"/a"); err != nil {
		t.Error(err)
	}
	if err := files.Remove(ctx, dir+"/a"); err != nil {
		t.Errorf("removing what is not there: %v", err)
	}
	for name, call := range map[string]func() error{
		"read": func() error { _, err := files.ReadFile(ctx, dir+"/none"); return err },
		"stat": func() error { _, err := files.Stat(ctx, dir+"/none"); return err },
		"list": func() error { _, err := files.List(ctx, dir+"/none", 1); return err },
		"move": func() error { _, err := files.Move(ctx, dir+"/none", dir+"/x"); return err },
	} {
		if err := call(); !errors.Is(err, cove.NotFound) {
			t.Errorf("%s of what is not there: %v, want not found", name, err)
		}
	}
}

func TestRanges(t *testing.T) {
	w := newWorld(t, Options{})
	box := w.sandbox()
	path := box.Spec.Workdir + "/digits.html"
	if err := os.WriteFile(path, []byte("0123456789"), 0o644); err != nil {
		t.Fatal(err)
	}
	at := "/v1/sandboxes/" + box.ID + "/files?path=" + url.QueryEscape(path)
	reply, text := w.request(http.MethodGet, at, nil, nil)
	if text != "0123456789" || reply.Header.Get("Content-Length") != "10" || reply.Header.Get("Content-Type") != "application/octet-stream" ||
		reply.Header.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("whole: %q with %v", text, reply.Header)
	}
	modified := reply.Header.Get("Last-Modified")
	for name, test := range map[string]struct {
		header http.Header
		status int
		text   string
	}{
		"the middle":   {http.Header{"Range": {"bytes=2-4"}}, 206, "234"},
		"the end":      {http.Header{"Range": {"bytes=-3"}}, 206, "789"},
		"not modified": {http.Header{"If-Modified-Since": {modified}}, 304, ""},
	} {
		if reply, text := w.request(http.MethodGet, at, test.header, nil); reply.StatusCode != test.status || text != test.text {
			t.Errorf("%s: %d %q, want %d %q", name, reply.StatusCode, text, test.status, test.text)
		}
	}
	if reply, text := w.request(http.MethodGet, at, http.Header{"Range": {"bytes=20-"}}, nil); reply.StatusCode != 400 || !strings.Contains(text, string(cove.Invalid)) {
		t.Errorf("behind the end: %d %s", reply.StatusCode, text)
	}
	if reply, _ := w.request(http.MethodHead, at, nil, nil); reply.StatusCode != 200 || reply.ContentLength != 10 {
		t.Errorf("HEAD: %d with length %d", reply.StatusCode, reply.ContentLength)
	}
	if reply, _ := w.request(http.MethodHead, at+"x", nil, nil); reply.StatusCode != 404 {
		t.Errorf("HEAD of what is not there: %d", reply.StatusCode)
	}
}

func TestLargeFilesAreStreamed(t *testing.T) {
	w, ctx := newWorld(t, Options{}), t.Context()
	box := w.sandbox()
	const size = 16 << 20
	want := sha256.New()
	path := box.Spec.Workdir + "/large"
	source := io.TeeReader(io.LimitReader(&pattern{}, size), want)
	if info, err := box.Files().WriteFile(ctx, path, source, 0); err != nil || info.Size != size {
		t.Fatalf("%+v, %v", info, err)
	}
	file, err := box.Files().OpenFile(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	got := sha256.New()
	if n, err := io.Copy(got, file); err != nil || n != size || !bytes.Equal(got.Sum(nil), want.Sum(nil)) {
		t.Errorf("%d bytes came back, %v, and are the same: %v", n, err, bytes.Equal(got.Sum(nil), want.Sum(nil)))
	}
}

// pattern is bytes that differ.
type pattern struct{ n byte }

func (p *pattern) Read(b []byte) (int, error) {
	for i := range b {
		p.n = p.n*31 + 7
		b[i] = p.n
	}
	return len(b), nil
}

func TestWatch(t *testing.T) {
	w := newWorld(t, Options{})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	box := w.sandbox()
	watch, err := box.Files().Watch(ctx, box.Spec.Workdir, true)
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Close()
	if _, err := box.Files().WriteFile(ctx, box.Spec.Workdir+"/new", strings.NewReader("x"), 0); err != nil {
		t.Fatal(err)
	}
	for {
		event, err := watch.Next()
		if err != nil {
			t.Fatal(err)
		}
		if event.Name == "new" && event.Type == cove.FileCreate {
			break
		}
	}
	watch.Close()
	if _, err := watch.Next(); err == nil {
		t.Error("an event after Close")
	}
}

func TestFS(t *testing.T) {
	w, ctx := newWorld(t, Options{}), t.Context()
	box := w.sandbox()
	dir := box.Spec.Workdir
	for _, name := range []string{"a/b", "empty"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, content := range map[string]string{"a/b/deep.txt": "deep", "top.txt": strings.Repeat("top", 1000), "a/none": ""} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("a/b/deep.txt", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("loop", filepath.Join(dir, "loop")); err != nil {
		t.Fatal(err)
	}
	below, err := fs.Sub(box.FS(ctx), strings.TrimPrefix(dir, "/"))
	if err != nil {
		t.Fatal(err)
	}
	if data, err := fs.ReadFile(below, "link"); err != nil || string(data) != "deep" {
		t.Errorf("through a link: %q, %v", data, err)
	}
	if info, err := fs.Stat(below, "link"); err != nil || info.Mode().Type() != 0 || info.Name() != "link" {
		t.Errorf("stat of a link: %v, %v", info, err)
	}
	if _, err := fs.Stat(below, "loop"); err == nil {
		t.Error("stat of a loop succeeds")
	}
	if err := os.Remove(filepath.Join(dir, "loop")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"none", "top.txt/x"} {
		if _, err := below.Open(name); err == nil || errors.Is(err, fs.ErrPermission) {
			t.Errorf("open %s: %v", name, err)
		}
	}
	if _, err := below.Open("none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("open none: %v, want fs.ErrNotExist", err)
	}
	if err := fstest.TestFS(below, "a/b/deep.txt", "top.txt", "a/none", "empty", "link"); err != nil {
		t.Error(err)
	}
}

func TestCopies(t *testing.T) {
	w, ctx := newWorld(t, Options{}), t.Context()
	box := w.sandbox()
	files, inside := box.Files(), box.Spec.Workdir
	here := t.TempDir()
	for name, content := range map[string]string{"p/x": "1", "p/sub/y": "2", "f": "file"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(here, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(here, name), []byte(content), 0o751); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("x", filepath.Join(here, "p/link")); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(inside+"/there", 0o777); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ from, to, probe string }{
		{"p", "/new", "/new/sub/y"},
		{"p", "/there", "/there/p/sub/y"},
		{"p/.", "/there", "/there/sub/y"},
		{"p/.", "/fresh", "/fresh/sub/y"},
		{"f", "/there", "/there/f"},
		{"f", "/g", "/g"},
		{"f", "/made/here/", "/made/here/f"},
		{"f", "/made/too/g", "/made/too/g"},
	} {
		if err := files.CopyIn(ctx, here+"/"+test.from, inside+test.to); err != nil {
			t.Errorf("copy %s in to %s: %v", test.from, test.to, err)
		} else if !exists(inside + test.probe) {
			t.Errorf("copy %s in to %s made no %s", test.from, test.to, test.probe)
		}
	}
	if info, err := os.Lstat(inside + "/new/x"); err != nil || info.Mode().Perm() != 0o751 {
		t.Errorf("the mode inside is %v, %v", info.Mode(), err)
	}
	if target, err := os.Readlink(inside + "/new/link"); err != nil || target != "x" {
		t.Errorf("the link inside leads to %q, %v", target, err)
	}
	out := t.TempDir()
	if err := os.Mkdir(out+"/there", 0o755); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ from, to, probe string }{
		{"/new", "/n", "/n/sub/y"},
		{"/new", "/there", "/there/new/sub/y"},
		{"/new/.", "/there", "/there/sub/y"},
		{"/g", "/there", "/there/g"},
		{"/g", "/h", "/h"},
		{"/g", "/made/h", "/made/h"},
	} {
		if err := files.CopyOut(ctx, inside+test.from, out+test.to); err != nil {
			t.Errorf("copy %s out to %s: %v", test.from, test.to, err)
		} else if !exists(out + test.probe) {
			t.Errorf("copy %s out to %s made no %s", test.from, test.to, test.probe)
		}
	}
	if data, err := os.ReadFile(out + "/n/link"); err != nil || string(data) != "1" {
		t.Errorf("through the link that came out: %q, %v", data, err)
	}
	if err := os.Symlink("/etc/passwd", inside+"/new/evil"); err != nil {
		t.Fatal(err)
	}
	err := files.CopyOut(ctx, inside+"/new", out+"/again")
	if !errors.Is(err, cove.NotSupported) || !strings.Contains(err.Error(), "evil") || !exists(out+"/again/sub/y") {
		t.Errorf("a tree with a link that leads out: %v", err)
	}
	if err := files.CopyOut(ctx, inside+"/none", out+"/none"); !errors.Is(err, cove.NotFound) || exists(out+"/none") {
		t.Errorf("copy of what is not there: %v", err)
	}
	if err := files.CopyIn(ctx, here+"/none", inside); !errors.Is(err, cove.NotFound) {
		t.Errorf("copy of what is not here: %v", err)
	}
}

func TestArchivesPass(t *testing.T) {
	w, ctx := newWorld(t, Options{}), t.Context()
	box := w.sandbox()
	files, dir := box.Files(), box.Spec.Workdir
	if err := os.MkdirAll(dir+"/from/sub", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/from/sub/f", []byte("content"), 0o644); err != nil {
		t.Fatal(err)
	}
	archive, err := files.Archive(ctx, dir+"/from")
	if err != nil {
		t.Fatal(err)
	}
	defer archive.Close()
	if err := files.Extract(ctx, dir+"/to", archive); err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(dir + "/to/sub/f"); err != nil || string(data) != "content" {
		t.Errorf("got %q, %v", data, err)
	}
	if err := files.Extract(ctx, dir+"/bad", strings.NewReader(strings.Repeat("no tar ", 500))); err == nil {
		t.Error("something that is no tar was extracted")
	}
	if _, err := files.Archive(ctx, dir+"/none"); !errors.Is(err, cove.NotFound) {
		t.Errorf("archive of what is not there: %v", err)
	}
}

func TestADirectoryIsNoFile(t *testing.T) {
	w, ctx := newWorld(t, Options{}), t.Context()
	box := w.sandbox()
	if _, err := box.Files().ReadFile(ctx, box.Spec.Workdir); !errors.Is(err, cove.Invalid) {
		t.Errorf("reading a directory: %v, want invalid", err)
	}
	if _, err := box.Files().WriteFile(ctx, box.Spec.Workdir, strings.NewReader("x"), 0); err == nil {
		t.Error("a directory was overwritten")
	}
}
