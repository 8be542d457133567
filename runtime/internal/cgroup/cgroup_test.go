package cgroup

import (
	"bufio"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestCgroupsAreFoundInEveryLayout(t *testing.T) {
	for name, test := range map[string]struct {
		mountinfo string
		want      Tree
	}{
		"v2 alone": {
			"30 1 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n",
			Tree{Unified: true, Hierarchies: []Hierarchy{{Mount: "/sys/fs/cgroup"}}},
		},
		"v1, with an empty v2 beside it": {
			"31 1 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n" +
				"32 1 0:28 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n" +
				"33 1 0:29 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory\n",
			Tree{Hierarchies: []Hierarchy{
				{"/sys/fs/cgroup/cpu,cpuacct", []string{"rw", "cpu", "cpuacct"}}, {"/sys/fs/cgroup/memory", []string{"rw", "memory"}},
				{Mount: "/sys/fs/cgroup/unified"},
			}},
		},
		"none":                     {"30 1 0:26 / / rw - ext4 /dev/vda rw\n", Tree{Unified: true}},
		"lines that make no sense": {"30\n\n - \n- cgroup\n", Tree{Unified: true}},
	} {
		t.Run(name, func(t *testing.T) {
			got := parse(bufio.NewScanner(strings.NewReader(test.mountinfo)))
			if len(got.Hierarchies) == 0 {
				got.Hierarchies = nil
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestOOMKillsAreCountedInBothVersions(t *testing.T) {
	for name, test := range map[string]struct {
		unified       bool
		file, content string
		want          int
	}{
		"v1":                {false, "memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n", 2},
		"v2":                {true, "memory.events", "low 0\nhigh 0\nmax 41\noom 1\noom_kill 1\noom_group_kill 1\n", 1},
		"v2, no breach":     {true, "memory.events", "max 41\noom 0\noom_kill 0\n", 0},
		"a group that left": {true, "other", "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			mount := t.TempDir()
			tree := Tree{Prefix: "cove/p", Unified: test.unified, Hierarchies: []Hierarchy{{mount, []string{"memory"}}}}
			dir := filepath.Join(mount, "cove/p/x")
			if err := os.MkdirAll(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, test.file), []byte(test.content), 0o600); err != nil {
				t.Fatal(err)
			}
			if got := tree.OOMKills("x"); got != test.want {
				t.Errorf("got %d, want %d", got, test.want)
			}
			if got := tree.List(); !slices.Equal(got, []string{"x"}) {
				t.Errorf("list: got %v, want x", got)
			}
		})
	}
}
