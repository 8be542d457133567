package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/covehq/cove"
	"github.com/covehq/cove/client"
)

// watchInterval is how often stats --watch looks.
const watchInterval = time.Second

func (p *program) statsVerb() *cobra.Command {
	var watch bool
	cmd := &cobra.Command{
		Use:   "stats [flags] [ID…]",
		Short: "Show what sandboxes use",
		Long: `Show what sandboxes use of processor, memory, processes and disk; without ids, those of
all that run. What a runtime can't tell is shown as -.

With --watch, again and again, with the share of a processor that each used since.
With --json, prints one JSON object a line, the id and what GET …/stats replies.`,
		Example: `  cove stats
  cove stats --watch build
  cove stats --json build | jq .stats.memory`,
		ValidArgsFunction: p.completeSandbox,
		RunE:              verb(func(ctx context.Context, args []string) error { return p.stats(ctx, args, watch) }),
	}
	cmd.Flags().BoolVar(&watch, "watch", false, "go on until interrupted")
	return cmd
}

// sample is what one sandbox used at a time.
type sample struct {
	ID    string     `json:"id"`
	Name  string     `json:"name,omitempty"`
	Stats cove.Stats `json:"stats"`
}

func (p *program) stats(ctx context.Context, ids []string, watch bool) error {
	ignoreBrokenPipe()
	c, err := p.connect(ctx)
	if err != nil {
		return err
	}
	before := map[string]sample{}
	for {
		samples, err := collectStats(ctx, c, ids)
		if err != nil {
			return err
		}
		if err := p.showStats(samples, before, watch); err != nil || !watch {
			return err
		}
		clear(before)
		for _, s := range samples {
			before[s.ID] = s
		}
		select {
		case <-time.After(watchInterval):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// collectStats asks for all at once. Of sandboxes that nobody named, one that has ended
// meanwhile is left out.
func collectStats(ctx context.Context, c *client.Client, ids []string) ([]sample, error) {
	var boxes []cove.Sandbox
	for _, id := range ids {
		s, err := c.Get(ctx, id)
		if err != nil {
			return nil, err
		}
		boxes = append(boxes, s.Sandbox)
	}
	if len(ids) == 0 {
		list, err := c.List(ctx, client.Filter{State: cove.StateRunning})
		if err != nil {
			return nil, err
		}
		boxes = list
	}
	samples, errs := make([]sample, len(boxes)), make([]error, len(boxes))
	var group sync.WaitGroup
	slots := make(chan struct{}, 16)
	for i, box := range boxes {
		slots <- struct{}{}
		group.Go(func() {
			defer func() { <-slots }()
			samples[i] = sample{ID: box.ID, Name: box.Name}
			samples[i].Stats, errs[i] = c.Handle(box.ID).Stats(ctx)
		})
	}
	group.Wait()
	var kept []sample
	for i := range samples {
		switch {
		case errs[i] == nil:
			kept = append(kept, samples[i])
		case len(ids) > 0 || !errors.Is(errs[i], cove.Gone) && !errors.Is(errs[i], cove.NotFound):
			return nil, errs[i]
		}
	}
	return kept, nil
}

func (p *program) showStats(samples []sample, before map[string]sample, watch bool) error {
	if p.json {
		encoder := json.NewEncoder(p.Stdout)
		for _, s := range samples {
			if err := encoder.Encode(s); err != nil {
				return err
			}
		}
		return nil
	}
	if watch && isTerminal(p.Stdout) {
		fmt.Fprint(p.Stdout, "\x1b[H\x1b[2J")
	}
	var rows [][]string
	for _, s := range samples {
		rows = append(rows, []string{
			s.ID, dash(s.Name), share(s, before), cpuText(s.Stats.CPUTime), used(s.Stats.Memory, s.Stats.Limit),
			countText(s.Stats.Processes), used(s.Stats.Disk, s.Stats.DiskLimit),
		})
	}
	return p.table([]string{"ID", "NAME", "CPU%", "CPU TIME", "MEMORY", "PROCESSES", "DISK"}, rows)
}

// share is how much of one processor a sandbox used since the sample before.
func share(s sample, before map[string]sample) string {
	earlier, ok := before[s.ID]
	if !ok || s.Stats.CPUTime == nil || earlier.Stats.CPUTime == nil {
		return "-"
	}
	elapsed := s.Stats.Time.Sub(earlier.Stats.Time)
	if elapsed <= 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f", max(100*float64(*s.Stats.CPUTime-*earlier.Stats.CPUTime)/float64(elapsed), 0))
}

func cpuText(used *cove.Duration) string {
	if used == nil {
		return "-"
	}
	return time.Duration(*used).Round(time.Millisecond).String()
}

func countText(count *int) string {
	if count == nil {
		return "-"
	}
	return strconv.Itoa(*count)
}

// used is a size and its limit, as in 12.3MiB / 512MiB.
func used(size *cove.Bytes, limit cove.Bytes) string {
	if size == nil {
		return "- / " + limit.String()
	}
	return roundBytes(*size) + " / " + limit.String()
}

func roundBytes(size cove.Bytes) string {
	for _, unit := range []struct {
		size cove.Bytes
		name string
	}{{cove.GiB, "GiB"}, {cove.MiB, "MiB"}, {cove.KiB, "KiB"}} {
		if size >= unit.size {
			return fmt.Sprintf("%.1f%s", float64(size)/float64(unit.size), unit.name)
		}
	}
	return fmt.Sprintf("%dB", int64(size))
}
