package conformance

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/guest/dial"
)

// gated starts a command that writes "one", waits for a line, and writes "two".
func (x *box) gated(ctx context.Context, tag string) (*dial.Stream, error) {
	start := shell("echo one; read line; echo two")
	start.Stdin, start.Tag = true, tag
	return x.guest.Start(ctx, start)
}

func (x *box) open(ctx context.Context, pid int) error {
	if err := x.guest.Write(ctx, pid, strings.NewReader("go\n")); err != nil {
		return fmt.Errorf("write to process %d: %w", pid, err)
	}
	return nil
}

func execBackground(ctx context.Context, b *bench) error {
	x, err := b.shared(ctx)
	if err != nil {
		return err
	}
	stream, err := x.gated(ctx, "")
	if err != nil {
		return err
	}
	pid := stream.PID
	if err := stream.Close(); err != nil {
		return err
	}
	ctx, cancel := shortly(ctx)
	defer cancel()
	follow, err := x.guest.Follow(ctx, pid, cove.FromStart(), false)
	if err != nil {
		return fmt.Errorf("follow: %w", err)
	}
	defer follow.Close()
	if _, err := readUntil(follow, "one\n"); err != nil {
		return err
	}
	if err := x.open(ctx, pid); err != nil {
		return err
	}
	r, err := collect(follow)
	if err != nil {
		return err
	}
	return errors.Join(equal("the rest", string(r.stdout), "two\n"), equal("exit code", r.exit.Code, 0))
}

func execFollowOffset(ctx context.Context, b *bench) error {
	x, err := b.shared(ctx)
	if err != nil {
		return err
	}
	stream, err := x.guest.Start(ctx, shell("echo one; echo two; echo err >&2; exit 3"))
	if err != nil {
		return err
	}
	defer stream.Close()
	if _, err := collect(stream); err != nil {
		return err
	}
	from := uint64(len("one\n"))
	again, err := x.guest.Follow(ctx, stream.PID, cove.Offsets{Stdout: &from, Stderr: new(uint64)}, true)
	if err != nil {
		return fmt.Errorf("follow what has ended: %w", err)
	}
	defer again.Close()
	r, err := collect(again)
	if err != nil {
		return err
	}
	return errors.Join(
		equal("stdout from the offset", string(r.stdout), "two\n"),
		equal("stderr from its start", string(r.stderr), "err\n"),
		equal("exit code", r.exit.Code, 3),
	)
}

func execList(ctx context.Context, b *bench) error {
	x, err := b.shared(ctx)
	if err != nil {
		return err
	}
	tag := newID()
	stream, err := x.gated(ctx, tag)
	if err != nil {
		return err
	}
	defer stream.Close()
	if err := x.listed(ctx, stream.PID, tag, true); err != nil {
		return fmt.Errorf("while it runs: %w", err)
	}
	if err := x.open(ctx, stream.PID); err != nil {
		return err
	}
	if _, err := collect(stream); err != nil {
		return err
	}
	if err := x.listed(ctx, stream.PID, tag, false); err != nil {
		return fmt.Errorf("when it has ended: %w", err)
	}
	return nil
}

func (x *box) listed(ctx context.Context, pid int, tag string, running bool) error {
	processes, err := x.guest.List(ctx)
	if err != nil {
		return err
	}
	for _, p := range processes {
		if p.PID == pid {
			return errors.Join(equal("tag", p.Tag, tag), equal("running", p.Running, running), equal("has an exit", p.Exit != nil, !running))
		}
	}
	return fmt.Errorf("list: got %d processes without %d, want it among them", len(processes), pid)
}

func execSignal(ctx context.Context, b *bench) error {
	x, err := b.shared(ctx)
	if err != nil {
		return err
	}
	start := shell("trap 'echo caught; exit 9' USR1; echo ready; while :; do sleep 0.02; done")
	start.KillOnDisconnect = true
	ctx, cancel := shortly(ctx)
	defer cancel()
	stream, err := x.guest.Start(ctx, start)
	if err != nil {
		return err
	}
	defer stream.Close()
	if _, err := readUntil(stream, "ready\n"); err != nil {
		return err
	}
	if err := x.guest.Signal(ctx, stream.PID, syscall.SIGUSR1); err != nil {
		return fmt.Errorf("signal: %w", err)
	}
	r, err := collect(stream)
	if err != nil {
		return err
	}
	return errors.Join(equal("output", string(r.stdout), "caught\n"), equal("exit code", r.exit.Code, 9))
}

func execEndedBySignal(ctx context.Context, b *bench) error {
	x, err := b.shared(ctx)
	if err != nil {
		return err
	}
	r, err := x.sh(ctx, "kill -9 $$")
	if err != nil {
		return err
	}
	return errors.Join(equal("signal", r.exit.Signal, "SIGKILL"), equal("exit code", r.exit.Code, -1), equal("timed out", r.exit.TimedOut, false))
}

func execReaps(ctx context.Context, b *bench) error {
	x, err := b.shared(ctx)
	if err != nil {
		return err
	}
	if _, err := x.print(ctx, "i=0; while [ $i -lt 40 ]; do (sleep 0.01 &); i=$((i+1)); done"); err != nil {
		return err
	}
	return eventually(ctx, 3*time.Second, func() error {
		stats, err := x.print(ctx, "cat /proc/[0-9]*/stat 2>/dev/null || true")
		if err != nil {
			return err
		}
		zombies := 0
		for line := range strings.Lines(stats) {
			if strings.Contains(line, "(sleep) Z ") {
				zombies++
			}
		}
		return equal("zombies", zombies, 0)
	})
}
