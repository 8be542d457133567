package oci

import (
	"context"

	"github.com/covehq/cove"
	"github.com/covehq/cove/runtime/internal/bundle"
)

// Stats implements driver.Statter. Without a cgroup it has what gVisor's memory file tells.
func (m *machine) Stats(ctx context.Context) (*cove.Stats, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if m.Over() {
		return nil, cove.Gone
	}
	stats := bundle.Usage{
		Kernel: m.driver.kernel(), Cgroups: m.driver.cgroups, ID: m.id, Bundle: m.driver.bundle(m.id),
		PID: m.process.PID, Disk: m.driver.disk(m.id),
	}.Stats()
	if stats.Memory == nil && m.driver.kind == kindGvisor {
		if used, err := (&guestMemory{pid: m.process.PID}).bytes(); err == nil {
			stats.Memory = &used
		}
	}
	return stats, nil
}
