package bundle

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/covehq/cove/runtime/internal/cgroup"
)

func TestProcessesAreCountedOnTheHostsKernelAlone(t *testing.T) {
	mount, dir := t.TempDir(), t.TempDir()
	group := filepath.Join(mount, "cove/box")
	if err := os.MkdirAll(group, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{"cgroup.procs": "10\n11\n12\n", "memory.current": "4096\n"} {
		if err := os.WriteFile(filepath.Join(group, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	tree := cgroup.Tree{Prefix: "cove", Unified: true, Hierarchies: []cgroup.Hierarchy{{Mount: mount, Controllers: []string{"memory", "pids"}}}}
	for kernel, want := range map[Kernel]bool{SharedKernel: true, GvisorKernel: false, GuestKernel: false} {
		got := Usage{Kernel: kernel, Cgroups: tree, ID: "box", Bundle: dir, PID: os.Getpid(), Disk: filepath.Join(dir, "disk")}.Stats()
		if counted := got.Processes != nil; counted != want || counted && *got.Processes != 2 {
			t.Errorf("kernel %d: got %v processes, want the group's: %v", kernel, got.Processes, want)
		}
		if got.Memory == nil || *got.Memory != 4096 {
			t.Errorf("kernel %d: got %v of memory, want 4096", kernel, got.Memory)
		}
		if got.Disk != nil {
			t.Errorf("kernel %d: got %v of a disk that is not there", kernel, *got.Disk)
		}
	}
}
