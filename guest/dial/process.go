package dial

import (
	"context"
	"fmt"
	"io"
	"syscall"
	"time"

	"connectrpc.com/connect"

	"github.com/covehq/cove"
	"github.com/covehq/cove/guest/wire/gen/guest"
	"github.com/covehq/cove/guest/wire/gen/process"
)

// inputPiece is how much of a command's input goes into one message.
const inputPiece = 128 << 10

// List returns the processes that were started through this agent: those that run, and
// those that have ended and are retained.
func (c *Client) List(ctx context.Context) ([]cove.Process, error) {
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	reply, err := c.processes.List(call, connect.NewRequest(&process.ListRequest{IncludeEnded: true}))
	if err != nil {
		return nil, fail(call, "list processes", "", err)
	}
	list := make([]cove.Process, 0, len(reply.Msg.Processes))
	for _, p := range reply.Msg.Processes {
		config := p.GetConfig()
		entry := cove.Process{
			PID:         int(p.Pid),
			Command:     append([]string{config.GetCmd()}, config.GetArgs()...),
			Cwd:         config.GetCwd(),
			User:        p.User,
			Tag:         p.GetTag(),
			TTY:         p.Pty,
			Running:     p.End == nil,
			StartedAt:   time.UnixMicro(p.StartedAtUs).UTC(),
			StdoutBytes: p.StdoutBytes,
			StderrBytes: p.StderrBytes,
		}
		if p.End != nil {
			entry.Exit = exitOf(p.End)
		}
		list = append(list, entry)
	}
	return list, nil
}

// Write sends r to a process's standard input or terminal, and returns when r is at its
// end and all of it has been taken. It does not close the input.
func (c *Client) Write(ctx context.Context, pid int, r io.Reader) error {
	const op = "write input"
	life := newLifetime(ctx)
	defer life.close()
	stream := c.processes.StreamInput(life)
	err := stream.Send(&process.StreamInputRequest{Event: &process.StreamInputRequest_Start{
		Start: &process.StreamInputRequest_StartEvent{Process: selector(pid)},
	}})
	var readErr error
	buffer := make([]byte, inputPiece)
	for err == nil && readErr == nil {
		var n int
		if n, readErr = r.Read(buffer); n == 0 {
			continue
		}
		// A program takes its input when it likes, so that nothing limits a send but ctx.
		err = stream.Send(&process.StreamInputRequest{Event: &process.StreamInputRequest_Data{
			Data: &process.StreamInputRequest_DataEvent{Input: &process.ProcessInput{
				Input: &process.ProcessInput_Any{Any: buffer[:n]},
			}},
		}})
	}
	if readErr != nil && readErr != io.EOF {
		return cove.Wrap(readErr, op, processID(pid))
	}
	_, err = stream.CloseAndReceive() // says why, when a send failed
	return life.fail(op, processID(pid), err)
}

// CloseStdin ends a process's standard input.
func (c *Client) CloseStdin(ctx context.Context, pid int) error {
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := c.processes.CloseStdin(call, connect.NewRequest(&process.CloseStdinRequest{Process: selector(pid)}))
	return fail(call, "close stdin", processID(pid), err)
}

// Signal sends a signal to a process and its group.
func (c *Client) Signal(ctx context.Context, pid int, signal syscall.Signal) error {
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := c.processes.SendSignal(call, connect.NewRequest(&process.SendSignalRequest{
		Process: selector(pid), Signal: process.Signal(signal),
	}))
	return fail(call, "signal", processID(pid), err)
}

// KillTree kills a process and everything that it started, and returns when none of it is
// left. The process may have ended already.
func (c *Client) KillTree(ctx context.Context, pid int) (killed int, err error) {
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	reply, err := c.guest.KillTree(call, connect.NewRequest(&guest.KillTreeRequest{Process: selector(pid)}))
	if err != nil {
		return 0, fail(call, "kill", processID(pid), err)
	}
	return int(reply.Msg.Killed), nil
}

// Resize changes the size of a process's terminal.
func (c *Client) Resize(ctx context.Context, pid int, size cove.TerminalSize) error {
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := c.processes.Update(call, connect.NewRequest(&process.UpdateRequest{
		Process: selector(pid), Pty: sizeOf(size),
	}))
	return fail(call, "resize", processID(pid), err)
}

func selector(pid int) *process.ProcessSelector {
	return &process.ProcessSelector{Selector: &process.ProcessSelector_Pid{Pid: uint32(max(pid, 0))}}
}

func sizeOf(size cove.TerminalSize) *process.PTY {
	return &process.PTY{Size: &process.PTY_Size{Cols: uint32(size.Cols), Rows: uint32(size.Rows)}}
}

func processID(pid int) string { return fmt.Sprintf("process %d", pid) }
