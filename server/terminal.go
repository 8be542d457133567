package server

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/coder/websocket"
	"github.com/danielgtaylor/huma/v2"

	"github.com/covehq/cove"
	"github.com/covehq/cove/internal/httpapi"
	"github.com/covehq/cove/sandbox"
)

// maxTyped bounds one message of a terminal's client.
const maxTyped = 1 << 20

func (s *Server) registerTerminals() {
	op := operation("attach-terminal", http.MethodGet, "/v1/sandboxes/{id}/processes/{pid}/tty", tagCommands, "Attach to a process's terminal",
		"A WebSocket. Binary messages are what is typed and what is shown. Text messages are JSON: "+
			"`{\"resize\":{\"cols\":80,\"rows\":24}}` from the client; `{\"exit\":{…}}`, or `{\"error\":{…}}`, as the last one from the server.")
	op = replies(op, http.StatusSwitchingProtocols, "A WebSocket.", nil)
	op.Extensions = map[string]any{"x-messages": schemaOf[httpapi.TerminalMessage](s)}
	register(s, op, s.attachTerminal)
}

type terminalInput struct {
	exchange
	ProcessTarget
	Offset string `query:"offset" doc:"where in what was shown to begin: a number of bytes, or end; default 0"`
	Cols   uint16 `query:"cols" doc:"resize to this width at once"`
	Rows   uint16 `query:"rows" doc:"resize to this height at once"`
	Kill   bool   `query:"kill" doc:"kill the process with its whole tree when the connection ends"`
}

func (s *Server) attachTerminal(ctx context.Context, in *terminalInput) (*huma.StreamResponse, error) {
	if !wantsUpgrade(in.r, "websocket") {
		return nil, cove.Errorf(cove.Invalid, "attach terminal", in.ID, "the request is not a WebSocket handshake", "connect with a WebSocket client")
	}
	if !sameOrigin(in.r) {
		return nil, foreignOrigin()
	}
	process, err := s.process(ctx, in.ProcessTarget)
	if err != nil {
		return nil, err
	}
	output, err := s.openTerminal(ctx, process, in)
	if err != nil {
		return nil, err
	}
	return raw(func() {
		defer output.Close()
		// The origin was checked above, with an error in the envelope.
		conn, err := websocket.Accept(in.w, in.r, &websocket.AcceptOptions{InsecureSkipVerify: true})
		if err != nil {
			return // Accept has answered
		}
		t := &terminal{conn: conn, process: process, output: output, timeout: s.options.WriteTimeout}
		t.serve(ctx)
		if in.Kill {
			killAbandoned(ctx, process)
		}
	})
}

// openTerminal checks that the process has a terminal, and begins to read it.
func (s *Server) openTerminal(ctx context.Context, process *sandbox.Process, in *terminalInput) (*sandbox.Output, error) {
	from, err := parseOffset(in.Offset)
	if err != nil {
		return nil, err
	}
	info, err := process.Info(ctx)
	if err != nil {
		return nil, err
	}
	if !info.TTY {
		return nil, cove.Errorf(cove.Invalid, "attach terminal", in.ID, "the process has no terminal", "start it with tty")
	}
	if in.Cols > 0 && in.Rows > 0 && info.Running {
		if err := process.Resize(ctx, cove.TerminalSize{Cols: in.Cols, Rows: in.Rows}); err != nil {
			return nil, err
		}
	}
	return process.Follow(ctx, cove.Offsets{Stdout: from}, false)
}

// killAbandoned kills a process whose client is gone, for which the request's context
// can't be used.
func killAbandoned(ctx context.Context, process *sandbox.Process) {
	const limit = 10 * time.Second
	kill, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
	defer cancel()
	if err := process.Kill(kill); err != nil && !errors.Is(err, cove.NotFound) && !errors.Is(err, cove.Gone) {
		describe(kill, err) // logs what is ours to know
	}
}

// terminal connects a WebSocket and a process's terminal.
type terminal struct {
	conn    *websocket.Conn
	process *sandbox.Process
	output  *sandbox.Output
	timeout time.Duration
}

