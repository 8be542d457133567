package guest

import (
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/covehq/cove"
	"github.com/covehq/cove/guest/wire"
)

// serveTunnel serves a request as a connection of its own: where the agent has one stream
// to the outside, that stream carries the others.
func (a *Agent) serveTunnel(w http.ResponseWriter, r *http.Request) error {
	if r.ProtoMajor != 2 {
		return cove.Errorf(cove.Invalid, "tunnel", "", "the request is not of HTTP/2", "open "+wire.TunnelPath+" over HTTP/2, or dial the agent itself")
	}
	ours, theirs, err := streamPair()
	if err != nil {
		return err
	}
	defer ours.Close()
	a.ServeConn(theirs)
	controller := http.NewResponseController(w)
	w.WriteHeader(http.StatusOK)
	if err := controller.Flush(); err != nil {
		return nil
	}
	var in sync.WaitGroup
	in.Go(func() {
		if _, err := io.Copy(ours, r.Body); err == nil {
			_ = ours.CloseWrite()
			return
		}
		_ = ours.Close()
	})
	if sendPieces(w, controller, ours) != nil || hungUp(ours) {
		_ = r.Body.Close() // ends the other copy
	}
	in.Wait()
	return nil
}

// sendPieces copies what comes from a connection into a reply, each piece with its length
// before it, to its end.
func sendPieces(w io.Writer, controller *http.ResponseController, from io.Reader) error {
	const head = 4
	piece := make([]byte, head+32<<10)
	for {
		n, err := from.Read(piece[head:])
		if n == 0 && err != nil && err != io.EOF {
			return err
		}
		binary.BigEndian.PutUint32(piece, uint32(n)) // 0 is the end
		if _, failed := w.Write(piece[:head+n]); failed != nil {
			return failed
		}
		if failed := controller.Flush(); failed != nil {
			return failed
		}
		if n == 0 {
			return nil
		}
	}
}

// hungUp reports whether the other end of a socket pair was closed, and not only shut for
// writing.
func hungUp(socket *net.UnixConn) bool {
	raw, err := socket.SyscallConn()
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

// streamPair returns two ends of a connection of this process with itself.
func streamPair() (ours, theirs *net.UnixConn, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	one, err := connOf(fds[0])
	if err != nil {
		_ = unix.Close(fds[1])
		return nil, nil, err
	}
	other, err := connOf(fds[1])
	if err != nil {
		_ = one.Close()
		return nil, nil, err
	}
	return one.(*net.UnixConn), other.(*net.UnixConn), nil
}
