package sandbox

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/internal/duplex"
)

const (
	// maxConnections bounds the connections to the open ports of one sandbox; further
	// ones wait in the queue of their port.
	maxConnections = 512
	// portDialTime is what a sandbox may take to take a connection.
	portDialTime = 30 * time.Second
	// acceptPause is how long nothing is taken where the daemon is out of descriptors.
	acceptPause = 100 * time.Millisecond
)

// publication is the ports of one sandbox that are open on the daemon's machine.
type publication struct {
	listeners []net.Listener
	ports     []cove.Port // of the listeners, with the numbers that they have
	slots     chan struct{}

	mu     sync.Mutex
	closed bool
	loops  sync.WaitGroup // grows under mu, while not closed
}

// listen opens the ports of a spec. On error none is open.
func listen(ctx context.Context, ports []cove.Port) (*publication, error) {
	p := &publication{ports: slices.Clone(ports), slots: make(chan struct{}, maxConnections)}
	for i, port := range p.ports {
		listener, err := new(net.ListenConfig).Listen(ctx, "tcp", net.JoinHostPort(port.Address, strconv.Itoa(port.HostPort)))
		if err != nil {
			p.close()
			return nil, listenError(port, err)
		}
		p.listeners = append(p.listeners, listener)
		p.ports[i].HostPort = listener.Addr().(*net.TCPAddr).Port
	}
	return p, nil
}

func listenError(port cove.Port, err error) error {
	place := net.JoinHostPort(port.Address, strconv.Itoa(port.HostPort))
	failed := &cove.Error{Code: cove.Conflict, Err: fmt.Errorf("port %s can't be opened on the daemon's machine: %w", place, rootCause(err))}
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		failed.Err = fmt.Errorf("port %s of the daemon's machine is taken", place)
		failed.Hint = "choose another host_port, or 0 for a free one"
	case errors.Is(err, syscall.EADDRNOTAVAIL), errors.Is(err, syscall.EAFNOSUPPORT):
		failed.Code = cove.Invalid
		failed.Hint = "choose an address of the daemon's machine, such as 127.0.0.1"
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		failed.Code = cove.Forbidden
		failed.Hint = "choose a host_port from 1024 on, or run the daemon as root"
	default:
		failed.Code = cove.CodeOf(err)
	}
	return failed
}

// rootCause is an error without what was being done.
func rootCause(err error) error {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}

// close closes the ports and returns when they are free for others. Connections go on.
func (p *publication) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	for _, listener := range p.listeners {
		_ = listener.Close()
	}
	p.loops.Wait()
}

// openPorts opens the ports of the sandbox's spec, which says afterwards which ones they
// are. Connections wait until serve.
func (s *Sandbox) openPorts(ctx context.Context) (*publication, error) {
	asked := s.snapshot().Spec.Ports
	if len(asked) == 0 {
		return nil, nil
	}
	p, err := listen(ctx, asked)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.published, s.record.Spec.Ports = p, p.ports
	return p, nil
}

// servePorts takes the connections to open ports until the sandbox ends or the host does.
func (s *Sandbox) servePorts(p *publication) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, listener := range p.listeners {
		if p.closed {
			return
		}
		p.loops.Add(1)
		if !s.host.spawn(func() {
			defer p.loops.Done()
			s.accept(p, listener, p.ports[i].Port)
		}) {
			p.loops.Done()
		}
	}
	context.AfterFunc(s.life, p.close)
}

// accept takes the connections of one port.
func (s *Sandbox) accept(p *publication, listener net.Listener, port int) {
	for {
		select {
		case p.slots <- struct{}{}:
		case <-s.life.Done():
			return
		}
		conn, err := listener.Accept()
		if err == nil && s.host.spawn(func() {
			defer func() { <-p.slots }()
			s.serve(conn, port)
		}) {
			continue
		}
		<-p.slots
		if err == nil {
			_ = conn.Close()
		}
		if err == nil || errors.Is(err, net.ErrClosed) {
			return
		}
		s.host.log.Warn("taking a connection to an open port", "id", s.id, "port", port, "err", err)
		select {
		case <-time.After(acceptPause):
		case <-s.life.Done():
			return
		}
	}
}

// serve connects one connection with the port inside. Where nothing listens there, it is
// reset.
func (s *Sandbox) serve(conn net.Conn, port int) {
	defer conn.Close()
	ctx, cancel := context.WithTimeout(s.life, portDialTime)
	defer cancel()
	inside, err := s.DialPort(ctx, port)
	if err != nil {
		if tcp, ok := conn.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
		return
	}
	defer inside.Close()
	duplex.Join(s.life, conn, inside)
}

// closePorts closes the sandbox's ports on the daemon's machine.
func (s *Sandbox) closePorts() {
	s.mu.Lock()
	p := s.published
	s.published = nil
	s.mu.Unlock()
	if p != nil {
		p.close()
	}
}

// reopenPorts opens the ports of a sandbox that was attached, under the numbers that they
// had. Where somebody else has one by now, the next sweep tries again.
func (s *Sandbox) reopenPorts(ctx context.Context) {
	s.mu.Lock()
	needed := s.machine != nil && s.published == nil && !s.record.Ended() && len(s.record.Spec.Ports) > 0
	s.mu.Unlock()
	if !needed {
		return
	}
	p, err := s.openPorts(ctx)
	if err != nil {
		s.host.log.Error("opening the ports of a sandbox again, will try again", "id", s.id, "err", err)
		return
	}
	s.servePorts(p)
	if s.life.Err() != nil {
		s.closePorts() // it ended meanwhile
	}
}
