package egress

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"

	"github.com/covehq/cove"
)

// Sizes of what is copied at once. A connection begins with a small buffer, since most are
// idle most of the time.
const (
	smallBuffer = 4 << 10
	bigBuffer   = 64 << 10
	// bulk is what a server sends before a pipe is made for it.
	bulk = 1 << 20
)

// errTotal ends a connection that would pass the limit of NetworkLimits.Total.
var errTotal = errors.New("the limit of bytes in all is reached")

// meter counts and limits the bytes of a sandbox.
type meter struct {
	received, sent atomic.Int64 // in all
	total          atomic.Int64 // 0 is no limit
	rateIn         atomic.Pointer[rate.Limiter]
	rateOut        atomic.Pointer[rate.Limiter]
}

// limit sets the limits for all that is copied from now on.
func (m *meter) limit(l cove.NetworkLimits) {
	m.total.Store(int64(l.Total))
	for _, limiter := range []*atomic.Pointer[rate.Limiter]{&m.rateIn, &m.rateOut} {
		switch old := limiter.Load(); {
		case l.Rate <= 0:
			limiter.Store(nil)
		case old == nil || old.Limit() != rate.Limit(l.Rate):
			// The burst is what is waited for at once: an eighth of a second, so that who waits
			// soon hears of another limit.
			limiter.Store(rate.NewLimiter(rate.Limit(l.Rate), int(min(max(l.Rate/8, 1), bulk))))
		}
	}
}

// full says that no more may pass.
func (m *meter) full() bool {
	total := m.total.Load()
	return total > 0 && m.received.Load()+m.sent.Load() >= total
}

// flow is one direction of a connection.
type flow struct {
	m       *meter
	all     *atomic.Int64 // of the sandbox, in this direction
	own     *atomic.Int64 // of the connection
	limiter *atomic.Pointer[rate.Limiter]
}

// in is what comes from a server, and out what goes to it.
func (m *meter) in(own *atomic.Int64) *flow  { return &flow{m, &m.received, own, &m.rateIn} }
func (m *meter) out(own *atomic.Int64) *flow { return &flow{m, &m.sent, own, &m.rateOut} }

// take counts bytes that are to be passed on, and waits until the rate allows them.
func (f *flow) take(ctx context.Context, n int) error {
	f.own.Add(int64(n))
	f.all.Add(int64(n))
	if total := f.m.total.Load(); total > 0 && f.m.received.Load()+f.m.sent.Load() > total {
		return errTotal
	}
	for n > 0 {
		limiter := f.limiter.Load()
		if limiter == nil {
			return nil
		}
		part := min(n, limiter.Burst())
		if err := limiter.WaitN(ctx, part); err != nil {
			return err
		}
		n -= part
	}
	return nil
}

