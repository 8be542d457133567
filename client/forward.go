package client

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/covehq/cove/internal/duplex"
)

const (
	// maxForwarded bounds the connections of one Forward; further ones wait to be taken.
	maxForwarded = 512
	// acceptPause is how long nothing is taken where this process is out of descriptors.
	acceptPause = 100 * time.Millisecond
)

// Forward makes each connection that listener takes one to a port inside, until ctx ends:
// then it ends them and returns nil. The end of what one side sends is passed on to the
// other. A connection for which there is none inside is reset, and failed, unless nil, is
// told why, maybe concurrently. Forward closes the listener, and returns the error of one
// that fails.
func (s *Sandbox) Forward(ctx context.Context, listener net.Listener, port int, failed func(error)) error {
	ctx, cancel := context.WithCancel(ctx)
	var group sync.WaitGroup
	defer group.Wait()
	defer cancel()
	stop := context.AfterFunc(ctx, func() { listener.Close() })
	defer stop()
	slots := make(chan struct{}, maxForwarded)
	for {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		conn, err := listener.Accept()
		if err == nil {
			group.Go(func() {
				defer func() { <-slots }()
				if err := s.forward(ctx, conn, port); err != nil && ctx.Err() == nil && failed != nil {
					failed(err)
				}
			})
			continue
		}
		<-slots
		var temporary interface{ Temporary() bool }
		switch {
		case ctx.Err() != nil:
			return nil
		case !errors.As(err, &temporary) || !temporary.Temporary():
			listener.Close()
			return err
		}
		select {
		case <-time.After(acceptPause):
		case <-ctx.Done():
		}
	}
}

// forward connects one connection with the port, until both sides have ended, one has
// failed or ctx ends. Only the error of the port that can't be reached is one.
func (s *Sandbox) forward(ctx context.Context, conn net.Conn, port int) error {
	defer conn.Close()
	inside, err := s.DialPort(ctx, port)
	if err != nil {
		if tcp, ok := conn.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0) // so that it is reset
		}
		return err
	}
	defer inside.Close()
	duplex.Join(ctx, conn, inside)
	return nil
}
