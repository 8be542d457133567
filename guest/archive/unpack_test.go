package archive_test

import (
	"archive/tar"
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/covehq/cove/guest/archive"
	"github.com/covehq/cove/guest/disk"
)

// access reaches files with the test's own rights.
func access() archive.Access {
	return archive.Access{As: func(f func() error) error { return f() }, Disk: disk.New()}
}

// tarOf makes a tar of entries without content.
func tarOf(headers ...tar.Header) []byte {
	var buffer bytes.Buffer
	w := tar.NewWriter(&buffer)
	for i := range headers {
		_ = w.WriteHeader(&headers[i])
		_, _ = w.Write(make([]byte, headers[i].Size))
	}
	_ = w.Close()
	return buffer.Bytes()
}

// snapshot lists everything below a directory, with what would show a change.
func snapshot(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		text := info.Mode().String()
		if info.Mode().IsRegular() {
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			text += string(data)
		}
		all[path] = text
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// FuzzUnpack unpacks anything, and looks for traces outside of where it should go.
func FuzzUnpack(f *testing.F) {
	for _, seed := range [][]byte{
		nil,
		tarOf(tar.Header{Name: "a/b", Typeflag: tar.TypeReg, Size: 10, Mode: 0o644}),
		tarOf(tar.Header{Name: "../outside/evil", Typeflag: tar.TypeReg, Size: 1}),
		tarOf(tar.Header{Name: "/tmp/evil", Typeflag: tar.TypeReg, Size: 1}),
		tarOf(tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "../outside"}, tar.Header{Name: "l/file", Typeflag: tar.TypeReg, Size: 3}),
		tarOf(tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "../outside"}, tar.Header{Name: "l/", Typeflag: tar.TypeDir, Mode: 0o700}),
		tarOf(tar.Header{Name: "h", Typeflag: tar.TypeLink, Linkname: "../outside/file"}, tar.Header{Name: "h", Typeflag: tar.TypeReg, Size: 3}),
		tarOf(tar.Header{Name: "d/", Typeflag: tar.TypeDir, Mode: 0}, tar.Header{Name: "d/f", Typeflag: tar.TypeReg, Size: 3}),
		tarOf(tar.Header{Name: "x", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}, tar.Header{Name: "p", Typeflag: tar.TypeFifo}),
		tarOf(tar.Header{Name: "dir/", Typeflag: tar.TypeDir, Mode: 0o777}, tar.Header{Name: "dir", Typeflag: tar.TypeSymlink, Linkname: "/"}, tar.Header{Name: "dir/tmp/evil", Typeflag: tar.TypeReg}),
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		base := t.TempDir()
		into, outside := filepath.Join(base, "into"), filepath.Join(base, "outside")
		if err := os.Mkdir(outside, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(outside, "file"), []byte("untouched"), 0o644); err != nil {
			t.Fatal(err)
		}
		before := snapshot(t, outside)
		_ = archive.Unpack(t.Context(), bytes.NewReader(data), into, access())
		after := snapshot(t, outside)
		for path, text := range before {
			if after[path] != text {
				t.Errorf("%s: got %q, want %q", path, after[path], text)
			}
		}
		if len(after) != len(before) {
			t.Errorf("outside has become %v", after)
		}
		entries, err := os.ReadDir(base)
		if err != nil {
			t.Fatal(err)
		}
		for _, entry := range entries {
			if entry.Name() != "into" && entry.Name() != "outside" {
				t.Errorf("%s was made", entry.Name())
			}
		}
		_ = filepath.WalkDir(into, func(path string, entry fs.DirEntry, err error) error {
			if err != nil { // a directory may be closed to us
				return nil
			}
			if kind := entry.Type(); kind&(fs.ModeDevice|fs.ModeNamedPipe|fs.ModeSocket) != 0 {
				t.Errorf("%s is %v", path, kind)
			}
			if info, err := entry.Info(); err == nil && info.Mode()&(fs.ModeSetuid|fs.ModeSetgid) != 0 {
				t.Errorf("%s has mode %v", path, info.Mode())
			}
			return nil
		})
		_ = filepath.WalkDir(into, func(path string, entry fs.DirEntry, _ error) error {
			if entry != nil && entry.IsDir() { // for the test's own cleaning up
				_ = os.Chmod(path, 0o700)
			}
			return nil
		})
	})
}

// TestUnpackSurvivesASwap swaps a directory for a symlink to another all the time while
// files are unpacked into it. None may arrive there.
func TestUnpackSurvivesASwap(t *testing.T) {
	base := t.TempDir()
	into, outside := filepath.Join(base, "into"), filepath.Join(base, "outside")
	for _, dir := range []string{into, outside, filepath.Join(into, "d")} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		dir := filepath.Join(into, "d")
		for {
			select {
			case <-stop:
				return
			default:
			}
			_ = os.Rename(dir, dir+"-away")
			_ = os.Symlink(outside, dir)
			_ = os.Remove(dir)
			_ = os.Rename(dir+"-away", dir)
		}
	}()
	for range 200 {
		headers := make([]tar.Header, 20)
		for i := range headers {
			headers[i] = tar.Header{Name: "d/file" + string(rune('a'+i)), Typeflag: tar.TypeReg, Size: 1, Mode: 0o644}
		}
		_ = archive.Unpack(t.Context(), bytes.NewReader(tarOf(headers...)), into, access())
	}
	close(stop)
	<-stopped
	if left, err := os.ReadDir(outside); err != nil || len(left) != 0 {
		t.Errorf("got %v outside, %v; want nothing", left, err)
	}
}
