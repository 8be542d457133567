package sqlite

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/covehq/cove"
)

// lockFile takes the lock that keeps a second daemon off a state directory, and writes
// this process's id into it for the other one's message. The kernel drops the lock with
// the process, however that ends.
func lockFile(path string) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		err = inUse(file)
	}
	if err == nil {
		err = writePID(file)
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

func writePID(file *os.File) error {
	if err := file.Truncate(0); err != nil {
		return err
	}
	_, err := file.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	return err
}

// inUse says who has the lock, as far as the file tells.
func inUse(file *os.File) error {
	holder := "another daemon"
	content := make([]byte, 32)
	if n, err := file.ReadAt(content, 0); err == nil || err == io.EOF {
		if pid, err := strconv.Atoi(strings.TrimSpace(string(content[:n]))); err == nil {
			holder = fmt.Sprintf("another daemon, process %d", pid)
		}
	}
	return &cove.Error{
		Code: cove.Conflict,
		Err:  fmt.Errorf("the state directory is in use by %s", holder),
		Hint: "talk to that daemon, stop it, or give this one a state directory of its own",
	}
}
