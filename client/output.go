package client

import (
	"bufio"
	"context"
	"errors"
	"io"
	"sync"

	"github.com/covehq/cove"
	"github.com/covehq/cove/internal/httpapi"
)

// Output is what a process writes, as it comes. Next is for one goroutine; Close may be
// called from any.
type Output struct {
	ctx    context.Context
	op     string
	cancel context.CancelFunc
	close  sync.Once
	body   io.ReadCloser
	frames *httpapi.FrameReader
	pid    int
	ended  bool
	follow bool
}

// stream sends a request whose reply is frames, and returns when the process has started.
// The output ends when ctx does.
func (c *Client) stream(ctx context.Context, r request, follow bool) (*Output, error) {
	ctx, cancel := context.WithCancel(ctx)
	r.accept = httpapi.TypeFrames
	response, err := c.send(ctx, r)
	if err != nil {
		cancel()
		return nil, err
	}
	o := &Output{
		ctx: ctx, op: r.op, cancel: cancel, body: response.Body, follow: follow,
		frames: httpapi.NewFrameReader(bufio.NewReaderSize(response.Body, 256<<10)),
	}
	start, err := o.frames.Next()
	if err == nil && (start.PID == 0 || start.Exit != nil) {
		err = errors.New("the stream does not begin with the start of a process")
	}
	if err != nil {
		err = broken(ctx, r.op, err)
		o.Close()
		return nil, err
	}
	o.pid = start.PID
	return o, nil
}

// PID returns the process's id inside the sandbox.
func (o *Output) PID() int { return o.pid }

// Next returns the next piece: bytes, valid until the next call, or the exit. After the
// exit, or when all that is retained was read and following was not asked for, it
// returns io.EOF.
func (o *Output) Next() (cove.Output, error) {
	if o.ended {
		return cove.Output{}, io.EOF
	}
	output, err := o.frames.Next()
	switch {
	case err == nil:
		o.ended = output.Exit != nil
		return output, nil
	case err == io.EOF && !o.follow:
		o.ended = true
		return output, io.EOF
	}
	return output, broken(o.ctx, o.op, err)
}

// Close stops reading. A command that was started attached to this output is killed with
// everything it started.
func (o *Output) Close() error {
	o.close.Do(func() {
		o.cancel()
		o.body.Close()
	})
	return nil
}