// copy passes bytes on until src ends. What a server sends in bulk goes by splice(2) where
// both ends are sockets, without passing through this process; package io would do that as
// well, but neither counts what passes before its end, nor limits it. The other
// direction is not worth it: out of a unix socket, splice costs as much as read and write.
func (f *flow) copy(ctx context.Context, dst, src net.Conn) error {
	buffer := make([]byte, smallBuffer)
	for moved := 0; ; {
		n, err := src.Read(buffer)
		if n > 0 {
			if err := f.take(ctx, n); err != nil {
				return err
			}
			if _, err := dst.Write(buffer[:n]); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if n == len(buffer) && n < bigBuffer {
			buffer = make([]byte, bigBuffer)
		}
		if moved += n; moved >= bulk {
			if done, err := f.splice(ctx, dst, src); done {
				return err
			}
			moved = -1 << 62 // not these two
		}
	}
}

// splice passes bytes on until src, a TCP connection, ends. done is false where that can't
// be done between these two, and nothing has happened.
func (f *flow) splice(ctx context.Context, dst, src net.Conn) (done bool, err error) {
	from, ok1 := src.(*net.TCPConn)
	to, ok2 := dst.(*net.UnixConn)
	if !ok1 || !ok2 {
		return false, nil
	}
	reader, err1 := from.SyscallConn()
	writer, err2 := to.SyscallConn()
	p, err3 := newPipe()
	if errors.Join(err1, err2, err3) != nil {
		p.close()
		return false, nil
	}
	defer p.close()
	for {
		n, err := p.move(reader.Read, func(fd int) (int64, error) {
			return unix.Splice(fd, nil, p.w, nil, p.size, unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
		})
		if n == 0 || err != nil {
			return true, err
		}
		if err := f.take(ctx, n); err != nil {
			return true, err
		}
		for n > 0 {
			m, err := p.move(writer.Write, func(fd int) (int64, error) {
				return unix.Splice(p.r, nil, fd, nil, n, unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
			})
			if err == nil && m == 0 {
				err = io.ErrShortWrite
			}
			if err != nil {
				return true, err
			}
			n -= m
		}
	}
}

// pipe is what splice(2) needs between two sockets. It is empty between two rounds, so that
// EAGAIN is always the socket's.
type pipe struct{ r, w, size int }

// newPipe makes a pipe of a size that is worth the calls; a user who has too many of that
// size gets a smaller one.
func newPipe() (*pipe, error) {
	const size = 256 << 10
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return nil, err
	}
	p := &pipe{fds[0], fds[1], size}
	if got, err := unix.FcntlInt(uintptr(p.w), unix.F_SETPIPE_SZ, size); err != nil || got < size {
		p.size = bigBuffer
	}
	return p, nil
}

func (p *pipe) close() {
	if p != nil {
		_ = unix.Close(p.r)
		_ = unix.Close(p.w)
	}
}

// move calls splice when the socket is ready, waiting for that by the socket's RawConn.
func (p *pipe) move(ready func(func(uintptr) bool) error, splice func(fd int) (int64, error)) (int, error) {
	var n int64
	var err error
	waited := ready(func(fd uintptr) bool {
		for {
			n, err = splice(int(fd))
			if err != unix.EINTR {
				return err != unix.EAGAIN
			}
		}
	})
	if err == nil || err == unix.EAGAIN {
		err = waited
	}
	return int(max(n, 0)), err
}

// relay copies both ways between a program inside and a server, passing half-closes on,
// and returns when both directions have ended. An error in one ends both.
func relay(ctx context.Context, guest, server net.Conn, out, in *flow) error {
	var both sync.WaitGroup
	var once sync.Once
	var first error
	pass := func(f *flow, dst, src net.Conn) {
		err := f.copy(ctx, dst, src)
		if err == nil {
			if err = closeWrite(dst); errors.Is(err, syscall.ENOTCONN) || errors.Is(err, syscall.EPIPE) {
				err = nil // the other side has left already
			}
		}
		if err != nil {
			once.Do(func() { first = err })
			_ = guest.Close()
			_ = server.Close()
		}
	}
	from, to := bare(guest), beneath(guest)
	both.Go(func() { pass(out, server, from) })
	pass(in, to, server)
	both.Wait()
	return first
}

// closeWrite passes the end of one direction on; a connection that can't end in one
// direction ends in both.
func closeWrite(conn net.Conn) error {
	if half, ok := conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return conn.Close()
}

// bare returns the socket beneath a stream to the guest, where nothing is left that was
// read ahead of it. A server's connection is never unwrapped: what is around it may be TLS.
func bare(guest net.Conn) net.Conn {
	for {
		conn, empty := unwrap(guest)
		if !empty {
			return guest
		}
		guest = conn
	}
}

// beneath returns the socket beneath a stream to the guest for writing, so that copy can
// splice.
func beneath(guest net.Conn) net.Conn {
	for {
		conn, _ := unwrap(guest)
		if conn == nil {
			return guest
		}
		guest = conn
	}
}

// unwrap returns what a stream is around, or nil, and whether nothing is left that was read
// ahead of that.
func unwrap(guest net.Conn) (conn net.Conn, empty bool) {
	wrapped, ok := guest.(interface{ Bare() (net.Conn, bool) })
	if !ok {
		return nil, false
	}
	return wrapped.Bare()
}

// metered is a connection to a server whose bytes are counted and limited: one that an
// Opener uses.
type metered struct {
	net.Conn
	ctx     context.Context
	out, in *flow
	closed  func() // called by Close
}

// Read reads what the server sent, when the limits allow it.
func (c *metered) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		if limited := c.in.take(c.ctx, n); limited != nil {
			return 0, limited
		}
	}
	return n, err
}

// Write sends when the limits allow it.
func (c *metered) Write(p []byte) (int, error) {
	for sent := 0; ; {
		part := p[sent:min(len(p), sent+bigBuffer)]
		if err := c.out.take(c.ctx, len(part)); err != nil {
			return sent, err
		}
		n, err := c.Conn.Write(part)
		if sent += n; err != nil || sent == len(p) {
			return sent, err
		}
	}
}

// CloseWrite tells the server that no more will come.
func (c *metered) CloseWrite() error { return closeWrite(c.Conn) }

// Close ends the connection.
func (c *metered) Close() error {
	c.closed()
	return c.Conn.Close()
}
