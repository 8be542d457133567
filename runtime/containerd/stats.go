package containerd

import (
	"context"

	"github.com/covehq/cove"
	"github.com/covehq/cove/runtime/internal/bundle"
)

// Stats implements driver.Statter. It takes no call to the engine.
func (m *machine) Stats(ctx context.Context) (*cove.Stats, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if m.Over() {
		return nil, cove.Gone
	}
	return bundle.Usage{
		Kernel: m.driver.variant.kernel, Cgroups: m.driver.cgroups, ID: m.id, Bundle: m.driver.bundle(m.id),
		PID: m.known.PID, Disk: m.driver.disk(m.id),
	}.Stats(), nil
}
