package oci

import (
	"context"

	"github.com/covehq/cove"
	"github.com/covehq/cove/runtime/internal/bundle"
)

// Stats implements driver.Statter, by what the kernel says of the sandbox's cgroup and of
// where it writes. What can't be read, as that of a sandbox which is just ending, is left
// out.
func (m *machine) Stats(ctx context.Context) (*cove.Stats, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	select {
	case <-m.gone:
		return nil, cove.Gone
	default:
	}
	stats := m.driver.cgroups.Stats(m.id)
	if m.driver.kind != kindGvisor {
		stats.Disk = bundle.DiskUse(m.driver.bundle(m.id))
		return stats, nil
	}
	if stats.Memory == nil {
		if used, err := (&guestMemory{pid: m.process.PID}).bytes(); err == nil {
			stats.Memory = &used
		}
	}
	stats.Processes = nil // the tasks of its kernel are not those inside
	stats.Disk = bundle.GvisorDiskUse(m.process.PID, m.driver.disk(m.id))
	return stats, nil
}
