package client

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/covehq/cove"
)

// archive makes a tar of entries.
func archive(t *testing.T, entries ...tar.Header) io.Reader {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, header := range entries {
		content := ""
		if header.Typeflag == tar.TypeReg {
			content = "content of " + header.Name
			header.Size = int64(len(content))
		}
		if header.Mode == 0 {
			header.Mode = 0o644
		}
		if err := w.WriteHeader(&header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &buf
}

func regular(name string) tar.Header { return tar.Header{Typeflag: tar.TypeReg, Name: name} }
func link(name, target string) tar.Header {
	return tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target}
}
func hard(name, target string) tar.Header {
	return tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target}
}
func directory(name string) tar.Header {
	return tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755}
}

// tree lists what is below a directory, as "name", "name/", "name -> target".
func tree(t *testing.T, dir string) []string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(dir, func(at string, entry fs.DirEntry, err error) error {
		if err != nil || at == dir {
			return err
		}
		name := strings.TrimPrefix(at, dir+"/")
		switch entry.Type() {
		case fs.ModeDir:
			name += "/"
		case fs.ModeSymlink:
			target, err := os.Readlink(at)
			if err != nil {
				return err
			}
			name += " -> " + target
		}
		names = append(names, name)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func TestUnpack(t *testing.T) {
	for name, test := range map[string]struct {
		entries []tar.Header
		want    []string // what is there afterwards
		left    []string // what the error names; nil means no error
	}{
		"a tree": {
			[]tar.Header{directory("./"), directory("a"), regular("a/b"), regular("./c"), directory("a/d/")},
			[]string{"a/", "a/b", "a/d/", "c"}, nil,
		},
		"parents that the archive does not name": {
			[]tar.Header{regular("x/y/z")}, []string{"x/", "x/y/", "x/y/z"}, nil,
		},
		"links that stay inside": {
			[]tar.Header{directory("a"), regular("a/b"), link("l", "a/b"), link("a/up", "../a/b"), link("dangling", "nowhere"), hard("h", "a/b")},
			[]string{"a/", "a/b", "a/up -> ../a/b", "dangling -> nowhere", "h", "l -> a/b"}, nil,
		},
		"a name that goes up": {
			[]tar.Header{regular("../evil"), regular("a/../../evil"), regular("ok")}, []string{"ok"}, []string{`"../evil"`, `"a/../../evil"`},
		},
		"an absolute name": {
			[]tar.Header{regular("/tmp/evil"), regular("ok")}, []string{"ok"}, []string{"/tmp/evil"},
		},
		"a link to an absolute path": {
			[]tar.Header{link("l", "/etc/passwd"), regular("ok")}, []string{"ok"}, []string{`"l" is a link that leads out, to /etc/passwd`},
		},
		"a link that goes up": {
			[]tar.Header{link("l", ".."), link("a/l", "../.."), regular("ok")}, []string{"a/", "ok"}, []string{`"l"`, `"a/l"`},
		},
		"a link that goes down and then up, past another link": {
			[]tar.Header{link("s", "."), link("l", "s/../../x")}, []string{"s -> ."}, []string{`"l"`},
		},
		"a link whose target is not in its simplest form": {
			[]tar.Header{link("s", "."), link("l", "s/../x")}, []string{"s -> ."}, []string{`"l"`},
		},
		"a file behind a link": {
			[]tar.Header{directory("a"), link("l", "a"), regular("l/evil")}, []string{"a/", "l -> a"}, []string{`"l" should be a directory`},
		},
		"a link behind a link": {
			[]tar.Header{directory("a"), link("l", "a"), link("l/m", "../..")}, []string{"a/", "l -> a"}, []string{`"l" should be a directory`},
		},
		"a directory that turns into a link": {
			[]tar.Header{directory("a"), link("a", "/"), regular("a/x")}, []string{"a/", "a/x"}, []string{`"a" can't replace the directory`},
		},
		"a file that turns into a link": {
			[]tar.Header{regular("f"), link("f", "/etc/passwd"), regular("g")}, []string{"g"}, []string{`"f" is a link that leads out`},
		},
		"a link that turns into a file": {
			[]tar.Header{regular("a"), link("f", "a"), regular("f")}, []string{"a", "f"}, nil,
		},
		"a hard link that leads out": {
			[]tar.Header{hard("h", "../../etc/passwd"), hard("i", "/etc/passwd"), regular("ok")}, []string{"ok"}, []string{`"h"`, `"i"`},
		},
		"a hard link to a link": {
			[]tar.Header{link("l", "a"), hard("h", "l")}, []string{"l -> a"}, []string{`"h"`},
		},
		"devices and pipes": {
			[]tar.Header{
				{Typeflag: tar.TypeChar, Name: "null", Devmajor: 1, Devminor: 3}, {Typeflag: tar.TypeBlock, Name: "sda", Devmajor: 8},
				{Typeflag: tar.TypeFifo, Name: "pipe"}, regular("ok"),
			},
			[]string{"ok"}, []string{`"null"`, `"sda"`, `"pipe"`},
		},
		"a file where a directory should be": {
			[]tar.Header{regular("a"), regular("a/b"), regular("c")}, []string{"a", "c"}, []string{`"a" should be a directory`},
		},
		"a name longer than any path": {
			[]tar.Header{regular(strings.Repeat("d/", 3000) + "f"), regular("ok")}, []string{"ok"}, []string{"is not a name"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			outer := t.TempDir()
			dir := filepath.Join(outer, "sub", "copy")
			err := unpack("copy out", archive(t, test.entries...), dir, "")
			if got := tree(t, dir); !slices.Equal(got, test.want) {
				t.Errorf("there is %q, want %q", got, test.want)
			}
			if got := tree(t, outer); len(got) != len(test.want)+2 {
				t.Errorf("outside of the copy there is more: %q", got)
			}
			if (err != nil) != (test.left != nil) {
				t.Fatalf("got error %v, want one: %v", err, test.left != nil)
			}
			if err != nil && !errors.Is(err, cove.NotSupported) {
				t.Errorf("error %v is not unsupported", err)
			}
			for _, part := range test.left {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("error %q does not name %s", err, part)
				}
			}
		})
	}
}

func TestUnpackNeverFollowsWhatIsThere(t *testing.T) {
	outer := t.TempDir()
	secret := filepath.Join(outer, "secret")
	if err := os.WriteFile(secret, []byte("untouched"), 0o600); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(outer, "copy")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"f", "d"} {
		if err := os.Symlink("../secret", filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("..", filepath.Join(dir, "up")); err != nil {
		t.Fatal(err)
	}
	err := unpack("copy out", archive(t, regular("f"), regular("d/x"), regular("up/secret"), regular("up/new")), dir, "")
	if err == nil || !strings.Contains(err.Error(), `"up"`) {
		t.Errorf("got %v, want an error about what leads out", err)
	}
	if data, err := os.ReadFile(secret); err != nil || string(data) != "untouched" {
		t.Errorf("the file outside is %q, %v", data, err)
	}
	if got := tree(t, outer); !slices.Equal(got, []string{"copy/", "copy/d -> ../secret", "copy/f", "copy/up -> ..", "secret"}) {
		t.Errorf("there is %q", got)
	}
}

func TestUnpackKeepsModesAndTimesButNoPrivileges(t *testing.T) {
	dir := t.TempDir()
	when := time.Date(2020, 2, 3, 4, 5, 6, 0, time.UTC)
	private := directory("d")
	private.Mode, private.ModTime = 0o500, when
	inner := regular("d/f")
	inner.Mode, inner.ModTime = 0o6755, when
	if err := unpack("copy out", archive(t, private, inner), dir, ""); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]fs.FileMode{"d": fs.ModeDir | 0o500, "d/f": 0o755} {
		info, err := os.Lstat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode() != want || !info.ModTime().Equal(when) {
			t.Errorf("%s has mode %v and time %v, want %v and %v", name, info.Mode(), info.ModTime(), want, when)
		}
	}
	// So that the directory can be removed by a test that is not root.
	if err := os.Chmod(filepath.Join(dir, "d"), 0o700); err != nil {
		t.Fatal(err)
	}
}

func TestUnpackOneFileGetsTheNameThatWasAskedFor(t *testing.T) {
	dir := t.TempDir()
	if err := unpack("copy out", archive(t, regular("../../evil"), regular("second")), dir, "mine"); err != nil {
		t.Fatal(err)
	}
	if got := tree(t, dir); !slices.Equal(got, []string{"mine"}) {
		t.Errorf("there is %q, want the one file", got)
	}
}

func TestUnpackOfAnArchiveThatBreaksOff(t *testing.T) {
	data, err := io.ReadAll(archive(t, regular("a"), regular("b")))
	if err != nil {
		t.Fatal(err)
	}
	broken := io.MultiReader(bytes.NewReader(data[:700]), failing{})
	if err := unpack("copy out", broken, t.TempDir(), ""); !errors.Is(err, cove.Unavailable) {
		t.Errorf("got %v, want unavailable", err)
	}
	whole := io.MultiReader(bytes.NewReader(data), failing{})
	if err := unpack("copy out", whole, t.TempDir(), ""); !errors.Is(err, cove.Unavailable) {
		t.Errorf("after the last entry: got %v, want unavailable", err)
	}
	if err := unpack("copy out", strings.NewReader(strings.Repeat("x", 2000)), t.TempDir(), ""); !errors.Is(err, cove.Unavailable) {
		t.Errorf("no tar at all: got %v, want unavailable", err)
	}
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, cove.Unavailable }

func TestPackAndUnpackAreInverse(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	for _, dir := range []string{"a/b", "empty"} {
		if err := os.MkdirAll(filepath.Join(from, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, content := range map[string]string{"a/b/f": "deep", "x y": "", "größe": strings.Repeat("z", 1<<20)} {
		if err := os.WriteFile(filepath.Join(from, name), []byte(content), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("a/b/f", filepath.Join(from, "link")); err != nil {
		t.Fatal(err)
	}
	var buf bytes.Buffer
	packing := &packer{op: "copy in", tar: tar.NewWriter(&buf), buf: make([]byte, 4096)}
	info, err := os.Stat(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := packing.pack(t.Context(), from, ".", info); err != nil {
		t.Fatal(err)
	}
	if err := unpack("copy out", &buf, to, ""); err != nil {
		t.Fatal(err)
	}
	if got, want := tree(t, to), tree(t, from); !slices.Equal(got, want) {
		t.Errorf("there is %q, want %q", got, want)
	}
	data, err := os.ReadFile(filepath.Join(to, "größe"))
	if err != nil || len(data) != 1<<20 {
		t.Errorf("the large file has %d bytes, %v", len(data), err)
	}
}

func FuzzUnpackStaysInside(f *testing.F) {
	f.Add("a", "../x", "a/b", byte(tar.TypeSymlink))
	f.Add("s", ".", "s/../../evil", byte(tar.TypeReg))
	f.Add("d/l", "../..", "d/l/evil", byte(tar.TypeLink))
	f.Fuzz(func(t *testing.T, first, target, second string, kind byte) {
		var buf bytes.Buffer
		w := tar.NewWriter(&buf)
		for _, header := range []tar.Header{
			{Typeflag: tar.TypeSymlink, Name: first, Linkname: target, Mode: 0o777},
			{Typeflag: kind, Name: second, Linkname: first, Mode: 0o777},
			{Typeflag: tar.TypeReg, Name: second + "/evil", Mode: 0o777},
			{Typeflag: tar.TypeReg, Name: first + "/evil", Mode: 0o777},
		} {
			if w.WriteHeader(&header) != nil {
				return
			}
		}
		if w.Close() != nil {
			return
		}
		outer := t.TempDir()
		dir := filepath.Join(outer, "x", "y", "copy")
		_ = unpack("copy out", &buf, dir, "")
		inside := 0
		_ = filepath.WalkDir(dir, func(at string, entry fs.DirEntry, err error) error {
			inside++
			if err == nil && entry.Type() == fs.ModeSymlink {
				resolved, err := filepath.EvalSymlinks(at)
				if err == nil && resolved != dir && !strings.HasPrefix(resolved, dir+"/") {
					t.Errorf("%s leads to %s", at, resolved)
				}
			}
			return nil
		})
		all := 0
		_ = filepath.WalkDir(outer, func(string, fs.DirEntry, error) error { all++; return nil })
		if all != inside+3 {
			t.Errorf("%d files in all, %d of them inside", all, inside)
		}
	})
}
