package account_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/covehq/cove/guest/account"
)

const (
	rootLine, userLine   = "root:x:0:0:root:/root:/bin/sh\n", "user:x:1000:1000:user:/home/user:/bin/sh\n"
	rootGroup, userGroup = "root:x:0:\n", "user:x:1000:\n"
)

func TestAccountsOfEverySandboxAreAdded(t *testing.T) {
	for name, test := range map[string]struct{ passwd, group, wantPasswd, wantGroup string }{
		"no files":             {"", "", rootLine + userLine, rootGroup + userGroup},
		"root alone":           {"root:x:0:0::/:/bin/ash\n", "root:x:0:\n", "root:x:0:0::/:/bin/ash\n" + userLine, rootGroup + userGroup},
		"no line end":          {"root:x:0:0::/:/bin/ash", "wheel:x:0:", "root:x:0:0::/:/bin/ash\n" + userLine, "wheel:x:0:\n" + userGroup},
		"the number is taken":  {rootLine + "node:x:1000:1000::/home/node:/bin/sh\n", rootGroup + "node:x:1000:\n", rootLine + "node:x:1000:1000::/home/node:/bin/sh\n", rootGroup + "node:x:1000:\n"},
		"the name is taken":    {rootLine + "user:x:7:7::/:/bin/sh\n", rootGroup + "user:x:7:\n", rootLine + "user:x:7:7::/:/bin/sh\n", rootGroup + "user:x:7:\n"},
		"lines without a form": {"#:\n::::\nuser\n", "\n", "#:\n::::\nuser\n" + rootLine + userLine, "\n" + rootGroup + userGroup},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir, "passwd", test.passwd)
			write(t, dir, "group", test.group)
			for range 2 { // a second time nothing is missing
				if err := bookOf(dir).Complete(); err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(map[string]string{"passwd": test.wantPasswd, "group": test.wantGroup}, contents(t, dir)); diff != "" {
					t.Error(diff)
				}
			}
			if name := bookOf(dir).UserName(1000); name == "1000" && test.wantPasswd != test.passwd {
				t.Error("uid 1000 has no name")
			}
		})
	}
}

func TestAccountFilesKeepTheirOwnerAndPermissions(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "passwd", rootLine)
	if err := os.Chmod(filepath.Join(dir, "passwd"), 0o640); err != nil {
		t.Fatal(err)
	}
	owner := [2]uint32{uint32(os.Geteuid()), uint32(os.Getegid())}
	if owner[0] == 0 { // others can give nothing away
		owner = [2]uint32{7, 8}
		if err := os.Chown(filepath.Join(dir, "passwd"), 7, 8); err != nil {
			t.Fatal(err)
		}
	}
	if err := bookOf(dir).Complete(); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]os.FileMode{"passwd": 0o640, "group": 0o644} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode() != want {
			t.Errorf("%s: got %v, %v, want %v", name, info.Mode(), err, want)
		}
	}
	var stat unix.Stat_t
	if err := unix.Stat(filepath.Join(dir, "passwd"), &stat); err != nil || [2]uint32{stat.Uid, stat.Gid} != owner {
		t.Errorf("got owner %d:%d, %v, want %v", stat.Uid, stat.Gid, err, owner)
	}
}

// TestT09AccountFilesThatLeadElsewhereAreLeftAlone has links, and what is no file, in their place.
func TestT09AccountFilesThatLeadElsewhereAreLeftAlone(t *testing.T) {
	for name, prepare := range map[string]func(dir, other string) error{
		"a file that is a link": func(dir, other string) error {
			return os.Symlink(filepath.Join(other, "passwd"), filepath.Join(dir, "passwd"))
		},
		"a file that is a directory": func(dir, other string) error { return os.Mkdir(filepath.Join(dir, "passwd"), 0o700) },
		"a directory that is a link": func(dir, other string) error {
			if err := os.Remove(dir); err != nil {
				return err
			}
			return os.Symlink(other, dir)
		},
		"a file that is a pipe": func(dir, other string) error { return unix.Mkfifo(filepath.Join(dir, "passwd"), 0o600) },
		"a file that is too large": func(dir, other string) error {
			return os.WriteFile(filepath.Join(dir, "passwd"), make([]byte, 2<<20), 0o600)
		},
		"what was to be made is there": func(dir, other string) error {
			return os.Symlink(filepath.Join(other, "passwd"), filepath.Join(dir, "passwd.cove"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir, other := filepath.Join(t.TempDir(), "etc"), t.TempDir()
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			write(t, other, "passwd", rootLine)
			if err := prepare(dir, other); err != nil {
				t.Fatal(err)
			}
			if err := bookOf(dir).Complete(); err == nil {
				t.Error("got no error")
			}
			if diff := cmp.Diff(map[string]string{"passwd": rootLine}, contents(t, other)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func bookOf(dir string) *account.Book {
	return account.Open(filepath.Join(dir, "passwd"), filepath.Join(dir, "group"))
}

func write(t *testing.T, dir, name, text string) {
	t.Helper()
	if text == "" {
		return
	}
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// contents returns the files of a directory.
func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for _, entry := range entries {
		text, err := os.ReadFile(filepath.Join(dir, entry.Name()))
		if err != nil {
			t.Fatal(err)
		}
		files[entry.Name()] = string(text)
	}
	return files
}
