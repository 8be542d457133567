package daemon

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/covehq/cove"
)

func TestLocate(t *testing.T) {
	tests := map[string]struct {
		uid  int
		env  map[string]string
		want Dirs
		err  bool
	}{
		"root":                            {0, nil, Dirs{"/run/cove", "/var/lib/cove"}, false},
		"a user":                          {7, map[string]string{"HOME": "/home/u", "XDG_RUNTIME_DIR": "/run/user/7"}, Dirs{"/run/user/7/cove", "/home/u/.local/share/cove"}, false},
		"a user who keeps data elsewhere": {7, map[string]string{"XDG_DATA_HOME": "/d", "XDG_RUNTIME_DIR": "/r"}, Dirs{"/r/cove", "/d/cove"}, false},
		"a user without a session":        {7, map[string]string{"HOME": "/home/u"}, Dirs{"/home/u/.local/share/cove/run", "/home/u/.local/share/cove"}, false},
		"relative XDG paths do not count": {7, map[string]string{"HOME": "/h", "XDG_DATA_HOME": "x", "XDG_RUNTIME_DIR": "y"}, Dirs{"/h/.local/share/cove/run", "/h/.local/share/cove"}, false},
		"somebody who says where":         {7, map[string]string{"COVE_STATE_DIR": "/s", "COVE_DATA_DIR": "/d"}, Dirs{"/s", "/d"}, false},
		"root who says where":             {0, map[string]string{"COVE_STATE_DIR": "/s"}, Dirs{"/s", "/var/lib/cove"}, false},
		"a user without a home":           {7, nil, Dirs{}, true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := Locate(test.uid, func(name string) string { return test.env[name] })
			if got != test.want || (err != nil) != test.err {
				t.Errorf("Locate = %+v, %v, want %+v", got, err, test.want)
			}
		})
	}
}

func TestPrepareMakesPrivateDirectories(t *testing.T) {
	base := t.TempDir()
	dirs := Dirs{State: filepath.Join(base, "deep", "state"), Data: filepath.Join(base, "data")}
	if err := os.Mkdir(dirs.Data, 0o755); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := dirs.Prepare(); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{dirs.State, dirs.Data} {
		if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("%s: %v, %v, want mode 0700", dir, info.Mode(), err)
		}
	}
	if err := dirs.Trust(); err != nil {
		t.Errorf("Trust = %v", err)
	}
}

func TestHostileDirectoriesAreRefused(t *testing.T) {
	tests := map[string]func(t *testing.T, dir string) error{
		"a symbolic link": func(t *testing.T, dir string) error {
			return os.Symlink(t.TempDir(), dir)
		},
		"a file": func(_ *testing.T, dir string) error {
			return os.WriteFile(dir, nil, 0o600)
		},
		"a directory that others write to": func(_ *testing.T, dir string) error {
			return errors.Join(os.Mkdir(dir, 0o700), os.Chmod(dir, 0o770))
		},
		"a directory that others may swap": func(_ *testing.T, dir string) error {
			return errors.Join(os.Mkdir(dir, 0o700), os.Chmod(filepath.Dir(dir), 0o777))
		},
		"somebody else's directory": func(t *testing.T, dir string) error {
			needsRoot(t)
			return errors.Join(os.Mkdir(dir, 0o700), os.Chown(dir, 1000, 1000))
		},
		"a directory in somebody else's": func(t *testing.T, dir string) error {
			needsRoot(t)
			return errors.Join(os.Mkdir(dir, 0o700), os.Chown(filepath.Dir(dir), 1000, 1000))
		},
	}
	for name, prepare := range tests {
		t.Run(name, func(t *testing.T) {
			parent := filepath.Join(t.TempDir(), "parent")
			if err := os.Mkdir(parent, 0o700); err != nil {
				t.Fatal(err)
			}
			dir := filepath.Join(parent, "state")
			if err := prepare(t, dir); err != nil {
				t.Fatal(err)
			}
			dirs := Dirs{State: dir, Data: filepath.Join(t.TempDir(), "data")}
			err := dirs.Prepare()
			if !errors.Is(err, cove.Forbidden) || cove.HintOf(err) == "" {
				t.Errorf("Prepare = %v, want a refusal with a hint", err)
			}
			if err := dirs.Trust(); !errors.Is(err, cove.Forbidden) {
				t.Errorf("Trust = %v, want a refusal", err)
			}
			if _, err := os.Lstat(filepath.Join(dir, "cove.lock")); err == nil || errors.Is(err, fs.ErrPermission) {
				t.Errorf("something was written into it: %v", err)
			}
		})
	}
}

func needsRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can give a directory away")
	}
}

func TestADirectoryThatIsNotThereYetIsTrusted(t *testing.T) {
	dirs := Dirs{State: filepath.Join(t.TempDir(), "none")}
	if err := dirs.Trust(); err != nil {
		t.Error(err)
	}
}
