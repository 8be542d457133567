package client

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"sync"

	"github.com/coder/websocket"

	"github.com/covehq/cove"
	"github.com/covehq/cove/internal/httpapi"
)

// TerminalOptions modifies Process.Terminal.
type TerminalOptions struct {
	// Size resizes the terminal at once, unless zero.
	Size cove.TerminalSize
	// From is where in the terminal's output to begin; nil means at what is written from
	// now on.
	From *uint64
	// Kill kills the process and everything it started when this connection ends, also
	// when it breaks.
	Kill bool
}

// Terminal is a connection to the terminal of a process: what is written is typed, what
// is read is shown. Read is for one goroutine; the other methods may be called from any.
type Terminal struct {
	ctx    context.Context
	cancel context.CancelFunc
	conn   *websocket.Conn
	rest   []byte

	mu   sync.Mutex
	exit *cove.Exit
}

// Terminal connects to the process's terminal. The connection ends when ctx does.
func (p *Process) Terminal(ctx context.Context, o TerminalOptions) (*Terminal, error) {
	query := url.Values{"offset": {offset(o.From)}}
	if o.Size.Cols > 0 && o.Size.Rows > 0 {
		query.Set("cols", strconv.Itoa(int(o.Size.Cols)))
		query.Set("rows", strconv.Itoa(int(o.Size.Rows)))
	}
	if o.Kill {
		query.Set("kill", "true")
	}
	c, call := p.sandbox.client, p.request("attach terminal", http.MethodGet, "/tty")
	header := http.Header{}
	c.authorize(header)
	conn, response, err := websocket.Dial(ctx, c.URL(call.path)+"?"+query.Encode(),
		&websocket.DialOptions{HTTPClient: c.http, HTTPHeader: header})
	if err != nil {
		if response != nil && response.StatusCode >= 400 && response.Body != nil {
			return nil, httpapi.ReadError(response)
		}
		return nil, c.fail(ctx, call.op, err)
	}
	conn.SetReadLimit(httpapi.MaxFrame)
	ctx, cancel := context.WithCancel(ctx)
	return &Terminal{ctx: ctx, cancel: cancel, conn: conn}, nil
}

// Read reads what the terminal shows. It returns io.EOF when the process has ended.
func (t *Terminal) Read(p []byte) (int, error) {
	for len(t.rest) == 0 {
		kind, data, err := t.conn.Read(t.ctx)
		if err != nil {
			return 0, t.broken(err)
		}
		if kind == websocket.MessageBinary {
			t.rest = data
			continue
		}
		var message httpapi.TerminalMessage
		if err := json.Unmarshal(data, &message); err != nil {
			return 0, broken(t.ctx, "attach terminal", err)
		}
		switch {
		case message.Exit != nil:
			t.mu.Lock()
			t.exit = message.Exit
			t.mu.Unlock()
			return 0, io.EOF
		case message.Error != nil:
			return 0, message.Error.Err()
		}
	}
	n := copy(p, t.rest)
	t.rest = t.rest[n:]
	return n, nil
}

func (t *Terminal) broken(err error) error {
	if t.Exit() != nil {
		return io.EOF
	}
	return broken(t.ctx, "attach terminal", err)
}

// Write types p.
func (t *Terminal) Write(p []byte) (int, error) {
	// In pieces, so that a large paste neither exceeds the server's limit for a message
	// nor delays a resize by more than one piece.
	const piece = 32 << 10
	for sent := 0; sent < len(p); {
		n := min(piece, len(p)-sent)
		if err := t.conn.Write(t.ctx, websocket.MessageBinary, p[sent:sent+n]); err != nil {
			return sent, broken(t.ctx, "write terminal", err)
		}
		sent += n
	}
	return len(p), nil
}

// Resize tells the process the terminal's new size.
func (t *Terminal) Resize(size cove.TerminalSize) error {
	data, err := json.Marshal(httpapi.TerminalMessage{Resize: &size})
	if err != nil {
		return err
	}
	if err := t.conn.Write(t.ctx, websocket.MessageText, data); err != nil {
		return broken(t.ctx, "resize", err)
	}
	return nil
}

// Exit returns how the process ended, or nil before Read has returned io.EOF.
func (t *Terminal) Exit() *cove.Exit {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.exit
}

// Close disconnects. The process goes on, unless TerminalOptions.Kill was set.
func (t *Terminal) Close() error {
	t.cancel()
	if err := t.conn.CloseNow(); err != nil && !errors.Is(err, io.EOF) && t.Exit() == nil {
		return err
	}
	return nil
}
