// Package pair provides connections of a process with itself: two sockets of which each is
// the other's end.
package pair

import (
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// New returns the two ends of a stream, with half-closing and deadlines at both.
func New() (one, other *net.UnixConn, err error) {
	first, second, err := Files()
	if err != nil {
		return nil, nil, err
	}
	if one, err = Conn(first); err != nil {
		_ = second.Close()
		return nil, nil, err
	}
	if other, err = Conn(second); err != nil {
		_ = one.Close()
		return nil, nil, err
	}
	return one, other, nil
}

// Files is New for ends of which one is to go to another process. No child inherits them.
func Files() (one, other *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	return os.NewFile(uintptr(fds[0]), "pair"), os.NewFile(uintptr(fds[1]), "pair"), nil
}

// Conn makes a connection of an end, which it takes over, also on error.
func Conn(end *os.File) (*net.UnixConn, error) {
	defer end.Close()
	conn, err := net.FileConn(end)
	if err != nil {
		return nil, err
	}
	return conn.(*net.UnixConn), nil
}

// AwaitHangUp returns when the other end was closed, with true, or this one was. It is for an
// end that was read to its end.
func AwaitHangUp(end *net.UnixConn) bool {
	raw, err := end.SyscallConn()
	if err != nil {
		return false
	}
	// The function is called again for each event of the socket.
	return raw.Read(func(fd uintptr) bool {
		poll := []unix.PollFd{{Fd: int32(fd)}}
		_, err := unix.Poll(poll, 0)
		return err == nil && poll[0].Revents&unix.POLLHUP != 0
	}) == nil
}

// HungUp reports whether the other end was closed, and not only shut for writing. It does
// not wait, and takes nothing of what is yet to be read.
func HungUp(end *net.UnixConn) bool {
	raw, err := end.SyscallConn()
	if err != nil {
		return true
	}
	gone := true
	err = raw.Control(func(fd uintptr) {
		poll := []unix.PollFd{{Fd: int32(fd)}}
		_, err := unix.Poll(poll, 0)
		gone = err == nil && poll[0].Revents&unix.POLLHUP != 0
	})
	return err != nil || gone
}
