// Package daemon provides the life of Cove's daemon on one machine: where it lives, how
// it is found and started, that there is one of it, and when it leaves.
package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/covehq/cove"
)

// Dirs are the two directories that a daemon owns. Both are private to one user.
type Dirs struct {
	State string // the socket, locks and the log; does not outlive a reboot
	Data  string // the store and everything that is kept
}

// Locate returns the directories of the user with this uid, as absolute paths:
// COVE_STATE_DIR and COVE_DATA_DIR where they are set, else /run/cove and /var/lib/cove
// for root, and the XDG directories for everybody else. It touches no file.
func Locate(uid int, getenv func(string) string) (Dirs, error) {
	dirs := Dirs{State: getenv("COVE_STATE_DIR"), Data: getenv("COVE_DATA_DIR")}
	if dirs.Data == "" {
		data, err := defaultData(uid, getenv)
		if err != nil {
			return Dirs{}, err
		}
		dirs.Data = data
	}
	if dirs.State == "" {
		dirs.State = defaultState(uid, getenv, dirs.Data)
	}
	return dirs.Absolute()
}

func defaultData(uid int, getenv func(string) string) (string, error) {
	if uid == 0 {
		return "/var/lib/cove", nil
	}
	// The XDG specification has relative values ignored.
	if base := getenv("XDG_DATA_HOME"); filepath.IsAbs(base) {
		return filepath.Join(base, "cove"), nil
	}
	if home := getenv("HOME"); filepath.IsAbs(home) {
		return filepath.Join(home, ".local", "share", "cove"), nil
	}
	return "", cove.Errorf(cove.Invalid, "find the data directory", "", "neither XDG_DATA_HOME nor HOME is set", "set COVE_DATA_DIR to a directory of yours")
}

func defaultState(uid int, getenv func(string) string, data string) string {
	if uid == 0 {
		return "/run/cove"
	}
	if base := getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(base) {
		return filepath.Join(base, "cove")
	}
	return filepath.Join(data, "run")
}

// Absolute returns d with paths that hold also after a change of directory.
func (d Dirs) Absolute() (Dirs, error) {
	var err, dataErr error
	d.State, err = filepath.Abs(d.State)
	d.Data, dataErr = filepath.Abs(d.Data)
	return d, errors.Join(err, dataErr)
}

// Socket is the path of the socket that the API listens on.
func (d Dirs) Socket() string { return filepath.Join(d.State, "cove.sock") }

// URL is the socket as a client takes it.
func (d Dirs) URL() string { return "unix://" + d.Socket() }

// Log is the path of the log of a daemon that a client started.
func (d Dirs) Log() string { return filepath.Join(d.State, "cove.log") }

// Prepare makes both directories where they are missing, and refuses them where anybody
// else could have put something into them.
func (d Dirs) Prepare() error {
	for _, dir := range []string{d.State, d.Data} {
		if err := makePrivate(dir); err != nil {
			return err
		}
	}
	return nil
}

// Trust refuses a state directory in which somebody else could have left a socket. A
// directory that does not exist yet is trusted.
func (d Dirs) Trust() error {
	err := checkPrivate(d.State)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func makePrivate(dir string) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return refusal(dir, err.Error())
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return refusal(dir, err.Error())
	}
	if err := checkPrivate(dir); err != nil {
		return err
	}
	// Nobody else could write here, so whatever is inside is ours; from now on nobody
	// else reads it either.
	return os.Chmod(dir, 0o700)
}

// checkPrivate accepts a real directory of ours that nobody else can write to, below
// directories in which nobody else could swap it for another one.
func checkPrivate(dir string) error {
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	switch uid, self := owner(info), os.Geteuid(); {
	case info.Mode()&fs.ModeSymlink != 0:
		return refusal(dir, "it is a symbolic link")
	case !info.IsDir():
		return refusal(dir, "it is not a directory")
	case uid != self:
		return refusal(dir, fmt.Sprintf("it belongs to uid %d and not to uid %d", uid, self))
	case info.Mode().Perm()&0o022 != 0:
		return refusal(dir, "others may write to it")
	}
	return checkAncestors(dir)
}

func checkAncestors(dir string) error {
	parent, err := filepath.EvalSymlinks(filepath.Dir(dir))
	if err != nil {
		return err
	}
	for ; ; parent = filepath.Dir(parent) {
		info, err := os.Stat(parent)
		if err != nil {
			return err
		}
		if info.Mode().Perm()&0o002 != 0 && info.Mode()&fs.ModeSticky == 0 {
			return refusal(dir, "everybody may rename what is in "+parent)
		}
		if uid := owner(info); uid != 0 && uid != os.Geteuid() && uid != overflowUID {
			return refusal(dir, fmt.Sprintf("%s above it belongs to uid %d", parent, uid))
		}
		if parent == filepath.Dir(parent) {
			return nil
		}
	}
}

// overflowUID is how a user namespace shows an owner that it does not map: the real
// root of the machine, when Cove runs as root of a namespace. See user_namespaces(7).
const overflowUID = 65534

func owner(info fs.FileInfo) int { return int(info.Sys().(*syscall.Stat_t).Uid) }

func refusal(dir, why string) error {
	return cove.Errorf(cove.Forbidden, "use directory", dir, why,
		"give Cove directories of your own with COVE_STATE_DIR and COVE_DATA_DIR, or remove this one")
}
