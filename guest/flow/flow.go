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
	buffer, n, err := b.read(from, bufferSize, true)
	if buffer != nil {
		defer b.pool.Put(buffer)
	}
	if n == 0 || err != nil {
		return 0, err
	}
	_, err = to.Write(buffer[:n])
	return n, err
}

// Next returns what there is to read, at most that much, and waits for it if need be. It
// returns nothing at the end.
func (b *Buffers) Next(from syscall.Conn, most int) ([]byte, error) {
	raw, err := from.SyscallConn()
	if err != nil {
		return nil, err
	}
	buffer, n, err := b.read(raw, most, true)
	return b.take(buffer, n), err
}

// Ready is Next for what has come already. It returns nothing where that is nothing.
func (b *Buffers) Ready(from syscall.Conn, most int) []byte {
	raw, err := from.SyscallConn()
	if err != nil {
		return nil
	}
	buffer, n, _ := b.read(raw, most, false)
	return b.take(buffer, n)
}

// take returns a copy of what was read, and gives the buffer back.
func (b *Buffers) take(buffer *[bufferSize]byte, n int) []byte {
	if buffer == nil {
		return nil
	}
	defer b.pool.Put(buffer)
	return append([]byte(nil), buffer[:n]...)
}

// read reads at most that much into a buffer, which is the caller's then; there is one where
// there is something in it. wait says that there is to be something, or an end.
func (b *Buffers) read(from syscall.RawConn, most int, wait bool) (buffer *[bufferSize]byte, n int, err error) {
	var failed error
	err = from.Read(func(fd uintptr) bool {
		buffer = b.pool.Get().(*[bufferSize]byte)
		for {
			n, failed = unix.Read(int(fd), buffer[:min(most, bufferSize)])
			if failed != unix.EINTR {
				break
			}
		}
		if n = max(n, 0); n == 0 {
			b.pool.Put(buffer)
			buffer = nil
		}
		return !wait || failed != unix.EAGAIN
	})
	if err == nil {
		err = failed
	}
	return buffer, n, err
}
