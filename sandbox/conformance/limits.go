package conformance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/guest/dial"
	"github.com/covehq/cove/sandbox/driver"
)

func limitsChecks() []check {
	return []check{
		{"memory", "A sandbox that uses more memory than its limit ends, and Wait says oom.", Needs{Control: cove.ControlMemory}, limitsMemory},
		{"memory-alone", "A sandbox that is out of memory takes no other with it.", Needs{Control: cove.ControlMemory}, limitsMemoryAlone},
		{"cpu", "A sandbox gets no more of the processors than its limit, however much it wants.", Needs{Control: cove.ControlCPU}, limitsCPU},
		{"pids", "No more processes than the limit run inside, and the sandbox can still be handled.", Needs{Control: cove.ControlPids}, limitsPids},
		{"disk", "What is written beyond the disk limit fails for lack of space, by a command and by the files API.", Needs{Control: cove.ControlDisk}, limitsDisk},
		{"disk-recovers", "A sandbox whose disk was full works when files are removed.", Needs{Control: cove.ControlDisk}, limitsDiskRecovers},
		{"nothing-is-boundless", "No directory inside takes more than disk and memory together.", Needs{Control: cove.ControlDisk}, limitsEverything},
	}
}

// Limits small enough to be reached quickly. A driver's floor may raise them.
const (
	smallMemory = 64 * cove.MiB
	smallDisk   = 32 * cove.MiB
	smallPids   = 32
	smallCPUs   = 0.25
)

// small asks for limits that a check can reach.
func (b *bench) small(s *cove.Spec) {
	s.Limits.Memory = max(smallMemory, b.info.Floor.Memory)
	s.Limits.Disk = max(smallDisk, b.info.Floor.Disk)
	s.Limits.Pids = max(smallPids, b.info.Floor.Pids)
}

// memoryBomb has tail keep four times the limit in memory, and no more, so that a host whose
// limit does not hold survives too.
func memoryBomb(limit cove.Bytes) dial.Start {
	return dial.Start{Argv: []string{"/bin/sh", "-c", fmt.Sprintf("head -c %d /dev/zero | tail -c %d | wc -c", 4*limit, 4*limit)}, KillOnDisconnect: true}
}

func limitsMemory(ctx context.Context, b *bench) error {
	x, err := b.create(ctx, b.small)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	bomb, err := x.guest.Start(ctx, memoryBomb(x.spec.Limits.Memory))
	if err != nil {
		return err
	}
	defer bomb.Close()
	r, err := collect(bomb)
	// wc ends well also where only tail was killed, a moment before the sandbox is.
	if err == nil && strings.TrimSpace(string(r.stdout)) == strconv.FormatInt(int64(4*x.spec.Limits.Memory), 10) {
		return fmt.Errorf("four times the limit of %v: got it, want the end of the sandbox", x.spec.Limits.Memory)
	}
	exit, err := x.waitAfterEnd(ctx)
	if err != nil {
		return fmt.Errorf("with the memory limit breached: %w", err)
	}
	return equal("reason", exit.Reason, cove.ReasonOOM)
}

