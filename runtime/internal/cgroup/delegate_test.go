package cgroup

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func TestTheGroupsOfAProcessAreFound(t *testing.T) {
	for name, test := range map[string]struct {
		own, mountinfo string
		want           []Hierarchy
	}{
		"v2, in a service of the user's own": {
			"0::/user.slice/user-1000.slice/user@1000.service/app.slice/cove.service\n",
			"30 1 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n",
			[]Hierarchy{{Mount: "/sys/fs/cgroup/user.slice/user-1000.slice/user@1000.service/app.slice/cove.service"}},
		},
		"v1, controllers mounted together": {
			"5:cpu,cpuacct:/given\n1:name=systemd:/x\n",
			"32 1 0:28 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpuacct,cpu\n33 1 0:29 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n",
			[]Hierarchy{{Mount: "/sys/fs/cgroup/cpu,cpuacct/given", Controllers: []string{"cpu", "cpuacct"}}},
		},
		"a container that sees its own part alone": {
			"0::/docker/abc/cove\n", "30 1 0:26 /docker/abc /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
			[]Hierarchy{{Mount: "/sys/fs/cgroup/cove"}},
		},
		"one that is outside of what is mounted": {"0::/other\n", "30 1 0:26 /docker/abc /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", nil},
		"lines that make no sense":               {"a\n::\n", "30\n - \n", nil},
	} {
		t.Run(name, func(t *testing.T) {
			got := ownGroups(test.own, test.mountinfo)
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestADelegatedGroupIsUsed writes to plain files where the kernel has its own: what is
// written, and where, is all that is to be seen without a delegated hierarchy of v2.
func TestADelegatedGroupIsUsed(t *testing.T) {
	top := t.TempDir()
	tree := Tree{Prefix: "cove/test", Own: true, Unified: true, Hierarchies: []Hierarchy{{top, []string{"cpu", "memory", "pids"}}}}
	period, quota, memory := uint64(100_000), int64(150_000), int64(64<<20)
	limits := &specs.LinuxResources{
		CPU: &specs.LinuxCPU{Period: &period, Quota: &quota}, Memory: &specs.LinuxMemory{Limit: &memory}, Pids: &specs.LinuxPids{Limit: 100},
	}
	if err := tree.Make("box", limits); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"cove/test/box/cpu.max": "150000 100000", "cove/test/box/memory.max": "67108864", "cove/test/box/memory.swap.max": "0",
		"cove/test/box/memory.oom.group": "1", "cove/test/box/pids.max": "100",
		// The kernel takes one controller at a time here as well as several; a file keeps the last.
		"cgroup.subtree_control": "+pids", "cove/cgroup.subtree_control": "+pids", "cove/test/cgroup.subtree_control": "+pids",
	}
	for name, value := range want {
		if content, err := os.ReadFile(filepath.Join(top, name)); err != nil || string(content) != value {
			t.Errorf("%s has %q, %v, want %q", name, content, err, value)
		}
	}
	if got := tree.Procs("box"); !slices.Equal(got, []string{filepath.Join(top, "cove/test/box/cgroup.procs")}) {
		t.Errorf("the stage enters %q", got)
	}
	if got := (Tree{Hierarchies: tree.Hierarchies}).Procs("box"); got != nil {
		t.Errorf("as root the stage enters %q, want nothing", got)
	}
}
