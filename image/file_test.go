package image

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/erofs/go-erofs"
)

func TestAFileHasWhatTheTreesHaveAndOwnersOfItsOwn(t *testing.T) {
	s, err := Open(filepath.Join(t.TempDir(), "images"))
	if err != nil {
		t.Fatal(err)
	}
	lower, upper := filepath.Join(s.dir, "tree-lower"), filepath.Join(s.dir, "over-upper")
	for path, content := range map[string]string{
		"tree-lower/etc/hosts": "lower\n", "tree-lower/etc/release": "1\n", "tree-lower/bin/tool": "#!/bin/sh\n", "tree-lower/tmp/old": "",
		"over-upper/etc/hosts": "upper\n", "over-upper/home/user/.profile": "",
	} {
		path = filepath.Join(s.dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for path, mode := range map[string]os.FileMode{lower + "/bin/tool": 0o750, upper + "/etc": 0o711, lower + "/tmp": 0o777 | os.ModeSticky} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("tool", lower+"/bin/sh"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(upper+"/tmp", nil, 0o644); err != nil { // hides the directory below
		t.Fatal(err)
	}
	root := &Root{Dir: lower, Over: upper}
	path, err := s.File(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := s.File(t.Context(), root); again != path || err != nil {
		t.Errorf("again: %s, %v, want the one that is there", again, err)
	}
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	tree, err := erofs.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, content string
		mode          fs.FileMode
		owner         uint32
	}{
		{"etc/hosts", "upper\n", 0o644, 0},
		{"etc/release", "1\n", 0o644, 0},
		{"etc", "", fs.ModeDir | 0o711, 0},
		{"bin/tool", "#!/bin/sh\n", 0o750, 0},
		{"bin/sh", "", fs.ModeSymlink | 0o777, 0},
		{"tmp", "", 0o644, 0},
		{"home", "", fs.ModeDir | 0o755, 0},
		{"home/user", "", fs.ModeDir | 0o755, UserID},
		{"home/user/.profile", "", 0o644, UserID},
	} {
		info, err := fs.Lstat(tree, test.name)
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		owner := info.Sys().(*erofs.Stat)
		if info.Mode().Type()|info.Mode().Perm() != test.mode || owner.UID != test.owner || owner.GID != test.owner {
			t.Errorf("%s is %v of %d:%d, want %v of %d", test.name, info.Mode(), owner.UID, owner.GID, test.mode, test.owner)
		}
		if content, err := fs.ReadFile(tree, test.name); test.content != "" && (err != nil || string(content) != test.content) {
			t.Errorf("%s has %q, %v, want %q", test.name, content, err, test.content)
		}
	}
	if _, err := fs.Lstat(tree, "tmp/old"); err == nil {
		t.Error("tmp/old is there, want it hidden with its directory")
	}
	if other, err := s.File(t.Context(), &Root{Dir: t.TempDir()}); other != "" || err != nil {
		t.Errorf("of somebody else's tree: %q, %v, want none", other, err)
	}
	if err := os.RemoveAll(lower); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Prune(t.Context(), func(string) bool { return false }); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("the file is there without its tree, want it collected")
	}
}
