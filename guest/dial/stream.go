package dial

import (
	"context"
	"fmt"
	"io"
	"time"

	"connectrpc.com/connect"

	"github.com/covehq/cove"
	"github.com/covehq/cove/guest/wire/gen/process"
)

// Start describes a command to run.
type Start struct {
	Argv []string // not empty; Argv[0] is looked for in the command's PATH
	Env  map[string]string
	Cwd  string // "" is the sandbox's working directory
	User string // "" is the sandbox's default user
	Tag  string
	// Stdin keeps standard input open for Write; otherwise it is empty.
	Stdin bool
	// TTY gives the command a terminal of this size.
	TTY *cove.TerminalSize
	// Timeout ends the command with everything it started. 0 is never.
	Timeout time.Duration
	// KillOnDisconnect ends the command with everything it started when the stream that
	// Start returns is closed or breaks.
	KillOnDisconnect bool
}

// Start runs a command and returns the stream of its output. ctx governs the whole stream;
// the command outlives it unless KillOnDisconnect says otherwise.
func (c *Client) Start(ctx context.Context, s Start) (*Stream, error) {
	const op = "start"
	if len(s.Argv) == 0 {
		return nil, cove.Errorf(cove.Invalid, op, "", "the command is empty", "give at least the name of a program")
	}
	texts := append([]string{s.Cwd, s.Tag}, s.Argv...)
	for key, value := range s.Env {
		texts = append(texts, key, value)
	}
	if err := checkText(op, commandLine(s.Argv), texts...); err != nil {
		return nil, err
	}
	message := &process.StartRequest{
		Process: &process.ProcessConfig{Cmd: s.Argv[0], Args: s.Argv[1:], Envs: s.Env},
		Stdin:   &s.Stdin,

		KillOnDisconnect: s.KillOnDisconnect,
	}
	if s.Cwd != "" {
		message.Process.Cwd = &s.Cwd
	}
	if s.Tag != "" {
		message.Tag = &s.Tag
	}
	if s.TTY != nil {
		message.Pty = sizeOf(*s.TTY)
	}
	if s.Timeout > 0 {
		milliseconds := uint64(max(s.Timeout.Milliseconds(), 1))
		message.TimeoutMs = &milliseconds
	}
	life := newLifetime(ctx)
	request := requestAs(message, s.User)
	request.Header().Set("Keepalive-Ping-Interval", fmt.Sprint(int(keepalive.Seconds())))
	return newStream(life, op, commandLine(s.Argv), func() (*connect.ServerStreamForClient[event], error) {
		return c.start.CallServerStream(life, request)
	})
}

// Follow returns the stream of a process that was started earlier, from the given offsets;
// an offset older than what is retained begins with the oldest byte that is. A process
// that has ended is followed as long as the agent retains it. With noFollow the stream
// ends when all that is retained has been sent.
func (c *Client) Follow(ctx context.Context, pid int, from cove.Offsets, noFollow bool) (*Stream, error) {
	life := newLifetime(ctx)
	request := connect.NewRequest(&process.ConnectRequest{
		Process:      selector(pid),
		StdoutOffset: from.Stdout,
		StderrOffset: from.Stderr,
		NoFollow:     noFollow,
	})
	request.Header().Set("Keepalive-Ping-Interval", fmt.Sprint(int(keepalive.Seconds())))
	return newStream(life, "follow", processID(pid), func() (*connect.ServerStreamForClient[event], error) {
		return c.follow.CallServerStream(life, request)
	})
}

// Stream is the output of a process. It is used by one goroutine, but Close may be called
// by any.
type Stream struct {
	PID int // in the sandbox

	life   *lifetime
	op, id string
	wire   *connect.ServerStreamForClient[event]
	last   *event
	ended  bool
}

// newStream makes the call and reads the start event.
func newStream(life *lifetime, op, id string, call func() (*connect.ServerStreamForClient[event], error)) (*Stream, error) {
	s := &Stream{life: life, op: op, id: id}
	life.await()
	wire, err := call()
	life.arrived()
	if err != nil {
		defer life.close()
		return nil, life.fail(op, id, err)
	}
	s.wire = wire
	first, err := s.receive()
	if err == nil && first.pid == 0 {
		err = fail(life.parent, op, id, errNoStart)
	}
	if err == io.EOF {
		err = fail(life.parent, op, id, io.ErrUnexpectedEOF)
	}
	if err != nil {
		_ = s.Close()
		return nil, err
	}
	s.PID = first.pid
	return s, nil
}

// receive returns the next message that the guest sends within stallTimeout, or io.EOF.
func (s *Stream) receive() (*event, error) {
	if s.last != nil {
		s.last.release()
		s.last = nil
	}
	s.life.await()
	more := s.wire.Receive()
	s.life.arrived()
	if !more {
		if err := s.wire.Err(); err != nil {
			return nil, s.life.fail(s.op, s.id, err)
		}
		return nil, io.EOF
	}
	s.last = s.wire.Msg()
	return s.last, nil
}

// Next returns the next piece of output, or the exit. Data in it is valid until the next
// call. After the exit, and with noFollow when all that is retained has been sent, it
// returns io.EOF.
func (s *Stream) Next() (cove.Output, error) {
	for {
		e, err := s.receive()
		switch {
		case err == io.EOF && !s.ended && s.op == "start":
			return cove.Output{}, fail(s.life.parent, s.op, s.id, io.ErrUnexpectedEOF)
		case err != nil:
			return cove.Output{}, err
		case e.data != nil:
			return cove.Output{PID: s.PID, Stream: e.stream, Offset: e.offset, Data: *e.data}, nil
		case e.end != nil:
			s.ended = true
			return cove.Output{PID: s.PID, Exit: exitOf(e.end)}, nil
		}
	}
}

// Close leaves the stream. It never waits for the guest.
func (s *Stream) Close() error {
	s.life.close()
	_ = s.wire.Close() // its error is the context's end
	return nil
}
