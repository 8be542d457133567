package image

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/covehq/cove"
)

// flattened lays layers over each other in a directory that lies in one of its own.
func flattened(t testing.TB, limits Limits, layers ...[]byte) (dir string, err error) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "outer", "tree")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir, flattenInto(dir, limits, layers...)
}

func flattenInto(dir string, limits Limits, layers ...[]byte) error {
	var sources []layerSource
	for _, data := range layers {
		sources = append(sources, layerSource{diffID: digestOf(data), open: func(context.Context) (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(data)), nil
		}})
	}
	_, err := flatten(context.Background(), dir, sources, &cove.ImageConfig{Workdir: "/w", Volumes: []string{"/v/deep"}}, limits.withDefaults())
	return err
}

// listing is everything below dir but what flatten makes of the configuration: files with
// their content, directories with a slash, symlinks with an arrow.
func listing(t *testing.T, dir string) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(dir, path)
		switch {
		case name == "." || name == "w" || name == "v" || name == "v/deep":
		case entry.IsDir():
			found[name] = "/"
		case entry.Type()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			found[name] = "-> " + target
			return err
		default:
			data, err := os.ReadFile(path)
			found[name] = string(data)
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestLayersLieOverEachOther(t *testing.T) {
	for name, test := range map[string]struct {
		layers [][]byte
		want   map[string]string
	}{
		"a whiteout hides a file": {
			[][]byte{layerOf(file("a", "1"), file("b", "2")), layerOf(file(".wh.a", ""))},
			map[string]string{"b": "2"},
		},
		"a whiteout hides a directory with all in it": {
			[][]byte{layerOf(file("d/e/f", "1"), file("b", "2")), layerOf(file(".wh.d", ""))},
			map[string]string{"b": "2"},
		},
		"a whiteout spares what its own layer has, wherever it stands": {
			[][]byte{layerOf(file("a", "1")), layerOf(file("a", "2"), file(".wh.a", ""))},
			map[string]string{"a": "2"},
		},
		"a whiteout of a directory that its own layer makes again hides what was in it": {
			[][]byte{layerOf(file("d/old", "1")), layerOf(file("d/new", "2"), file(".wh.d", ""))},
			map[string]string{"d": "/", "d/new": "2"},
		},
		"a whiteout of what is not there": {
			[][]byte{layerOf(file("a", "1")), layerOf(file(".wh.b", ""), file("no/such/.wh.c", ""), file("no2/.wh..wh..opq", ""))},
			map[string]string{"a": "1"},
		},
		"an opaque directory hides what lies below it, before it in the archive and after": {
			[][]byte{layerOf(file("d/a", "1"), file("d/sub/b", "1")), layerOf(file("d/sub/c", "2"), file("d/.wh..wh..opq", ""), file("d/e", "2"))},
			map[string]string{"d": "/", "d/sub": "/", "d/sub/c": "2", "d/e": "2"},
		},
		"an opaque root hides everything": {
			[][]byte{layerOf(file("d/a", "1")), layerOf(file(".wh..wh..opq", ""), file("b", "2"))},
			map[string]string{"b": "2"},
		},
		"a file takes a directory's place": {
			[][]byte{layerOf(file("d/e/f", "1")), layerOf(file("d", "2"))},
			map[string]string{"d": "2"},
		},
		"a directory takes a file's place": {
			[][]byte{layerOf(file("d", "1")), layerOf(folder("d"), file("d/f", "2"))},
			map[string]string{"d": "/", "d/f": "2"},
		},
		"a symlink takes a directory's place": {
			[][]byte{layerOf(file("d/f", "1"), folder("e")), layerOf(link("d", "e"), file("d/g", "2"))},
			map[string]string{"d": "-> e", "e": "/", "e/g": "2"},
		},
		"a layer writes through a symlink of the one below": {
			[][]byte{layerOf(folder("usr/bin"), link("bin", "usr/bin")), layerOf(file("bin/sh", "2"))},
			map[string]string{"usr": "/", "usr/bin": "/", "bin": "-> usr/bin", "usr/bin/sh": "2"},
		},
		"a whiteout through a symlink": {
			[][]byte{layerOf(file("usr/bin/sh", "1"), link("bin", "usr/bin")), layerOf(file("bin/.wh.sh", ""))},
			map[string]string{"usr": "/", "usr/bin": "/", "bin": "-> usr/bin"},
		},
		"a hard link to a file of the layer below": {
			[][]byte{layerOf(file("a", "1")), layerOf(hardlink("b", "a"), file(".wh.a", ""))},
			map[string]string{"b": "1"},
		},
		"a hard link to itself": {
			[][]byte{layerOf(file("a", "1"), hardlink("a", "a"))},
			map[string]string{"a": "1"},
		},
		"what a storage driver of old wrote for itself": {
			[][]byte{layerOf(file("a", "1"), folder(".wh..wh.plnk"), file(".wh..wh.aufs", ""))},
			map[string]string{"a": "1"},
		},
		"a device hides a file": {
			[][]byte{layerOf(file("dev/null", "1")), layerOf(entry{name: "dev/null", kind: tar.TypeChar, mode: 0o666})},
			map[string]string{"dev": "/"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir, err := flattened(t, Limits{}, test.layers...)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, listing(t, dir)); diff != "" {
				t.Errorf("tree (-want +got):\n%s", diff)
			}
		})
	}
}

