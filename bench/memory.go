package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/client"
)

// idleMemory measures what one idle sandbox costs the host: the proportional share of every
// process that was not there before, and for the agent what it has resident.
func (b *bench) idleMemory(ctx context.Context, name string) error {
	before := processes()
	box, err := b.client.Create(ctx, cove.Spec{Runtime: name}, client.CreateOptions{})
	if err != nil {
		return err
	}
	defer box.Remove(context.WithoutCancel(ctx))
	if _, err := box.Exec(ctx, cove.ExecRequest{Command: cove.Command{Argv: []string{"/bin/true"}}}); err != nil {
		return err
	}
	settle(ctx)
	total := 0.0
	for pid := range processes() {
		if !before[pid] {
			total += rollup(pid, "Pss:")
		}
	}
	b.table.size("idle sandbox, all its host processes (PSS)", name, total, 0)
	result, err := box.Exec(ctx, cove.ExecRequest{Command: cove.Command{Line: "grep VmRSS /proc/1/status"}})
	if err != nil {
		return err
	}
	if fields := strings.Fields(string(result.Stdout)); len(fields) > 1 {
		kb, _ := strconv.ParseFloat(fields[1], 64)
		b.table.size("agent, resident, idle", name, kb/1000, 12)
	}
	return nil
}

// idle is how many sandboxes the daemon's memory is measured with.
const idle = 20

// daemonMemory measures the daemon without sandboxes and with some, and the agent's file.
func (b *bench) daemonMemory(ctx context.Context) error {
	settle(ctx)
	empty := rollup(b.daemon.Process.Pid, "Rss:")
	b.table.size("daemon, resident, idle", "", empty, 60)
	for range idle {
		if _, err := b.client.Create(ctx, cove.Spec{Runtime: "runc", Limits: cove.Limits{Memory: 64 * cove.MiB}}, client.CreateOptions{}); err != nil {
			b.table.note("memory of the daemon with sandboxes: %v.", err)
			return nil
		}
	}
	settle(ctx)
	b.table.size("daemon, more for each sandbox", "runc", max(0, rollup(b.daemon.Process.Pid, "Rss:")-empty)/idle, 0.3)
	info, err := os.Stat(filepath.Join(b.bin, "cove-agent"))
	if err != nil {
		return err
	}
	b.table.size("agent on disk", "", float64(info.Size())/1e6, 10)
	return nil
}

// settle waits for garbage collectors to give back what the work before needed.
func settle(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(3 * time.Second):
	}
}

func processes() map[int]bool {
	pids := map[int]bool{}
	entries, _ := os.ReadDir("/proc")
	for _, entry := range entries {
		if pid, err := strconv.Atoi(entry.Name()); err == nil {
			pids[pid] = true
		}
	}
	return pids
}

// rollup returns a line of /proc/pid/smaps_rollup in MB; 0 for a process that is gone.
func rollup(pid int, field string) float64 {
	file, err := os.Open(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if fields := strings.Fields(lines.Text()); len(fields) > 1 && fields[0] == field {
			kb, _ := strconv.ParseFloat(fields[1], 64)
			return kb * 1024 / 1e6
		}
	}
	return 0
}
