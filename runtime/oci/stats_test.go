package oci

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/runtime/internal/cgroup"
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
			tree := cgroup.Tree{Prefix: "cove", Unified: test.unified, Hierarchies: []cgroup.Hierarchy{{Mount: root, Controllers: []string{"cpu", "memory", "pids"}}}}
			if !test.unified {
				tree.Hierarchies = nil
				for _, controller := range []string{"cpuacct", "memory", "pids"} {
					tree.Hierarchies = append(tree.Hierarchies, cgroup.Hierarchy{Mount: filepath.Join(root, controller), Controllers: []string{controller}})
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
			if used, ok := cpuTime(tree, "box"); !ok || used != 1500*time.Millisecond {
				t.Errorf("processor time = %v, %v, want 1.5s", used, ok)
			}
			if used, ok := memoryUse(tree, "box"); !ok || used != 6*cove.MiB {
				t.Errorf("memory = %v, %v, want 6MiB", used, ok)
			}
			if count := processes(tree, "box"); count == nil || *count != 2 {
				t.Errorf("processes = %v, want 2 beside the agent", count)
			}
			if _, ok := memoryUse(tree, "nobody"); ok {
				t.Error("memory of a group that is not there was told")
			}
			if _, ok := cpuTime(tree, "nobody"); ok {
				t.Error("processor time of a group that is not there was told")
			}
			if count := processes(tree, "nobody"); count != nil {
				t.Error("processes of a group that is not there were told")
			}
		})
	}
}
