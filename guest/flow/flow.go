// Package flow provides the copying between connections, of which a thousand may be open and
// few have something to say.
package flow

import (
	"io"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Buffers are for what is on its way: a connection that waits has none. Package io would leave
// the copying to splice(2), which in gVisor takes two pipes of a megabyte each for a
// connection, and a fourth of the speed. Its methods may be called concurrently.
type Buffers struct{ pool sync.Pool }

// bufferSize is how much is copied at once.
const bufferSize = 128 << 10

// New returns Buffers, of which none exists yet.
func New() *Buffers {
	return &Buffers{sync.Pool{New: func() any { return new([bufferSize]byte) }}}
}

// Copy copies to the end of what is read, which is no error.
func (b *Buffers) Copy(to io.Writer, from io.Reader) error {
	socket, ok := from.(syscall.Conn)
	if !ok {
		_, err := io.Copy(to, from)
		return err
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return err
	}
	for {
		n, err := b.move(to, raw)
		if n == 0 || err != nil {
			return err
		}
	}
}

// move waits for something to be read and copies that; it returns 0 at the end.
func (b *Buffers) move(to io.Writer, from syscall.RawConn) (n int, err error) {
	var buffer *[bufferSize]byte
	defer func() {
		if buffer != nil {
			b.pool.Put(buffer)
		}
	}()
	var failed error
	err = from.Read(func(fd uintptr) bool {
		buffer = b.pool.Get().(*[bufferSize]byte)
		for {
			n, failed = unix.Read(int(fd), buffer[:])
			if failed != unix.EINTR {
				break
			}
		}
		if failed == unix.EAGAIN {
			b.pool.Put(buffer)
			buffer = nil
			return false
		}
		return true
	})
	switch {
	case err != nil:
		return 0, err
	case failed != nil:
		return 0, failed
	case n == 0:
		return 0, nil
	}
	_, err = to.Write(buffer[:n])
	return n, err
}