// hostileLayers try to reach the canary, a file in a directory of the host. Each may be
// refused or be made harmless.
func hostileLayers(canary string) map[string][][]byte {
	dots := strings.Repeat("../", 12)
	dir, name := filepath.Dir(canary), filepath.Base(canary)
	return map[string][][]byte{
		"dots in a name":                            {layerOf(file(dots+canary, "x"))},
		"an absolute name":                          {layerOf(file(canary, "x"))},
		"a symlink, then a file through it":         {layerOf(link("l", dir), file("l/"+name, "x"))},
		"a symlink of a lower layer":                {layerOf(link("l", dir)), layerOf(file("l/"+name, "x"))},
		"a relative symlink of a lower layer":       {layerOf(link("l", dots+dir)), layerOf(file("l/"+name, "x"))},
		"a symlink, then a file in its place":       {layerOf(link("l", canary)), layerOf(file("l", "x"))},
		"a hard link to outside":                    {layerOf(hardlink("h", canary), file("h", "x"))},
		"a hard link through a symlink":             {layerOf(link("l", dir)), layerOf(hardlink("h", "l/"+name))},
		"a hard link to a symlink to outside":       {layerOf(link("l", canary), hardlink("h", "l"), file("h", "x"))},
		"a whiteout with dots":                      {layerOf(file(dots+dir+"/.wh."+name, ""))},
		"a whiteout with an absolute name":          {layerOf(file(dir+"/.wh."+name, ""))},
		"a whiteout through a symlink":              {layerOf(link("l", dir)), layerOf(file("l/.wh."+name, ""))},
		"an opaque directory through a symlink":     {layerOf(link("l", dir)), layerOf(file("l/.wh..wh..opq", ""))},
		"a whiteout of a symlink":                   {layerOf(link("l", dir)), layerOf(file(".wh.l", ""))},
		"a whiteout of the parent":                  {layerOf(file("d/.wh...", ""))},
		"a whiteout of the directory itself":        {layerOf(file("d/.wh..", ""))},
		"a whiteout of nothing":                     {layerOf(file("d/.wh.", ""))},
		"an opaque root above a symlink":            {layerOf(link("l", dir)), layerOf(file(".wh..wh..opq", ""))},
		"a file in the place of a linked tree":      {layerOf(link("d/l", dir)), layerOf(file("d", "x"))},
		"a chain of symlinks":                       {layerOf(link("a", "b"), link("b", "c"), link("c", dir)), layerOf(file("a/"+name, "x"))},
		"a symlink loop":                            {layerOf(link("a", "b"), link("b", "a"), file("a/x", "x"))},
		"a magic link":                              {layerOf(link("l", "/proc/self/root"+dir)), layerOf(file("l/"+name, "x"))},
		"a link to another process's root":          {layerOf(link("l", "/proc/1/root"+dir)), layerOf(file("l/.wh."+name, ""))},
		"T05: /dev is a symlink":                    {layerOf(link("dev", dir)), layerOf(file("dev/"+name, "x"), file("dev/.wh."+name, ""))},
		"T05: /proc and /etc and /sys are symlinks": {layerOf(link("proc", dir), link("etc", dir), link("sys", dir)), layerOf(file("etc/"+name, "x"), file("proc/.wh."+name, ""))},
		"T56: a device":                             {layerOf(entry{name: "sda", kind: tar.TypeBlock, mode: 0o666}, entry{name: "mem", kind: tar.TypeChar, mode: 0o666})},
		"T56: a FIFO":                               {layerOf(entry{name: "fifo", kind: tar.TypeFifo, mode: 0o666})},
		"T56: names that clean to one":              {layerOf(link("a", dir), folder("./a//"), file("b/../a", "x"))},
		"T56: a symlink made over a directory":      {layerOf(folder("d"), link("d", dir), file("d/"+name, "x"))},
	}
}

