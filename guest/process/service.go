package process

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"syscall"
	"time"

	"connectrpc.com/connect"

	"github.com/covehq/cove"
	"github.com/covehq/cove/guest/account"
	guestwire "github.com/covehq/cove/guest/wire/gen/guest"
	wire "github.com/covehq/cove/guest/wire/gen/process"
)

// Service serves a Table over the wire: process.Process, as E2B's agent does and with
// Cove's additions, and cove.guest.Guest.
type Service struct {
	table   *Table
	book    *account.Book
	buffers sync.Pool
}

// NewService returns a Service of table, whose commands run as the users in book.
func NewService(table *Table, book *account.Book) *Service {
	return &Service{table: table, book: book, buffers: sync.Pool{New: func() any { return new([largeMessage]byte) }}}
}

// Start starts a process and streams what it does. The Connect timeout is the process's
// life limit; the end of the stream is not its end, unless the request says so.
func (s *Service) Start(ctx context.Context, header http.Header, request *wire.StartRequest, send func(*wire.StartResponse) error) error {
	a, err := s.book.Of(header)
	if err != nil {
		return err
	}
	command, err := commandOf(request, a, s.book.Defaults())
	if err != nil {
		return err
	}
	deadline, foreign := ctx.Deadline()
	if limit := time.Until(deadline); foreign && (command.Timeout == 0 || limit < command.Timeout) {
		command.Timeout = max(limit, time.Millisecond)
	}
	p, reader, err := s.table.Start(command)
	if err != nil {
		return err
	}
	defer reader.Close()
	message := &wire.StartResponse{}
	r := relay{process: p, reader: reader, buffers: &s.buffers, send: func(e *wire.ProcessEvent) error {
		message.Event = e
		return send(message)
	}}
	err = r.run(ctx, header)
	if err == nil {
		return nil
	}
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		<-p.Exited() // the limit of its life is the stream's too
		return connect.NewError(connect.CodeDeadlineExceeded, errors.New("the process was killed at its time limit"))
	}
	if request.KillOnDisconnect {
		_, _ = p.KillTree() // nobody is there to be told
	}
	return err
}

// Connect streams what a process does from now on, or from the offsets in the request.
func (s *Service) Connect(ctx context.Context, header http.Header, request *wire.ConnectRequest, send func(*wire.ConnectResponse) error) error {
	p, err := s.find(request.Process)
	if err != nil {
		return err
	}
	reader := p.Follow(request.StdoutOffset, request.StderrOffset, !request.NoFollow)
	defer reader.Close()
	message := &wire.ConnectResponse{}
	r := relay{process: p, reader: reader, buffers: &s.buffers, send: func(e *wire.ProcessEvent) error {
		message.Event = e
		return send(message)
	}}
	return r.run(ctx, header)
}

// List lists the processes that run, and on request those that are retained too.
func (s *Service) List(_ context.Context, _ http.Header, request *wire.ListRequest) (*wire.ListResponse, error) {
	reply := &wire.ListResponse{}
	for _, p := range s.table.List() {
		end, ended := p.End()
		if ended && !request.IncludeEnded {
			continue
		}
		out, err := p.Written()
		info := &wire.ProcessInfo{
			Config: &wire.ProcessConfig{
				Cmd: p.Command.Argv[0], Args: p.Command.Argv[1:], Envs: p.Command.Asked.Env, Cwd: p.Command.Asked.Cwd,
			},
			Pid: uint32(p.PID), User: p.Command.Account.Name, Pty: p.Command.Terminal != nil,
			StartedAtUs: p.Started.UnixMicro(), StdoutBytes: out, StderrBytes: err,
		}
		if p.Command.Tag != "" {
			info.Tag = &p.Command.Tag
		}
		if ended {
			info.End = endEvent(end)
		}
		reply.Processes = append(reply.Processes, info)
	}
	return reply, nil
}

// SendInput writes to a process's stdin or terminal.
func (s *Service) SendInput(ctx context.Context, _ http.Header, request *wire.SendInputRequest) (*wire.SendInputResponse, error) {
	p, err := s.find(request.Process)
	if err != nil {
		return nil, err
	}
	if err := writeInput(ctx, p, request.Input); err != nil {
		return nil, err
	}
	return &wire.SendInputResponse{}, nil
}

