package image

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// maxAccounts bounds what is read of an image's account files.
const maxAccounts = 1 << 20

// settleUser brings USER into a form that a spec has: names alone and numbers stay, for
// the guest to look up, but a pair with a name in it is looked up in the image, since the
// guest's own form of a pair is of numbers.
func settleUser(dir, user string) (string, error) {
	owner, group, pair := strings.Cut(user, ":")
	if !pair || group == "" {
		return owner, nil
	}
	root, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(root)
	uid, err := lookUp(root, "etc/passwd", owner)
	if err != nil {
		return "", err
	}
	gid, err := lookUp(root, "etc/group", group)
	return uid + ":" + gid, err
}

// lookUp returns the number of a name in an account file of a tree.
func lookUp(root int, file, name string) (string, error) {
	if _, err := strconv.ParseUint(name, 10, 32); err == nil {
		return name, nil
	}
	if name == "root" {
		return "0", nil
	}
	fd, err := unix.Openat2(root, file, &unix.OpenHow{
		Flags: unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NONBLOCK, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err == nil {
		accounts := os.NewFile(uintptr(fd), file)
		defer accounts.Close()
		lines := bufio.NewScanner(io.LimitReader(accounts, maxAccounts))
		for lines.Scan() {
			fields := strings.SplitN(lines.Text(), ":", 4)
			if len(fields) < 3 || fields[0] != name {
				continue
			}
			if _, err := strconv.ParseUint(fields[2], 10, 32); err == nil {
				return fields[2], nil
			}
		}
	}
	return "", absurd(fmt.Sprintf("has the user %.64q, which is not in its /%s", name, file))
}
