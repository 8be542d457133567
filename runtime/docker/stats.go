package docker

import (
	"context"
	"encoding/json"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/covehq/cove"
)

// Stats implements driver.Statter, with what the engine says.
func (m *machine) Stats(ctx context.Context) (*cove.Stats, error) {
	var found container.StatsResponse
	err := m.driver.engine.call(ctx, func(ctx context.Context, c *client.Client) error {
		result, err := c.ContainerStats(ctx, m.known.Container, client.ContainerStatsOptions{})
		if err != nil {
			return err
		}
		defer result.Body.Close()
		return json.NewDecoder(result.Body).Decode(&found)
	})
	if errdefs.IsNotFound(err) {
		return nil, cove.Gone
	}
	if err != nil {
		return nil, err
	}
	stats := &cove.Stats{Time: time.Now(), Limit: m.known.Memory, DiskLimit: m.known.Disk}
	used := cove.Duration(found.CPUStats.CPUUsage.TotalUsage)
	stats.CPUTime = &used
	// What the kernel can drop at once is counted as memory by both versions of cgroups.
	memory := found.MemoryStats.Usage
	for _, name := range []string{"inactive_file", "total_inactive_file"} {
		if droppable, ok := found.MemoryStats.Stats[name]; ok && droppable < memory {
			memory -= droppable
			break
		}
	}
	inUse := cove.Bytes(memory)
	stats.Memory = &inUse
	if len(found.Networks) > 0 {
		var received, sent cove.Bytes
		for _, network := range found.Networks {
			received, sent = received+cove.Bytes(network.RxBytes), sent+cove.Bytes(network.TxBytes)
		}
		stats.Received, stats.Sent = &received, &sent
	}
	return stats, nil
}
