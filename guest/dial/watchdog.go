package dial

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"
)

// errStalled is the cause of a context that a watchdog ended.
var errStalled = errors.New("the guest agent is silent")

// lifetime is the context of a stream: it ends with its parent, when the watchdog finds
// that the guest has been silent for stallTimeout while something waited for it, or by
// close. It has no deadline of its own, for a deadline would travel to the agent, where
// it limits the life of a process rather than of the stream.
type lifetime struct {
	context.Context
	parent context.Context
	cancel context.CancelCauseFunc
	unlink func() bool
	mu     sync.Mutex
	timer  *time.Timer
}

// newLifetime returns a lifetime below parent. Its watchdog sleeps.
func newLifetime(parent context.Context) *lifetime {
	l := &lifetime{parent: parent}
	l.Context, l.cancel = context.WithCancelCause(context.WithoutCancel(parent))
	l.unlink = context.AfterFunc(parent, func() { l.cancel(context.Cause(parent)) })
	l.timer = time.AfterFunc(time.Hour, func() { l.cancel(errStalled) })
	l.timer.Stop()
	return l
}

// await wakes the watchdog for the time that something waits for the guest.
func (l *lifetime) await() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.timer.Reset(stallTimeout)
}

// arrived puts the watchdog back to sleep.
func (l *lifetime) arrived() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.timer.Stop()
}

// close ends the context and everything that hangs on it.
func (l *lifetime) close() {
	l.arrived()
	l.unlink()
	l.cancel(context.Canceled)
}

// fail is the package's fail, with the parent's end and the watchdog's finding as causes.
func (l *lifetime) fail(op, id string, err error) error {
	if err != nil && context.Cause(l.Context) == errStalled {
		err = errStalled
	}
	return fail(l.parent, op, id, err)
}

// guestReader reads what a guest sends, each piece within stallTimeout.
type guestReader struct {
	io.ReadCloser
	life     *lifetime
	op, path string
}

// Read reads the next piece.
func (r *guestReader) Read(p []byte) (int, error) {
	r.life.await()
	n, err := r.ReadCloser.Read(p)
	r.life.arrived()
	if err != nil && err != io.EOF {
		err = r.life.fail(r.op, r.path, err)
	}
	return n, err
}

// Close ends the transfer.
func (r *guestReader) Close() error {
	err := r.ReadCloser.Close()
	r.life.close()
	return err
}

// callerReader reads what a caller sends to a guest. While it waits for the caller the
// watchdog sleeps; between two reads the guest has stallTimeout to take the piece.
type callerReader struct {
	io.Reader
	life *lifetime
}

// Read reads the next piece.
func (r *callerReader) Read(p []byte) (int, error) {
	r.life.arrived()
	n, err := r.Reader.Read(p)
	r.life.await()
	return n, err
}
