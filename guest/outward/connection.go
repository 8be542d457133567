package outward

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/covehq/cove/guest/pair"
	"github.com/covehq/cove/guest/wire"
)

// connectPatience bounds how long the host is given to make a connection.
const connectPatience = 2 * time.Minute

// serve leads one connection out.
func (w *Way) serve(c *net.TCPConn) {
	request, known := w.request(c)
	if !known {
		reset(c)
		return
	}
	o, err := newOpening(c, request)
	if err != nil {
		reset(c)
		return
	}
	o.said = w.buffers.Ready(c, maxSaid)
	var up sync.WaitGroup
	defer up.Wait()
	defer close(o.made)
	var once sync.Once
	stream, reply, err := w.ask(func(stream *net.UnixConn) error {
		err := o.ask(stream)
		once.Do(func() { up.Go(func() { w.up(o) }) })
		return err
	}, connectPatience)
	if err != nil {
		reset(c)
		return
	}
	if reply.Code != wire.EgressOK || !w.track(stream) {
		_ = stream.Close()
		reset(c)
		return
	}
	defer w.untrack(stream)
	o.made <- stream
	w.down(c, stream)
	up.Wait()
}

// request returns what to ask of the host for a connection; known says that it is one that
// leads somewhere.
func (w *Way) request(c *net.TCPConn) (request wire.EgressRequest, known bool) {
	target, err := w.target(c)
	if err != nil {
		return request, false
	}
	request = wire.EgressRequest{Kind: wire.EgressConnect, Port: int(target.Port()), Early: true}
	const why = 80 // where the host says why a name may not be reached
	name, stands := w.nameOf(target.Addr())
	switch {
	case !stands:
		request.Address = target.Addr().String()
	case name == "", w.refused.prefix.Contains(target.Addr()) && target.Port() != why:
		return request, false // an address that stands for no name, or for one that is refused
	}
	request.Name = name
	return request, true
}

// target returns where the program wanted to.
func (w *Way) target(c *net.TCPConn) (netip.AddrPort, error) {
	if !w.entrance.redirected {
		at := c.LocalAddr().(*net.TCPAddr).AddrPort()
		addr := at.Addr().Unmap()
		if !reachableHere.Contains(addr) && !unreachableHere.Contains(addr) {
			return netip.AddrPort{}, errors.New("not an address of a name")
		}
		return netip.AddrPortFrom(addr, at.Port()), nil
	}
	at, err := originalTarget(c)
	if err == nil && at.Addr().IsLoopback() {
		err = errors.New("nothing redirected it")
	}
	return at, err
}

// originalTarget asks the kernel where a redirected connection was to go.
func originalTarget(c *net.TCPConn) (netip.AddrPort, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return netip.AddrPort{}, err
	}
	var name unix.RawSockaddrInet4
	var errno unix.Errno
	err = raw.Control(func(fd uintptr) {
		size := uint32(unix.SizeofSockaddrInet4)
		_, _, errno = unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_IP, unix.SO_ORIGINAL_DST,
			uintptr(unsafe.Pointer(&name)), uintptr(unsafe.Pointer(&size)), 0)
	})
	if err != nil {
		return netip.AddrPort{}, err
	}
	if errno != 0 {
		return netip.AddrPort{}, errno
	}
	port := (*[2]byte)(unsafe.Pointer(&name.Port))
	return netip.AddrPortFrom(netip.AddrFrom4(name.Addr), uint16(port[0])<<8|uint16(port[1])), nil
}

// nameOf returns the name for which an address stands; known says that it may stand for one.
func (w *Way) nameOf(addr netip.Addr) (name string, known bool) {
	for _, table := range []*names{w.names, w.refused} {
		if table.prefix.Contains(addr) {
			return table.name(addr), true
		}
	}
	return "", false
}

// ask has a request sent to the host and returns its answer, and the stream on which it
// came. A stream that turns out to be dead, as all are of a daemon that has ended, is
// followed by another.
func (w *Way) ask(send func(*net.UnixConn) error, patience time.Duration) (*net.UnixConn, wire.EgressReply, error) {
	const attempts = 3
	deadline := time.Now().Add(patience)
	var err error
	for range attempts {
		var stream *net.UnixConn
		if stream, err = w.spares.take(w.ctx, sparePatience); err != nil {
			return nil, wire.EgressReply{}, err
		}
		var reply wire.EgressReply
		if reply, err = exchange(stream, send, deadline); err == nil {
			return stream, reply, nil
		}
		_ = stream.Close()
		if !errors.Is(err, io.EOF) && !errors.Is(err, unix.EPIPE) && !errors.Is(err, unix.ECONNRESET) {
			break
		}
	}
	return nil, wire.EgressReply{}, err
}

// exchange sends a request and receives the answer.
func exchange(stream *net.UnixConn, send func(*net.UnixConn) error, deadline time.Time) (reply wire.EgressReply, err error) {
	if err := stream.SetDeadline(deadline); err != nil {
		return reply, err
	}
	if err := send(stream); err != nil {
		return reply, err
	}
	if err := wire.ReadFrame(stream, &reply); err != nil {
		return reply, err
	}
	return reply, stream.SetDeadline(time.Time{})
}

// keep gives a stream that may be asked again back to the others.
func (w *Way) keep(stream *net.UnixConn) {
	if !w.spares.put(stream) {
		_ = stream.Close()
	}
}

// down passes on what the host has for a program, until the end of that, or of the whole. A
// failure resets the program's connection.
func (w *Way) down(program *net.TCPConn, stream *net.UnixConn) {
	if err := w.buffers.Copy(program, stream); err != nil {
		_ = stream.Close()
		reset(program)
		return
	}
	_ = program.CloseWrite()
	// The host may end the whole while the program has nothing to say.
	pair.AwaitHangUp(stream)
	_ = program.Close()
}
