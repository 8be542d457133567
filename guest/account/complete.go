package account

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/covehq/cove"
)

// Complete gives the accounts that every sandbox has a line in the book's files, where an
// image names neither the account nor its number: programs ask for the name of the user that
// they run as, and some don't run as a number. What is there stays as it is; a directory or
// file that is a link is left alone, since it may lead anywhere, and is an error.
func (b *Book) Complete() error {
	return errors.Join(
		complete(b.passwd, func(text string) (missing string) {
			known := parseUsers(text)
			for _, a := range everySandboxes() {
				if _, named := known.byName[a.Name]; !named && known.names[a.UID] == "" {
					missing += fmt.Sprintf("%s:x:%d:%d:%s:%s:%s\n", a.Name, a.UID, a.GID, a.Name, a.Home, a.Shell)
				}
			}
			return missing
		}),
		complete(b.group, func(text string) (missing string) {
			known := parseGroups(text)
			for _, a := range everySandboxes() {
				if _, named := known.ids[a.Name]; !named && known.names[a.GID] == "" {
					missing += fmt.Sprintf("%s:x:%d:\n", a.Name, a.GID)
				}
			}
			return missing
		}),
	)
}

// everySandboxes returns the accounts that are there whatever an image says, root first.
func everySandboxes() []Account { return []Account{builtin["root"], builtin[cove.DefaultUser]} }

// complete puts the lines that are missing at the end of a file. Nobody sees half of it, and
// where something is mounted on the file there is an error.
func complete(path string, missing func(text string) string) error {
	dir, err := unix.Open(filepath.Dir(path), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: filepath.Dir(path), Err: err}
	}
	defer unix.Close(dir)
	name := filepath.Base(path)
	text, stat, err := readIn(dir, name)
	if err != nil {
		return &os.PathError{Op: "read", Path: path, Err: err}
	}
	lines := missing(text)
	if lines == "" {
		return nil
	}
	if text != "" && !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	if err := replaceIn(dir, name, text+lines, stat); err != nil {
		return &os.PathError{Op: "replace", Path: path, Err: err}
	}
	return nil
}

// readIn reads a regular file of a directory. One that is missing is empty, and will be root's,
// for all to read.
func readIn(dir int, name string) (string, *unix.Stat_t, error) {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return "", &unix.Stat_t{Mode: 0o644}, nil
	}
	if err != nil {
		return "", nil, err
	}
	file := os.NewFile(uintptr(fd), name)
	defer file.Close()
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return "", nil, err
	}
	if stat.Mode&unix.S_IFMT != unix.S_IFREG || stat.Size > maxFile {
		return "", nil, unix.EINVAL
	}
	text, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err == nil && len(text) > maxFile {
		err = unix.EFBIG
	}
	return string(text), &stat, err
}

// replaceIn writes a file of a directory with the owner and the permissions of another.
func replaceIn(dir int, name, text string, like *unix.Stat_t) error {
	fresh := name + ".cove"
	fd, err := unix.Openat(dir, fresh, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	file := os.NewFile(uintptr(fd), fresh)
	_, err = file.WriteString(text)
	errs := []error{err}
	if like.Uid != 0 || like.Gid != 0 {
		errs = append(errs, unix.Fchown(fd, int(like.Uid), int(like.Gid)))
	}
	errs = append(errs, unix.Fchmod(fd, like.Mode&0o7777), file.Close())
	if slices.ContainsFunc(errs, func(err error) bool { return err != nil }) {
		return errors.Join(append(errs, unix.Unlinkat(dir, fresh, 0))...)
	}
	if err := unix.Renameat(dir, fresh, dir, name); err != nil {
		return errors.Join(err, unix.Unlinkat(dir, fresh, 0))
	}
	return nil
}