func TestT05T09T56HostileLayersReachNothingOutside(t *testing.T) {
	for name := range hostileLayers("/x/canary") {
		t.Run(name, func(t *testing.T) {
			canary := filepath.Join(t.TempDir(), "canary")
			if err := os.WriteFile(canary, []byte("alive"), 0o640); err != nil {
				t.Fatal(err)
			}
			before := times(t, canary)
			dir, err := flattened(t, Limits{}, hostileLayers(canary)[name]...)
			if err != nil && !errors.Is(err, cove.Invalid) {
				t.Errorf("got %v, want success or invalid", err)
			}
			if data, _ := os.ReadFile(canary); string(data) != "alive" || times(t, canary) != before {
				t.Errorf("the canary has changed: %q", data)
			}
			for _, place := range []string{filepath.Dir(canary), filepath.Dir(dir)} {
				if entries, err := os.ReadDir(place); err != nil || len(entries) != 1 {
					t.Errorf("%s: got %v, %v, want nothing new", place, entries, err)
				}
			}
			if err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
				if err == nil && !entry.IsDir() && !entry.Type().IsRegular() && entry.Type() != fs.ModeSymlink {
					t.Errorf("%s is of type %v", path, entry.Type())
				}
				return err
			}); err != nil {
				t.Error(err)
			}
		})
	}
}

// times is everything of a file that an attack would change.
func times(t *testing.T, path string) string {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		t.Error(err)
		return ""
	}
	stat := info.Sys().(*syscall.Stat_t)
	stat.Atim = syscall.Timespec{} // of whoever looks
	return fmt.Sprintf("%+v", stat)
}

func TestT56PermissionsOfALayerGrantNothing(t *testing.T) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, header := range []tar.Header{
		{Name: "su", Typeflag: tar.TypeReg, Mode: 0o6755, Uid: os.Geteuid(), Gid: os.Getegid(), PAXRecords: map[string]string{
			"SCHILY.xattr.security.capability": "\x01\x00\x00\x02\xff\xff\xff\xff\x00\x00\x00\x00", "SCHILY.xattr.user.x": "y", "SCHILY.xattr.trusted.overlay.opaque": "y",
		}},
		{Name: "sticky/", Typeflag: tar.TypeDir, Mode: 0o1777, Uid: os.Geteuid(), Gid: os.Getegid()},
	} {
		if err := w.WriteHeader(&header); err != nil {
			t.Fatal(err)
		}
	}
	w.Close()
	dir, err := flattened(t, Limits{}, b.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(filepath.Join(dir, "su")); err != nil || info.Mode() != 0o755 {
		t.Errorf("su: got %v, %v, want no setuid", info.Mode(), err)
	}
	if info, err := os.Stat(filepath.Join(dir, "sticky")); err != nil || info.Mode() != fs.ModeDir|fs.ModeSticky|0o777 {
		t.Errorf("sticky: got %v, %v", info.Mode(), err)
	}
	if names := xattrs(t, filepath.Join(dir, "su")); names != "" {
		t.Errorf("attributes: got %q, want none", names)
	}
}

