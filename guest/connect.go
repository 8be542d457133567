package guest

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Connect leads another process's streams to the agent whose sockets are in dir. A stdin
// that is a socket is handed over as a new door. Any other is bridged, with stdout, to a
// connection, until that is closed.
func Connect(dir string, stdin, stdout *os.File) error {
	if kind, err := kindOf(int(stdin.Fd())); err == nil && kind == unix.S_IFSOCK {
		return handOver(dir, stdin)
	}
	return bridge(dir, stdin, stdout)
}

// patience bounds how long the agent is waited for.
const patience = 10 * time.Second

// reach connects to a socket of the agent's. An engine may start us as soon as it has started
// the agent, which then has no sockets yet.
func reach(path string) (net.Conn, error) {
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		c, err := net.DialTimeout("unix", path, patience)
		early := errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ECONNREFUSED)
		if err != nil && (!early || time.Now().After(deadline)) {
			return nil, fmt.Errorf("reach the agent: %w", err)
		}
		if err == nil {
			return c, nil
		}
	}
}

// handOver gives the agent a door, and returns when it has taken it.
func handOver(dir string, door *os.File) error {
	c, err := reach(filepath.Join(dir, doorSocket))
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	rights := unix.UnixRights(int(door.Fd()))
	if _, _, err := c.(*net.UnixConn).WriteMsgUnix([]byte{0}, rights, nil); err != nil {
		return fmt.Errorf("hand over the door: %w", err)
	}
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		return errors.New("the agent did not take the door")
	}
	return nil
}

// bridge copies both ways and passes half-closes on.
func bridge(dir string, stdin io.Reader, stdout io.Writer) error {
	c, err := reach(filepath.Join(dir, connSocket))
	if err != nil {
		return err
	}
	defer c.Close()
	go func() { // ends with the process: a read of stdin can't be interrupted
		_, _ = io.Copy(c, stdin)
		_ = c.(*net.UnixConn).CloseWrite()
	}()
	_, err = io.Copy(stdout, c)
	return err
}
