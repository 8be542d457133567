package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"sync"

	"github.com/covehq/cove"
	"github.com/covehq/cove/internal/httpapi"
)

// maxEvent bounds one server-sent event.
const maxEvent = 1 << 20

// events reads server-sent events. next is for one goroutine.
type events struct {
	ctx    context.Context
	op     string
	cancel context.CancelFunc
	close  sync.Once
	body   io.ReadCloser
	lines  *bufio.Scanner
}

// subscribe sends a request whose reply is server-sent events.
func (c *Client) subscribe(ctx context.Context, r request) (*events, error) {
	ctx, cancel := context.WithCancel(ctx)
	r.accept = httpapi.TypeSSE
	response, err := c.send(ctx, r)
	if err != nil {
		cancel()
		return nil, err
	}
	lines := bufio.NewScanner(response.Body)
	lines.Buffer(make([]byte, 0, 16<<10), maxEvent)
	return &events{ctx: ctx, op: r.op, cancel: cancel, body: response.Body, lines: lines}, nil
}

// next decodes the next event's data into out. It returns io.EOF when the server has
// ended the stream in good order.
func (e *events) next(out any) error {
	var name, data []byte
	for e.ctx.Err() == nil && e.lines.Scan() {
		line := e.lines.Bytes()
		field, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		switch {
		case len(line) == 0 && len(data) > 0:
			return e.decode(string(name), data, out)
		case string(field) == "event":
			name = append(name[:0], value...)
		case string(field) == "data":
			data = append(data, value...)
		}
	}
	if err := e.lines.Err(); err != nil {
		return broken(e.ctx, e.op, err)
	}
	if e.ctx.Err() != nil {
		return cove.Wrap(e.ctx.Err(), e.op, "")
	}
	return io.EOF
}

func (e *events) decode(name string, data []byte, out any) error {
	if name == "error" {
		var body httpapi.ErrorBody
		if err := json.Unmarshal(data, &body); err != nil {
			return broken(e.ctx, e.op, err)
		}
		return body.Err()
	}
	if err := json.Unmarshal(data, out); err != nil {
		return broken(e.ctx, e.op, err)
	}
	return nil
}

func (e *events) end() error {
	e.close.Do(func() {
		e.cancel()
		e.body.Close()
	})
	return nil
}

// Watch is what happens below a directory, as it comes. Next is for one goroutine; Close
// may be called from any.
type Watch struct{ events *events }

// Next returns the next event. It returns io.EOF when the sandbox has ended the watch.
func (w *Watch) Next() (cove.FileEvent, error) {
	var event cove.FileEvent
	err := w.events.next(&event)
	return event, err
}

// Close stops watching.
func (w *Watch) Close() error { return w.events.end() }
