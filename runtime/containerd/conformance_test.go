package containerd

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/covehq/cove"
	"github.com/covehq/cove/image"
	"github.com/covehq/cove/sandbox/conformance"
	"github.com/covehq/cove/sandbox/driver"
	"github.com/covehq/cove/sandbox/drivertest"
)

// TestMain is also the process that the crash checks kill.
func TestMain(m *testing.M) {
	drivertest.CrashRig(rig.open)
	os.Exit(m.Run())
}

// rig is one installation of the driver, on the engine that CONTAINERD_ADDRESS names.
type rig struct {
	Dir, Bin, Runtime string
}

func (r rig) open() (driver.Driver, error) {
	images, err := image.Open(filepath.Join(r.Dir, "images"))
	if err != nil {
		return nil, err
	}
	_, variant, _ := strings.Cut(r.Runtime, ":")
	return Open(Options{
		StateDir: filepath.Join(r.Dir, "state"), DataDir: filepath.Join(r.Dir, "data"), Images: images,
		Agent: filepath.Join(r.Bin, "cove-agent"), Runsc: filepath.Join(r.Bin, "cove-runsc"),
	})(variant)
}

// binaries returns a directory with the helper programs: COVE_BIN, or built for the test.
func binaries(t *testing.T) string {
	t.Helper()
	return drivertest.Programs(t, "cove-agent", "cove-runsc")
}

// TestConformance runs the contract on the variants that every engine can have. The third is
// the engine's runc as a shim of which nothing is known, and so stands for all of those.
func TestConformance(t *testing.T) {
	if testing.Short() {
		t.Skip("boots hundreds of sandboxes: run without -short")
	}
	bin := binaries(t)
	for _, name := range []string{"containerd", "containerd:gvisor", "containerd:runc"} {
		t.Run(name, func(t *testing.T) {
			r := rig{Dir: t.TempDir(), Bin: bin, Runtime: name}
			d, err := r.open()
			if err != nil {
				t.Fatal(err)
			}
			drivertest.Run(t, func() driver.Driver { return d }, conformance.Options{
				Spec:      cove.Spec{Runtime: name},
				Reopen:    r.open,
				Crash:     drivertest.RigCrasher(r),
				StateDirs: []string{r.Dir},
				Census:    func() map[string]int { return census(t, d.(*Driver)) },
			})
			if err := Release(Options{StateDir: filepath.Join(r.Dir, "state")}); err != nil {
				t.Error(err)
			}
			if left := drivertest.MountsBelow(r.Dir); len(left) > 0 {
				t.Errorf("mounted after all: %v, want nothing", left)
			}
			if left := drivertest.Present(d.(*Driver).cgroups.Dirs("..")...); len(left) > 0 {
				t.Errorf("cgroups after all: %v, want none", left)
			}
			if left := ofRunc(d.(*Driver)); len(left) > 0 {
				t.Errorf("runc's state after all: %v, want nothing", left)
			}
		})
	}
}

// census counts what sandboxes of this driver have on the host and in the engine.
func census(t *testing.T, d *Driver) map[string]int {
	t.Helper()
	counts := map[string]int{}
	containers, err := d.containers(t.Context())
	if err != nil {
		t.Error(err)
	}
	tasks, err := d.tasks(t.Context())
	if err != nil {
		t.Error(err)
	}
	counts["containers"], counts["tasks"], counts["cgroups"] = len(containers), len(tasks), len(d.cgroups.List())
	counts["files"] = drivertest.EntriesOf(filepath.Join(d.state, "bundles"), d.data, filepath.Join(d.runscRoot(), namespace))
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, d.state) && !strings.Contains(line, "null-netns") || strings.Contains(line, d.instance+"-") {
			counts["mounts"]++
		}
	}
	counts["loops"] = drivertest.LoopsOf(d.disks.Dir)
	counts["runc's state"] = len(ofRunc(d))
	counts["processes"] = drivertest.ProcessesNaming(d.instance + "-") // shims too
	return counts
}

// ofRunc returns what runc keeps of this driver's containers, where the shim has it do so.
func ofRunc(d *Driver) []string {
	paths, _ := filepath.Glob(filepath.Join(d.runcRoot, namespace, d.instance+"-*"))
	return paths
}
