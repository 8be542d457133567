package client

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"github.com/covehq/cove"
	"github.com/covehq/cove/internal/httpapi"
)

// Process is a handle on something started in a sandbox, while it runs and for as long
// as it is retained afterwards. Its methods may be called concurrently.
type Process struct {
	PID     int // inside the sandbox
	sandbox *Sandbox
}

// Start starts a command in the background. It outlives this client.
func (s *Sandbox) Start(ctx context.Context, r cove.ProcessRequest) (*Process, error) {
	return s.start(ctx, r, nil)
}

// StartUnique is Start, but returns an error that is cove.Conflict when a running process
// has the request's Tag.
func (s *Sandbox) StartUnique(ctx context.Context, r cove.ProcessRequest) (*Process, error) {
	return s.start(ctx, r, url.Values{"unique": {"true"}})
}

func (s *Sandbox) start(ctx context.Context, r cove.ProcessRequest, query url.Values) (*Process, error) {
	call := s.request("start", http.MethodPost, "/processes")
	call.in, call.query = r, query
	var reply cove.Process
	if err := s.client.call(ctx, call, &reply); err != nil {
		return nil, err
	}
	return s.Process(reply.PID), nil
}

// Processes lists what was started in the sandbox, ended ones that are retained included.
func (s *Sandbox) Processes(ctx context.Context) ([]cove.Process, error) {
	var reply httpapi.Processes
	err := s.client.call(ctx, s.request("list processes", http.MethodGet, "/processes"), &reply)
	return reply.Processes, err
}

// Process returns a handle on a process without asking the server whether there is one.
func (s *Sandbox) Process(pid int) *Process { return &Process{PID: pid, sandbox: s} }

// Info returns what the process is and how it stands.
func (p *Process) Info(ctx context.Context) (cove.Process, error) {
	var reply cove.Process
	err := p.sandbox.client.call(ctx, p.request("find process", http.MethodGet, ""), &reply)
	return reply, err
}

// Output reads what the process wrote and writes, from the given offsets on. With follow
// it goes on until the process ends; without, it ends with what is there. The process
// does not notice when a reader leaves, and another may begin where that one stopped.
func (p *Process) Output(ctx context.Context, from cove.Offsets, follow bool) (*Output, error) {
	call := p.request("read output", http.MethodGet, "/output")
	call.query = url.Values{
		"stdout_offset": {offset(from.Stdout)},
		"stderr_offset": {offset(from.Stderr)},
		"follow":        {strconv.FormatBool(follow)},
	}
	return p.sandbox.client.stream(ctx, call, follow)
}

// Write sends r to the process's standard input, or terminal, as r yields it, and returns
// at r's end. The input stays open: see CloseStdin.
func (p *Process) Write(ctx context.Context, r io.Reader) error {
	return p.write(ctx, r, false)
}

// CloseStdin ends the process's standard input.
func (p *Process) CloseStdin(ctx context.Context) error {
	return p.write(ctx, http.NoBody, true)
}

func (p *Process) write(ctx context.Context, r io.Reader, end bool) error {
	call := p.request("write stdin", http.MethodPost, "/stdin")
	call.body = r
	if end {
		call.query = url.Values{"close": {"true"}}
	}
	return p.sandbox.client.call(ctx, call, nil)
}

// Signal sends a signal, by name or number: "TERM", "SIGTERM" and "15" are the same. It
// goes to the process alone; Kill reaches everything.
func (p *Process) Signal(ctx context.Context, signal string) error {
	call := p.request("signal", http.MethodPost, "/signal")
	call.in = httpapi.SignalRequest{Signal: signal}
	return p.sandbox.client.call(ctx, call, nil)
}

// Kill kills the process and everything it started, and returns when all of that is dead.
func (p *Process) Kill(ctx context.Context) error {
	return p.sandbox.client.call(ctx, p.request("kill", http.MethodDelete, ""), nil)
}

// Resize changes the size of the process's terminal.
func (p *Process) Resize(ctx context.Context, size cove.TerminalSize) error {
	call := p.request("resize", http.MethodPost, "/resize")
	call.in = size
	return p.sandbox.client.call(ctx, call, nil)
}

func (p *Process) request(op, method, path string) request {
	return p.sandbox.request(op, method, "/processes/"+strconv.Itoa(p.PID)+path)
}

func offset(o *uint64) string {
	if o == nil {
		return httpapi.End
	}
	return strconv.FormatUint(*o, 10)
}