// StreamInput writes a stream of pieces to the process that its first message names.
func (s *Service) StreamInput(ctx context.Context, _ http.Header, receive func() (*wire.StreamInputRequest, error)) (*wire.StreamInputResponse, error) {
	var p *Process
	for {
		message, err := receive()
		if errors.Is(err, io.EOF) {
			return &wire.StreamInputResponse{}, nil
		}
		if err != nil {
			return nil, err
		}
		switch e := message.Event.(type) {
		case *wire.StreamInputRequest_Start:
			found, err := s.find(e.Start.GetProcess())
			if err != nil {
				return nil, err
			}
			p = found
		case *wire.StreamInputRequest_Data:
			if p == nil {
				return nil, cove.Errorf(cove.Invalid, "write input", "", "the stream does not begin with a process", "send the start event first")
			}
			if err := writeInput(ctx, p, e.Data.GetInput()); err != nil {
				return nil, err
			}
		}
	}
}

func writeInput(ctx context.Context, p *Process, in *wire.ProcessInput) error {
	switch data := in.GetInput().(type) {
	case *wire.ProcessInput_Stdin:
		return p.Write(ctx, InputStdin, data.Stdin)
	case *wire.ProcessInput_Pty:
		return p.Write(ctx, InputTerminal, data.Pty)
	case *wire.ProcessInput_Any:
		return p.Write(ctx, InputAny, data.Any)
	}
	return cove.Errorf(cove.Invalid, "write input", "", "the request has no input", "send stdin or pty")
}

// SendSignal sends a signal to a process.
func (s *Service) SendSignal(_ context.Context, _ http.Header, request *wire.SendSignalRequest) (*wire.SendSignalResponse, error) {
	p, err := s.find(request.Process)
	if err != nil {
		return nil, err
	}
	if err := p.Signal(syscall.Signal(request.Signal)); err != nil {
		return nil, err
	}
	return &wire.SendSignalResponse{}, nil
}

// CloseStdin ends a process's stdin.
func (s *Service) CloseStdin(_ context.Context, _ http.Header, request *wire.CloseStdinRequest) (*wire.CloseStdinResponse, error) {
	p, err := s.find(request.Process)
	if err != nil {
		return nil, err
	}
	if err := p.CloseStdin(); err != nil {
		return nil, err
	}
	return &wire.CloseStdinResponse{}, nil
}

// Update resizes a process's terminal.
func (s *Service) Update(_ context.Context, _ http.Header, request *wire.UpdateRequest) (*wire.UpdateResponse, error) {
	p, err := s.find(request.Process)
	if err != nil {
		return nil, err
	}
	if request.Pty != nil {
		size, err := sizeOf(request.Pty)
		if err != nil {
			return nil, err
		}
		if err := p.Resize(size); err != nil {
			return nil, err
		}
	}
	return &wire.UpdateResponse{}, nil
}

// KillTree kills a process with everything that it started.
func (s *Service) KillTree(_ context.Context, _ http.Header, request *guestwire.KillTreeRequest) (*guestwire.KillTreeResponse, error) {
	p, err := s.find(request.Process)
	if err != nil {
		return nil, err
	}
	killed, err := p.KillTree()
	if err != nil {
		return nil, err
	}
	return &guestwire.KillTreeResponse{Killed: uint32(killed)}, nil
}

func (s *Service) find(selector *wire.ProcessSelector) (*Process, error) {
	switch by := selector.GetSelector().(type) {
	case *wire.ProcessSelector_Pid:
		return s.table.ByPID(int(by.Pid))
	case *wire.ProcessSelector_Tag:
		return s.table.ByTag(by.Tag)
	}
	return nil, cove.Errorf(cove.Invalid, "find", "", "the request names no process", "give a pid or a tag")
}

// keepaliveOf reads the time between keepalives from a request.
func keepaliveOf(header http.Header) time.Duration {
	const standard = 90 * time.Second
	seconds, err := time.ParseDuration(header.Get("Keepalive-Ping-Interval") + "s")
	if err != nil || seconds < time.Second || seconds > 24*time.Hour {
		return standard
	}
	return seconds
}
