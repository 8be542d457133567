package oci

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/covehq/cove"
	"github.com/covehq/cove/image"
	"github.com/covehq/cove/sandbox/conformance"
	"github.com/covehq/cove/sandbox/driver"
	"github.com/covehq/cove/sandbox/drivertest"
)

// TestMain is also the process that the crash checks kill.
func TestMain(m *testing.M) {
	Stage()
	drivertest.CrashRig(rig.open)
	if err := AdoptOrphans(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// rig is one installation of the driver.
type rig struct {
	Dir, Bin, Runtime string
}

func (r rig) open() (driver.Driver, error) {
	images, err := image.Open(filepath.Join(r.Dir, "images"))
	if err != nil {
		return nil, err
	}
	o := Options{
		StateDir: filepath.Join(r.Dir, "state"), DataDir: filepath.Join(r.Dir, "data"), Images: images,
		Agent: filepath.Join(r.Bin, "cove-agent"), Runsc: filepath.Join(r.Bin, "cove-runsc"),
	}
	if r.Runtime == "gvisor" {
		return Gvisor(o)("")
	}
	return Named(o, r.Runtime)("")
}

// binaries returns a directory with the helper programs: COVE_BIN, or built for the test.
func binaries(t *testing.T) string {
	t.Helper()
	return drivertest.Programs(t, "cove-agent", "cove-runsc")
}

func TestConformance(t *testing.T) {
	if testing.Short() {
		t.Skip("boots hundreds of sandboxes: run without -short")
	}
	bin := binaries(t)
	for _, name := range []string{"gvisor", "runc", "crun"} {
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
				Census:    func() map[string]int { return census(d.(*Driver)) },
				Shared:    new(conformance.Shared),
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
		})
	}
}

// census counts what sandboxes of this driver have on the host.
func census(d *Driver) map[string]int {
	counts := map[string]int{
		"cgroups": len(d.cgroups.List()), "files": drivertest.EntriesOf(filepath.Join(d.state, "bundles"), d.data, d.root()), "mounts": 0,
		"loops": drivertest.LoopsOf(d.disks.Dir), "processes": drivertest.ProcessesNaming(d.state),
	}
	for _, mount := range drivertest.MountsBelow(d.state) {
		if filepath.Base(mount) != "null-netns" { // gVisor's, one for all sandboxes
			counts["mounts"]++
		}
	}
	return counts
}
