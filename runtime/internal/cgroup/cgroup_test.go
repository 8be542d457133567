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

func TestABreachIsToldFromTheEndOfAGroup(t *testing.T) {
	for name, test := range map[string]struct {
		group bool // is there
		do    func(event, kernel *os.File) error
		want  bool
	}{
		"the kernel tells of a breach":         {true, func(_, kernel *os.File) error { _, err := kernel.Write(make([]byte, 8)); return err }, true},
		"the kernel tells that it is gone":     {false, func(_, kernel *os.File) error { _, err := kernel.Write(make([]byte, 8)); return err }, false},
		"the event was closed":                 {true, func(event, _ *os.File) error { return event.Close() }, false},
		"the event was closed, and it is gone": {false, func(event, _ *os.File) error { return event.Close() }, false},
	} {
		t.Run(name, func(t *testing.T) {
			// The group is still in another hierarchy: what counts is that of memory.
			cpu, memory := t.TempDir(), t.TempDir()
			tree := Tree{Prefix: "cove/p", Hierarchies: []Hierarchy{{cpu, []string{"cpu"}}, {memory, []string{"memory"}}}}
			mounts := []string{cpu}
			if test.group {
				mounts = append(mounts, memory)
			}
			for _, mount := range mounts {
				if err := os.MkdirAll(filepath.Join(mount, "cove/p/x"), 0o700); err != nil {
					t.Fatal(err)
				}
			}
			event, kernel, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer kernel.Close()
			defer event.Close()
			breached := make(chan bool)
			go func() { breached <- tree.Breached("x", event) }()
			if err := test.do(event, kernel); err != nil {
				t.Fatal(err)
			}
			if got := <-breached; got != test.want {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}