func TestT37WhatIsTooLargeIsRefused(t *testing.T) {
	small := Limits{Bytes: 1 << 20, Entries: 100}
	var many []entry
	for i := range 101 {
		many = append(many, folder(fmt.Sprint("d", i)))
	}
	hugeHeader := func() []byte {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		if err := w.WriteHeader(&tar.Header{Name: "sparse", Size: 7 << 60, Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	for name, layers := range map[string][][]byte{
		"entries of one layer":            {layerOf(many...)},
		"entries of all layers":           {layerOf(many[:60]...), layerOf(many[:60]...)},
		"a file":                          {layerOf(file("f", strings.Repeat("x", 1<<20+1)))},
		"files of all layers":             {layerOf(file("f", strings.Repeat("x", 600<<10))), layerOf(file("f", strings.Repeat("x", 600<<10)))},
		"a file that claims 7 EiB":        {hugeHeader()},
		"a gzip bomb of a file":           {gzipped(layerOf(file("f", strings.Repeat("\x00", 50<<20))))},
		"a gzip bomb behind the archive":  {gzipped(append(layerOf(file("f", "x")), make([]byte, 50<<20)...))},
		"a zstd bomb behind the archive":  {zstandard(append(layerOf(file("f", "x")), make([]byte, 50<<20)...))},
		"a bomb of headers":               {gzipped(bytes.Repeat(layerOf(folder("d"))[:512], 200))},
		"skipped entries with much in it": {skippedBomb(t)},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := flattened(t, small, layers...)
			if !errors.Is(err, cove.TooLarge) {
				t.Errorf("got %v, want too large", err)
			}
		})
	}
	for name, layer := range map[string][]byte{
		"noise":                   bytes.Repeat([]byte("noise"), 1000),
		"a torn entry":            layerOf(file("f", "content"))[:515],
		"a torn gzip":             gzipped(layerOf(file("f", strings.Repeat("x", 5000))))[:40],
		"gzip in name alone":      {0x1f, 0x8b, 1, 2, 3, 4, 5, 6},
		"zstd in name alone":      {0x28, 0xb5, 0x2f, 0xfd, 9, 9, 9, 9},
		"a name of 300 levels":    layerOf(folder(strings.Repeat("d/", 300))),
		"an owner that is nobody": ownedBy(t, 1<<32-1),
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := flattened(t, small, layer); !errors.Is(err, cove.Invalid) {
				t.Errorf("got %v, want invalid", err)
			}
		})
	}
}

// skippedBomb has entries of a kind that is left out, with content.
func skippedBomb(t *testing.T) []byte {
	t.Helper()
	data := layerOf(file("f", strings.Repeat("x", 2<<20)))
	header := data[:512]
	header[156] = 'S' + 1 // a type that nobody knows
	sum := 0
	copy(header[148:156], "        ")
	for _, c := range header {
		sum += int(c)
	}
	copy(header[148:156], fmt.Sprintf("%06o\x00 ", sum))
	return data
}

func ownedBy(t *testing.T, uid int) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: "f", Mode: 0o644, Uid: uid}); err != nil {
		t.Fatal(err)
	}
	w.Close()
	return b.Bytes()
}

// A symlink may lead from one depth to another, so that names of any length make a tree of
// any depth, which nobody could remove any more.
func TestT37DirectoriesNestNoDeeperThanTheyCanBeRemoved(t *testing.T) {
	deep := strings.TrimSuffix(strings.Repeat("d/", 200), "/")
	dir, err := flattened(t, Limits{}, layerOf(folder(deep), link("l", deep), folder("l/"+deep)))
	if !errors.Is(err, cove.Invalid) {
		t.Errorf("got %v, want invalid", err)
	}
	if err := removeTree(dir); err != nil {
		t.Error(err)
	}
}

func TestT37TreesOfManyEntriesAreRefusedAndRemoved(t *testing.T) {
	const most = 5000
	var entries []entry
	for i := range most + 1 {
		entries = append(entries, link(fmt.Sprintf("%d/%d", i%100, i), "x"))
	}
	dir, err := flattened(t, Limits{Entries: most}, gzipped(layerOf(entries...)))
	if !errors.Is(err, cove.TooLarge) {
		t.Errorf("got %v, want too large", err)
	}
	if err := removeTree(dir); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the tree is there: %v", err)
	}
}

// Any bytes as a layer, over a tree with links out of it, change nothing outside.
func FuzzLayer(f *testing.F) {
	for _, layers := range hostileLayers("/outer/canary") {
		for _, layer := range layers {
			f.Add(layer)
		}
	}
	f.Add(gzipped(layerOf(file("d/.wh..wh..opq", ""), hardlink("x", "l/canary"))))
	f.Add(zstandard(layerOf(file("d/a", "b"))))
	f.Fuzz(func(t *testing.T, layer []byte) {
		outer := t.TempDir()
		tree := filepath.Join(outer, "tree")
		canary := filepath.Join(outer, "canary")
		if err := errors.Join(os.Mkdir(tree, 0o755), os.WriteFile(canary, []byte("alive"), 0o600)); err != nil {
			t.Fatal(err)
		}
		before := times(t, canary)
		base := layerOf(link("l", outer), link("up", ".."), folder("d"), file("d/a", "1"))
		_ = flattenInto(tree, Limits{Bytes: 1 << 20, Entries: 1000}, base, layer)
		if entries, err := os.ReadDir(outer); err != nil || len(entries) != 2 || times(t, canary) != before {
			t.Errorf("outside: got %v, %v, want the tree and the canary as they were", entries, err)
		}
		if err := removeTree(tree); err != nil {
			t.Error(err)
		}
	})
}
