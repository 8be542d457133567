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

// A door is a unix stream socket through which the host hands connections in: each message
// carries one connected stream socket (SCM_RIGHTS), and its bytes mean nothing. Opening a
// connection this way takes no name in the sandbox's filesystem or network, and works
// through gVisor's socket boundary.

// The agent's own sockets, in a directory that only root may enter.
const (
	// RunDir is where they are in a sandbox.
	RunDir = "/.cove/run"

	connSocket = "agent.sock" // each connection to it is served
	doorSocket = "door.sock"  // each connection to it brings one door
)

// ServeDoor serves the connections that come through a door, in the background, until the
// door breaks.
func (a *Agent) ServeDoor(door *net.UnixConn) {
	if !a.own(door) {
		_ = door.Close()
		return
	}
	a.doors.Go(func() {
		defer a.disown(door)
		for {
			conns, err := receive(door)
			for _, c := range conns {
				a.ServeConn(c)
			}
			if err != nil {
				if !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
					a.log.Printf("door: %v", err)
				}
				return
			}
		}
	})
}

// receive reads one message from a door, or io.EOF when it broke. What is not a connected
// socket is dropped.
func receive(door *net.UnixConn) ([]net.Conn, error) {
	const mostRights = 8 // a message carries one; more are taken so that none leaks
	bytes, rights := make([]byte, 16), make([]byte, unix.CmsgSpace(4*mostRights))
	n, size, _, _, err := door.ReadMsgUnix(bytes, rights)
	if err != nil {
		return nil, err
	}
	if n == 0 && size == 0 {
		return nil, io.EOF
	}
	messages, err := unix.ParseSocketControlMessage(rights[:size])
	if err != nil {
		return nil, nil
	}
	var conns []net.Conn
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			continue
		}
		for _, fd := range fds {
			if c, err := connOf(fd); err == nil {
				conns = append(conns, c)
			}
		}
	}
	return conns, nil
}

// connOf makes a connection of a descriptor, which it takes over.
func connOf(fd int) (net.Conn, error) {
	file := os.NewFile(uintptr(fd), "connection")
	defer file.Close()
	return net.FileConn(file)
}

// Listen serves the agent's own sockets in dir, which it makes, until Close.
func (a *Agent) Listen(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("%w: mount a writable directory there", err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return err
	}
	serve := map[string]func(*net.UnixConn){
		connSocket: func(c *net.UnixConn) { a.ServeConn(c) },
		doorSocket: a.adopt,
	}
	for name, serve := range serve {
		if err := a.listen(filepath.Join(dir, name), serve); err != nil {
			return err
		}
	}
	return nil
}

func (a *Agent) listen(path string, serve func(*net.UnixConn)) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return err
	}
	if !a.own(listener) {
		return listener.Close()
	}
	a.doors.Go(func() {
		defer a.disown(listener)
		for {
			c, err := listener.AcceptUnix()
			if err != nil {
				if errors.Is(err, net.ErrClosed) {
					return
				}
				a.log.Printf("%s: %v", path, err)
				time.Sleep(100 * time.Millisecond) // for descriptors to become free
				continue
			}
			if !trusted(c) {
				_ = c.Close()
				continue
			}
			serve(c)
		}
	})
	return nil
}

// trusted reports whether the peer of a connection is root, or whoever the agent is.
func trusted(c *net.UnixConn) bool {
	raw, err := c.SyscallConn()
	if err != nil {
		return false
	}
	var peer *unix.Ucred
	if err := raw.Control(func(fd uintptr) { peer, _ = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return false
	}
	return peer != nil && (peer.Uid == 0 || int(peer.Uid) == os.Geteuid())
}

// adopt takes the door that comes through a connection.
func (a *Agent) adopt(c *net.UnixConn) {
	a.doors.Go(func() {
		if !a.own(c) {
			_ = c.Close()
			return
		}
		defer a.disown(c)
		conns, err := receive(c)
		if err != nil {
			a.log.Printf("handover: %v", err)
			return
		}
		for _, conn := range conns {
			door, ok := conn.(*net.UnixConn)
			if !ok {
				_ = conn.Close()
				continue
			}
			a.ServeDoor(door)
		}
		_, _ = c.Write([]byte{1}) // the other side waits for this, and may go then
	})
}
