package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/guest/dial"
)

const (
	// defaultOverdue is how long after a command's time-out the guest may take to report
	// its end. Killing a tree takes it well below a second.
	defaultOverdue = 5 * time.Second
	// killTimeout bounds killing the tree of a command that nobody waits for any more.
	killTimeout = 5 * time.Second
)

// errOverdue says that a guest did not end a command at its time-out.
var errOverdue = &cove.Error{
	Code: cove.Timeout,
	Err:  errors.New("the command's time is over and the guest did not report its end"),
	Hint: "remove the sandbox if it does not answer any more",
}

// Output is what a process writes, and how it ends. It is used by one goroutine, but
// Close may be called by any.
type Output struct {
	use      *use
	stream   *dial.Stream
	attached bool        // the command ends with this Output
	backstop *time.Timer // or nil
	ended    atomic.Bool // an exit was returned
}

// PID returns the process's id inside the sandbox.
func (o *Output) PID() int { return o.stream.PID }

// Next returns the next piece of output, or the exit. Data in it is valid until the next
// call. After the exit, and where nothing is followed after all that is retained, it
// returns io.EOF.
func (o *Output) Next() (cove.Output, error) {
	next, err := o.stream.Next()
	switch {
	case err == nil:
		if next.Exit != nil {
			o.ended.Store(true)
		}
		return next, nil
	case err == io.EOF || o.ended.Load():
		return cove.Output{}, io.EOF
	case context.Cause(o.use.ctx) == errOverdue:
		// The host's clock decides, not the guest.
		o.ended.Store(true)
		exit := &cove.Exit{Code: -1, Signal: "SIGKILL", TimedOut: true, Error: errOverdue.Err.Error()}
		return cove.Output{PID: o.stream.PID, Exit: exit}, nil
	}
	return cove.Output{}, o.use.fail(err)
}

// Close leaves the stream. The command that Run started is killed with everything that it
// started, unless it has ended; any other process goes on. A second call does nothing.
func (o *Output) Close() error {
	if o.backstop != nil {
		o.backstop.Stop()
	}
	o.use.once.Do(func() {
		if o.attached && !o.ended.Load() {
			o.kill()
		}
		o.use.end()
		_ = o.stream.Close() // it is of no more use, in whatever way it closes
	})
	return nil
}

// kill ends what the command started. A guest does that by itself when the stream breaks;
// asking for it means that it is done when Close returns.
func (o *Output) kill() {
	if o.use.sandbox.life.Err() != nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(o.use.ctx), killTimeout)
	defer cancel()
	if _, err := o.use.client.KillTree(ctx, o.stream.PID); err != nil {
		o.use.sandbox.host.log.Debug("killing a command that was left", "id", o.use.sandbox.id, "pid", o.stream.PID, "err", err)
	}
}

// feed writes stdin to the command and then closes the command's input. A command need
// not read it all. When stdin itself breaks, the command must not take what came for the
// whole of it: its use ends.
func (o *Output) feed(stdin io.Reader) {
	source := &source{Reader: stdin}
	err := o.use.client.Write(o.use.ctx, o.stream.PID, source)
	if source.err != nil {
		o.use.cancel(&cove.Error{
			Code: cove.Invalid, Err: fmt.Errorf("standard input broke off: %w", source.err), Hint: "send the request again",
		})
		return
	}
	if err == nil {
		err = o.use.client.CloseStdin(o.use.ctx, o.stream.PID)
	}
	if err != nil && o.use.ctx.Err() == nil {
		o.use.sandbox.host.log.Debug("a command left some of its input", "id", o.use.sandbox.id, "pid", o.stream.PID, "err", err)
	}
}

// source tells the errors of a reader from those of what it is copied to.
type source struct {
	io.Reader
	err error
}

// Read reads from the reader.
func (s *source) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}
