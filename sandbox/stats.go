package sandbox

import (
	"context"
	"math"
	stdruntime "runtime"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/guest/dial"
	"github.com/covehq/cove/sandbox/driver"
	"github.com/covehq/cove/store"
)

// statsTimeout bounds what a driver, and then a guest, may take to say what is used.
const statsTimeout = 5 * time.Second

// Stats returns what the sandbox uses now: what its driver can tell from outside, and of
// the rest what the guest says, within what can be. Asking is no use of the sandbox, which
// may be idle all the same.
func (s *Sandbox) Stats(ctx context.Context) (cove.Stats, error) {
	const op = "stats"
	s.mu.Lock()
	r, machine, client := s.record, s.machine, s.client
	s.mu.Unlock()
	if err := alive(r, op); err != nil {
		return cove.Stats{}, err
	}
	stats := cove.Stats{Time: time.Now().UTC(), Limit: r.Spec.Limits.Memory, DiskLimit: r.Spec.Limits.Disk}
	if machine == nil {
		return cove.Stats{}, cove.Errorf(cove.Unavailable, op, s.id, "the sandbox was not found again after the daemon's restart",
			"wait until its runtime answers again, or remove the sandbox")
	}
	outside := s.askDriver(ctx, machine, &stats)
	var inside error
	if stats.CPUTime == nil || stats.Memory == nil || stats.Processes == nil || stats.Disk == nil {
		inside = askGuest(ctx, client, r, &stats)
	}
	switch {
	case s.life.Err() != nil:
		return cove.Stats{}, cove.Wrap(context.Cause(s.life), op, s.id)
	case ctx.Err() != nil:
		return cove.Stats{}, cove.Wrap(context.Cause(ctx), op, s.id)
	case inside != nil && !outside: // nobody has told anything
		return cove.Stats{}, s.host.wrap(inside, op, s.id)
	}
	return stats, nil
}

// askDriver fills in what the driver knows, and reports whether it knows anything.
func (s *Sandbox) askDriver(ctx context.Context, machine driver.Machine, stats *cove.Stats) bool {
	statter, ok := machine.(driver.Statter)
	if !ok {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, statsTimeout)
	defer cancel()
	from, err := statter.Stats(ctx)
	if err != nil || from == nil {
		s.host.log.Debug("asking a driver what a sandbox uses", "id", s.id, "err", err)
		return false
	}
	stats.CPUTime = within(from.CPUTime, math.MaxInt64)
	stats.Memory = within(from.Memory, math.MaxInt64)
	stats.Processes = within(from.Processes, maxPids)
	stats.Disk = within(from.Disk, math.MaxInt64)
	stats.Received, stats.Sent = within(from.Received, math.MaxInt64), within(from.Sent, math.MaxInt64)
	return true
}

// askGuest fills in what is still open. A guest may say anything, which is cut to what its
// limits let it use.
func askGuest(ctx context.Context, client *dial.Client, r store.Record, stats *cove.Stats) error {
	ctx, cancel := context.WithTimeout(ctx, statsTimeout)
	defer cancel()
	m, err := client.Metrics(ctx)
	if err != nil {
		return err
	}
	if stats.CPUTime == nil {
		processors := max(float64(stdruntime.NumCPU()), r.Spec.Limits.CPUs)
		most := max(float64(time.Since(r.CreatedAt))*processors, 0)
		used := cove.Duration(min(max(float64(m.CPUTime)*1e6, 0), most))
		stats.CPUTime = &used
	}
	if stats.Memory == nil {
		used := min(bytesOf(m.MemUsed), r.Spec.Limits.Memory)
		stats.Memory = &used
	}
	if stats.Processes == nil {
		count := min(max(m.Processes-1, 0), maxPids)
		stats.Processes = &count
	}
	if stats.Disk == nil && m.DiskTotal > 0 {
		used := min(bytesOf(m.DiskUsed), r.Spec.Limits.Disk)
		stats.Disk = &used
	}
	return nil
}

func bytesOf(n uint64) cove.Bytes { return cove.Bytes(min(n, math.MaxInt64)) }

// within returns value where it is between 0 and most, and nil where it can't be true.
func within[T int | cove.Bytes | cove.Duration](value *T, most T) *T {
	if value == nil || *value < 0 || *value > most {
		return nil
	}
	copied := *value
	return &copied
}
