package outward

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// holder keeps a port of the agent's: it is bound and does not listen, so that connections
// to it are refused at once and nobody else gets the port.
type holder struct {
	file    *os.File
	address string
	port    int
}

// hold takes a port, or another one where that is taken.
func hold(address string, port int) (*holder, error) {
	h, err := holdExactly(address, port)
	if errors.Is(err, unix.EADDRINUSE) {
		return holdExactly(address, 0)
	}
	return h, err
}

func holdExactly(address string, port int) (*holder, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	h := &holder{file: os.NewFile(uintptr(fd), "port"), address: address}
	name := &unix.SockaddrInet4{Port: port, Addr: netip.MustParseAddr(address).As4()}
	err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) // for the listener
	if err == nil {
		err = os.NewSyscallError("bind", unix.Bind(fd, name))
	}
	if err == nil {
		h.port, err = portOf(fd)
	}
	if err != nil {
		_ = h.file.Close()
		return nil, err
	}
	return h, nil
}

func portOf(fd int) (int, error) {
	name, err := unix.Getsockname(fd)
	if err != nil {
		return 0, os.NewSyscallError("getsockname", err)
	}
	inet, ok := name.(*unix.SockaddrInet4)
	if !ok {
		return 0, errors.New("a socket of IPv4 has no address of IPv4")
	}
	return inet.Port, nil
}

// Close gives the port up.
func (h *holder) Close() error { return h.file.Close() }

// listen listens on the port that h holds.
func (h *holder) listen() (*net.TCPListener, error) {
	config := net.ListenConfig{KeepAlive: -1, Control: func(_, _ string, c syscall.RawConn) error {
		var failed error
		err := c.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) })
		return errors.Join(err, failed)
	}}
	at := netip.AddrPortFrom(netip.MustParseAddr(h.address), uint16(h.port))
	l, err := config.Listen(context.Background(), "tcp4", at.String())
	if err != nil {
		return nil, err
	}
	listener := l.(*net.TCPListener)
	raw, err := listener.SyscallConn()
	if err == nil {
		// More than package net asks for where it can't read the system's limit: a program
		// may open a thousand connections in one go.
		err = raw.Control(func(fd uintptr) { _ = unix.Listen(int(fd), backlog) })
	}
	if err != nil {
		_ = listener.Close()
		return nil, err
	}
	return listener, nil
}

// backlog is how many connections may wait to be accepted; kernels take less.
const backlog = 4096

// door is a port of the agent's and, while something may be reached, what listens on it.
type door struct {
	*holder
	serve    func(*net.TCPListener) // until it is closed
	listener *net.TCPListener
}

// shut has connections refused. Those that wait are reset.
func (d *door) shut() {
	if d.listener != nil {
		_ = d.listener.Close()
		d.listener = nil
	}
}

// Close gives the port up too.
func (d *door) Close() error {
	d.shut()
	return d.holder.Close()
}

// listen serves what comes through a door. The caller holds w.mu.
func (w *Way) listen(d *door) error {
	if d.listener != nil {
		return nil
	}
	listener, err := d.holder.listen()
	if err != nil {
		return err
	}
	d.listener = listener
	w.work.Go(func() { d.serve(listener) })
	return nil
}

// accept serves connections until the listener is closed.
func (w *Way) accept(listener *net.TCPListener) {
	for {
		c, err := listener.AcceptTCP()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			w.log.Printf("accept: %v", err)
			select {
			case <-w.ctx.Done():
			case <-time.After(50 * time.Millisecond): // for descriptors to become free
			}
			continue
		}
		select {
		case w.room <- struct{}{}:
		default:
			reset(c)
			continue
		}
		if !w.track(c) {
			reset(c)
			<-w.room
			continue
		}
		w.work.Go(func() {
			defer func() { <-w.room }()
			defer w.untrack(c)
			w.serve(c)
		})
	}
}

// maxConnections is how many connections there may be at a time: a host allows 1,024 unless
// it is told otherwise. Each takes two descriptors, and the agent is to have others left.
func maxConnections() int {
	const most, descriptors = 4096, 4
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 128
	}
	return int(min(most, max(limit.Cur/(2*descriptors), 32)))
}

// reset ends a connection in a way that its program notices.
func reset(c *net.TCPConn) {
	_ = c.SetLinger(0)
	_ = c.Close()
}
