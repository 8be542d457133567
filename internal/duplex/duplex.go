// Package duplex provides the joining of two connections into one way.
package duplex

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
)

// pieces is how much is copied at once.
const pieces = 32 << 10

// Join copies both ways until both sides have ended, one has failed, or ctx ends. The end
// of what one side sends is passed on; a failure, or a side that can't be told of the end,
// closes both. It returns when nothing is copied any more.
func Join(ctx context.Context, a, b net.Conn) {
	ctx, fail := context.WithCancel(ctx)
	defer fail()
	stop := context.AfterFunc(ctx, func() { _, _ = a.Close(), b.Close() })
	defer stop()
	var back sync.WaitGroup
	back.Go(func() { pass(fail, a, b) })
	pass(fail, b, a)
	back.Wait()
}

// pass copies one way.
func pass(fail context.CancelFunc, to, from net.Conn) {
	// Sockets have copies of their own, whose buffers are not bounded here.
	_, err := io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{from}, make([]byte, pieces))
	if err != nil || CloseWrite(to) != nil {
		fail()
	}
}

// CloseWrite tells the peer that no more will come. The error is errors.ErrUnsupported for
// a connection that can only be closed whole.
func CloseWrite(conn net.Conn) error {
	if half, ok := conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}
