package containerd

import (
	"context"

	"github.com/covehq/cove"
	"github.com/covehq/cove/runtime/internal/bundle"
)

// Stats implements driver.Statter, by what the kernel says of the sandbox's cgroup and of
// where it writes: that takes no call to the engine. Of a virtual machine that is what the
// host spends on it, and its processes are its own matter.
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
	if m.driver.variant.kernel != bundle.SharedKernel {
		stats.Processes = nil
	}
	if m.driver.variant.kernel == bundle.GvisorKernel {
		stats.Disk = bundle.GvisorDiskUse(m.known.PID, m.driver.disk(m.id))
	} else {
		stats.Disk = bundle.DiskUse(m.driver.bundle(m.id))
	}
	return stats, nil
}
