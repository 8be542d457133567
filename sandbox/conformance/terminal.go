package conformance

import (
	"bytes"
	"context"
	"fmt"
	"strings"

	"github.com/covehq/cove"
)

func execTerminal(ctx context.Context, b *bench) error {
	x, err := b.shared(ctx)
	if err != nil {
		return err
	}
	start := shell("test -t 0 && test -t 1 && test -t 2 && stty size")
	start.TTY = &cove.TerminalSize{Cols: 81, Rows: 25}
	r, err := x.run(ctx, start)
	if err != nil {
		return err
	}
	return equal("size by the terminal", string(bytes.TrimSpace(r.terminal)), "25 81")
}

// execTerminalInput writes only when another command has come and gone: a terminal that
// does not block has ended its reader by then.
func execTerminalInput(ctx context.Context, b *bench) error {
	x, err := b.shared(ctx)
	if err != nil {
		return err
	}
	start := shell("stty -echo; echo ready; read line; echo got $line")
	start.TTY, start.Stdin = &cove.TerminalSize{Cols: 80, Rows: 24}, true
	stream, err := x.guest.Start(ctx, start)
	if err != nil {
		return err
	}
	defer stream.Close()
	if _, err := readUntil(stream, "ready"); err != nil {
		return err
	}
	for range 3 {
		if err := x.alive(ctx); err != nil {
			return err
		}
	}
	if err := x.open(ctx, stream.PID); err != nil {
		return err
	}
	_, err = readUntil(stream, "got go")
	return err
}

func execResize(ctx context.Context, b *bench) error {
	x, err := b.shared(ctx)
	if err != nil {
		return err
	}
	start := shell("trap 'echo size $(stty size) end; exit' WINCH; echo ready; while :; do sleep 0.02; done")
	start.TTY, start.KillOnDisconnect = &cove.TerminalSize{Cols: 80, Rows: 24}, true
	ctx, cancel := shortly(ctx)
	defer cancel()
	stream, err := x.guest.Start(ctx, start)
	if err != nil {
		return err
	}
	defer stream.Close()
	if _, err := readUntil(stream, "ready"); err != nil {
		return err
	}
	if err := x.guest.Resize(ctx, stream.PID, cove.TerminalSize{Cols: 132, Rows: 50}); err != nil {
		return fmt.Errorf("resize: %w", err)
	}
	output, err := readUntil(stream, "end")
	if err != nil {
		return err
	}
	_, output, _ = strings.Cut(output, "size ")
	size, _, _ := strings.Cut(output, " end")
	return equal("size after the resize", size, "50 132")
}
