// Package agent provides the host's ways to the guest agent of a sandbox on this host.
package agent

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/covehq/cove"
	"github.com/covehq/cove/guest/pair"
)

// Door is our end of the socket that is the agent's standard input. A connection is made
// by sending one end of a fresh socket pair through it: no path, no port and no helper
// process, and it works in gVisor, whose kernel takes the descriptor in as its own.
type Door struct {
	mu     sync.Mutex
	conn   *net.UnixConn // nil: closed
	closed bool
}

// NewDoor returns a door and the end that goes to the agent, to be closed by the caller.
func NewDoor() (*Door, *os.File, error) {
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, nil, err
	}
	return &Door{conn: ours}, theirs, nil
}

// socketPair returns our end of a stream, and theirs.
func socketPair() (*net.UnixConn, *os.File, error) {
	ours, theirs, err := pair.Files()
	if err != nil {
		return nil, nil, err
	}
	conn, err := pair.Conn(ours)
	if err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return conn, theirs, nil
}

// Dial sends the agent one end of a new connection and returns the other.
func (d *Door) Dial(ctx context.Context) (net.Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, cove.Gone
	}
	if d.conn == nil {
		return nil, errors.New("the guest agent hung up")
	}
	conn, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	// A full door means an agent that takes nothing in: its kernel is stuck or stopped.
	deadline := time.Now().Add(5 * time.Second)
	if end, ok := ctx.Deadline(); ok && end.Before(deadline) {
		deadline = end
	}
	_ = d.conn.SetWriteDeadline(deadline)
	if _, _, err := d.conn.WriteMsgUnix([]byte{0}, unix.UnixRights(int(theirs.Fd())), nil); err != nil {
		conn.Close()
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			d.conn.Close()
			d.conn = nil
		}
		return nil, err
	}
	return conn, nil
}

// Close makes every later Dial fail with cove.Gone.
func (d *Door) Close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	if d.conn != nil {
		d.conn.Close()
		d.conn = nil
	}
}
