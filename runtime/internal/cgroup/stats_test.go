package cgroup

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/covehq/cove"
)

func TestStatsAreReadFromBothVersionsOfCgroups(t *testing.T) {
	for name, test := range map[string]struct {
		unified bool
		files   map[string]string // below the hierarchy's group
	}{
		"version 1": {false, map[string]string{
			"cpuacct/cove/box/cpuacct.usage":         "1500000000\n",
			"memory/cove/box/memory.usage_in_bytes":  "10485760\n",
			"memory/cove/box/memory.stat":            "cache 1\ninactive_file 1\ntotal_cache 9\ntotal_inactive_file 4194304\n",
			"pids/cove/box/cgroup.procs":             "10\n11\n12\n",
			"memory/cove/other/memory.usage_in_byte": "1\n",
		}},
		"version 2": {true, map[string]string{
			"cove/box/cpu.stat":       "usage_usec 1500000\nuser_usec 1\n",
			"cove/box/memory.current": "10485760\n",
			"cove/box/memory.stat":    "anon 1\ninactive_file 4194304\n",
			"cove/box/cgroup.procs":   "10\n11\n12\n",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			tree := Tree{Prefix: "cove", Unified: test.unified, Hierarchies: []Hierarchy{{Mount: root, Controllers: []string{"cpu", "memory", "pids"}}}}
			if !test.unified {
				tree.Hierarchies = nil
				for _, controller := range []string{"cpuacct", "memory", "pids"} {
					tree.Hierarchies = append(tree.Hierarchies, Hierarchy{Mount: filepath.Join(root, controller), Controllers: []string{controller}})
				}
			}
			for path, content := range test.files {
				path = filepath.Join(root, path)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			got := tree.Stats("box")
			if got.CPUTime == nil || *got.CPUTime != cove.Duration(1500*time.Millisecond) {
				t.Errorf("processor time = %v, want 1.5s", got.CPUTime)
			}
			if got.Memory == nil || *got.Memory != 6*cove.MiB {
				t.Errorf("memory = %v, want 6MiB", got.Memory)
			}
			if got.Processes == nil || *got.Processes != 2 {
				t.Errorf("processes = %v, want 2 beside the agent", got.Processes)
			}
			if none := tree.Stats("nobody"); none.CPUTime != nil || none.Memory != nil || none.Processes != nil {
				t.Errorf("of a group that is not there: %+v", none)
			}
		})
	}
}
