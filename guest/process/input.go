package process

import (
	"context"
	"errors"
	"os"
	"syscall"

	"github.com/covehq/cove"
)

// InputKind says which input of a process bytes are meant for.
type InputKind int

// The kinds of input. InputAny is whichever of the two the process has.
const (
	InputAny InputKind = iota
	InputStdin
	InputTerminal
)

// input is the standard input or the terminal of a process. One writer writes at a time.
type input struct {
	file     *os.File // nil when the process has no input
	terminal bool
	turn     chan struct{}
}

func newInput(file *os.File, terminal bool) input {
	return input{file: file, terminal: terminal, turn: make(chan struct{}, 1)}
}

// Write writes data to the process's input, and returns when all of it is written or ctx
// has ended.
func (p *Process) Write(ctx context.Context, kind InputKind, data []byte) error {
	const op = "write input"
	switch in := &p.input; {
	case kind == InputTerminal && !in.terminal:
		return cove.Errorf(cove.Invalid, op, "", "the process has no terminal", "write to its stdin")
	case kind == InputStdin && in.terminal:
		return cove.Errorf(cove.Invalid, op, "", "the process has a terminal and no stdin", "write to its terminal")
	case in.file == nil:
		return inputClosed(op)
	}
	if _, ended := p.End(); ended {
		return hasEnded(op, p.PID)
	}
	select {
	case p.input.turn <- struct{}{}:
		defer func() { <-p.input.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	err := p.input.write(ctx, data)
	switch {
	case err == nil || ctx.Err() != nil:
		return err
	case errors.Is(err, syscall.EPIPE), errors.Is(err, os.ErrClosed), errors.Is(err, syscall.EIO):
		return inputClosed(op)
	}
	return err
}

// write writes data; the end of ctx interrupts it.
func (in *input) write(ctx context.Context, data []byte) error {
	interrupted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(interrupted)
		_ = in.file.SetWriteDeadline(aLongTimeAgo)
	})
	_, err := in.file.Write(data)
	if !stop() {
		<-interrupted
		_ = in.file.SetWriteDeadline(noDeadline)
		if err != nil {
			return ctx.Err()
		}
	}
	return err
}

// CloseStdin ends the process's standard input. A write under way fails. Closing it again
// is no error.
func (p *Process) CloseStdin() error {
	if p.input.terminal {
		return cove.Errorf(cove.Invalid, "close stdin", "", "the process has a terminal and no stdin",
			"write the terminal's end-of-file character, which is byte 4")
	}
	p.input.close()
	return nil
}

// close closes standard input. A terminal is closed by its pump, when it has read all.
func (in *input) close() {
	if in.file != nil && !in.terminal {
		_ = in.file.Close()
	}
}

func inputClosed(op string) error {
	return &cove.Error{
		Code: cove.Conflict, Op: op, Err: errors.New("the process's standard input is closed"),
		Hint: "start it with stdin open",
	}
}