// serve returns when the process has ended, or the connection.
func (t *terminal) serve(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer t.conn.CloseNow()
	stop := context.AfterFunc(ctx, func() { t.output.Close() })
	defer stop()
	t.conn.SetReadLimit(maxTyped)
	typed, typing := io.Pipe()
	done := make(chan struct{}, 3)
	go func() {
		defer cancel()
		typing.CloseWithError(t.receive(ctx, typing))
		done <- struct{}{}
	}()
	go func() {
		// Typing after the end of the process is no reason to end the connection, whose
		// last message is still to come.
		typed.CloseWithError(errors.Join(t.process.Write(ctx, typed), io.ErrClosedPipe))
		done <- struct{}{}
	}()
	go func() {
		t.keepAlive(ctx)
		done <- struct{}{}
	}()
	t.show(ctx)
	cancel()
	typed.CloseWithError(io.ErrClosedPipe)
	t.conn.CloseNow()
	for range cap(done) {
		<-done
	}
}

// receive hands on what the client types and says, until the connection ends.
func (t *terminal) receive(ctx context.Context, typing io.Writer) error {
	for {
		kind, data, err := t.conn.Read(ctx)
		if err != nil {
			return io.EOF
		}
		if kind == websocket.MessageBinary {
			if _, err := typing.Write(data); err != nil && ctx.Err() != nil {
				return io.EOF
			}
			continue
		}
		var message httpapi.TerminalMessage
		if err := json.Unmarshal(data, &message); err != nil || message.Resize == nil {
			t.conn.Close(websocket.StatusUnsupportedData, "a text message is {\"resize\":{\"cols\":80,\"rows\":24}}")
			return io.EOF
		}
		if size := *message.Resize; size.Cols > 0 && size.Rows > 0 {
			// A process that has ended can't be resized; its exit is on its way.
			_ = t.process.Resize(ctx, size)
		}
	}
}

// show sends what the terminal shows, and how the process ended.
func (t *terminal) show(ctx context.Context) {
	for {
		output, err := t.output.Next()
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			body := describe(ctx, err)
			t.tell(ctx, httpapi.TerminalMessage{Error: &body})
			t.conn.Close(websocket.StatusInternalError, "")
			return
		case output.Exit != nil:
			t.tell(ctx, httpapi.TerminalMessage{Exit: output.Exit})
			t.conn.Close(websocket.StatusNormalClosure, "")
			return
		}
		if err := t.write(ctx, websocket.MessageBinary, output.Data); err != nil {
			return
		}
	}
}

func (t *terminal) tell(ctx context.Context, message httpapi.TerminalMessage) {
	data, err := json.Marshal(message)
	if err != nil {
		return
	}
	_ = t.write(ctx, websocket.MessageText, data) // the client is gone, then
}

// write sends a message to a client that may not dawdle.
func (t *terminal) write(ctx context.Context, kind websocket.MessageType, data []byte) error {
	ctx, cancel := context.WithTimeout(ctx, t.timeout)
	defer cancel()
	return t.conn.Write(ctx, kind, data)
}

// keepAlive asks the client now and then whether it is there, and ends the connection
// where it is not.
func (t *terminal) keepAlive(ctx context.Context) {
	ticker := time.NewTicker(httpapi.KeepAlive)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		ping, cancel := context.WithTimeout(ctx, t.timeout)
		err := t.conn.Ping(ping)
		cancel()
		if err != nil {
			t.conn.CloseNow()
			return
		}
	}
}

// wantsUpgrade reports whether a request asks to switch to a protocol.
func wantsUpgrade(r *http.Request, protocol string) bool {
	for part := range strings.SplitSeq(strings.Join(r.Header.Values("Connection"), ","), ",") {
		if strings.EqualFold(strings.TrimSpace(part), "upgrade") {
			return strings.EqualFold(strings.TrimSpace(r.Header.Get("Upgrade")), protocol)
		}
	}
	return false
}

// sameOrigin reports whether a request comes from a program, which sends no Origin, or
// from a page of this very server. A browser sends a WebSocket's handshake to any host,
// without asking and with what the user may do there.
func sameOrigin(r *http.Request) bool {
	origin := r.Header.Get("Origin")
	if origin == "" {
		return r.Header.Get("Sec-Fetch-Site") == "" || r.Header.Get("Sec-Fetch-Site") == "same-origin"
	}
	scheme, host, ok := strings.Cut(origin, "://")
	return ok && (scheme == "http" || scheme == "https") && strings.EqualFold(host, r.Host)
}