func limitsMemoryAlone(ctx context.Context, b *bench) error {
	x, err := b.create(ctx, b.small)
	if err != nil {
		return err
	}
	neighbour, err := b.shared(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	_, _ = x.run(ctx, memoryBomb(x.spec.Limits.Memory)) // limits/memory judges how it ends
	return neighbour.alive(ctx)
}

// limitsCPU has more loops run than there are processors to have, also where others want some,
// and looks from outside what they got. A share is given for a while at a time, so that anything
// below twice the limit passes.
func limitsCPU(ctx context.Context, b *bench) error {
	x, err := b.create(ctx, func(s *cove.Spec) { s.Limits.CPUs = max(smallCPUs, b.info.Floor.CPUs) })
	if err != nil {
		return err
	}
	start := shell(fmt.Sprintf("i=0; while [ $i -lt %d ]; do while :; do :; done & i=$((i+1)); done; echo started; wait", 8*runtime.NumCPU()))
	start.Timeout, start.KillOnDisconnect = time.Minute, true
	loops, err := x.guest.Start(ctx, start)
	if err != nil {
		return err
	}
	defer loops.Close()
	if countLines(loops, 1) < 1 {
		return errors.New("loops: got none, want some that run")
	}
	before, err := x.processorTime(ctx)
	if err != nil {
		return err
	}
	begun := time.Now()
	select {
	case <-time.After(2 * time.Second):
	case <-ctx.Done():
		return ctx.Err()
	}
	after, err := x.processorTime(ctx)
	if err != nil {
		return err
	}
	limit := x.spec.Limits.CPUs
	got := (after - before).Seconds() / time.Since(begun).Seconds()
	if got <= 0 || got >= 2*limit {
		return fmt.Errorf("processors of a sandbox that may have %g: got %.2f, want some, and fewer than %g", limit, got, 2*limit)
	}
	return nil
}

// processorTime is what the machine has used so far, as its host sees it.
func (x *box) processorTime(ctx context.Context) (time.Duration, error) {
	machine, ok := x.machine.(driver.Statter)
	if !ok {
		return 0, errors.New("processor time: got a machine that can't tell, want one that can")
	}
	stats, err := machine.Stats(ctx)
	if err != nil {
		return 0, fmt.Errorf("stats: %w", err)
	}
	if stats.CPUTime == nil {
		return 0, errors.New("processor time of a sandbox whose limit is enforced: got none, want that since the start")
	}
	return time.Duration(*stats.CPUTime), nil
}

// limitsPids starts four times as many processes as allowed. A runtime may count threads of
// its own beside them, so that anything below twice the limit passes.
func limitsPids(ctx context.Context, b *bench) error {
	x, err := b.create(ctx, b.small)
	if err != nil {
		return err
	}
	limit := x.spec.Limits.Pids
	start := shell(fmt.Sprintf("i=0; while [ $i -lt %d ]; do sleep 300 & echo started; i=$((i+1)); done; wait", 4*limit))
	start.Timeout = 20 * time.Second
	bomb, err := x.guest.Start(ctx, start)
	if err != nil {
		return err
	}
	defer bomb.Close()
	reading, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	stop := context.AfterFunc(reading, func() { bomb.Close() }) // a shell may try for ever
	defer stop()
	started := countLines(bomb, 4*limit)
	if started >= 2*limit {
		return fmt.Errorf("processes beside the limit of %d: got %d, want fewer than %d", limit, started, 2*limit)
	}
	if _, err := x.guest.KillTree(ctx, bomb.PID); err != nil {
		return fmt.Errorf("kill the bomb: %w", err)
	}
	return eventually(ctx, 5*time.Second, func() error { return x.alive(ctx) })
}

// countLines counts lines of standard output until the stream ends, or there are enough.
func countLines(stream *dial.Stream, enough int) int {
	lines := 0
	for lines < enough {
		output, err := stream.Next()
		if err != nil || output.Exit != nil {
			return lines
		}
		if output.Stream == cove.Stdout {
			lines += bytes.Count(output.Data, []byte("\n"))
		}
	}
	return lines
}

func limitsDisk(ctx context.Context, b *bench) error {
	x, err := b.create(ctx, b.small)
	if err != nil {
		return err
	}
	limit := int64(x.spec.Limits.Disk)
	r, err := x.sh(ctx, fmt.Sprintf("head -c %d /dev/zero > $HOME/fill; stat -c %%s $HOME/fill", 3*limit))
	if err != nil {
		return err
	}
	if !bytes.Contains(bytes.ToLower(r.stderr), []byte("no space left")) {
		return fmt.Errorf("writing three times the disk limit: got %q, want no space left on device", r.stderr)
	}
	var size int64
	if _, err := fmt.Sscan(string(r.stdout), &size); err != nil || size > limit {
		return fmt.Errorf("bytes written: got %q, want at most the limit of %d", r.stdout, limit)
	}
	_, err = x.guest.WriteFile(ctx, "/home/user/more", "", io.LimitReader(zeros{}, limit), nil)
	return isCode("upload to a full disk", err, cove.NoSpace)
}

// zeros is an endless reader.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

func limitsDiskRecovers(ctx context.Context, b *bench) error {
	x, err := b.create(ctx, b.small)
	if err != nil {
		return err
	}
	if _, err := x.sh(ctx, fmt.Sprintf("head -c %d /dev/zero > $HOME/fill", 3*x.spec.Limits.Disk)); err != nil {
		return err
	}
	return x.prints(ctx, "after room was made", "rm $HOME/fill && head -c 1000000 /dev/zero > $HOME/again && stat -c %s $HOME/again", "1000000")
}

func limitsEverything(ctx context.Context, b *bench) error {
	for _, dir := range []string{"/tmp", "/workspace", "/dev/shm", "/var/tmp"} {
		if err := b.bounded(ctx, dir); err != nil {
			return err
		}
	}
	return nil
}

// bounded writes more than a sandbox may have at all. The sandbox may also end over it.
func (b *bench) bounded(ctx context.Context, dir string) error {
	x, err := b.create(ctx, b.small)
	if err != nil {
		return err
	}
	defer x.machine.Destroy(ctx)
	size := int64(x.spec.Limits.Disk+x.spec.Limits.Memory) + int64(64*cove.MiB)
	r, err := x.sh(ctx, fmt.Sprintf("head -c %d /dev/zero > %s/fill && echo whole", size, dir))
	if err == nil && strings.Contains(string(r.stdout), "whole") {
		return fmt.Errorf("%s: got %d bytes into it, want fewer", dir, size)
	}
	if cause := ctx.Err(); cause != nil {
		return errors.Join(cause, err)
	}
	return nil
}
