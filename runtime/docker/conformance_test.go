package docker

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/moby/moby/client"

	"github.com/covehq/cove"
	"github.com/covehq/cove/image"
	"github.com/covehq/cove/sandbox/conformance"
	"github.com/covehq/cove/sandbox/driver"
	"github.com/covehq/cove/sandbox/drivertest"
)

// TestMain is also the process that the crash checks kill.
func TestMain(m *testing.M) {
	drivertest.CrashRig(func(r rig) (driver.Driver, error) { return r.open() })
	os.Exit(m.Run())
}

// rig is one installation of the driver.
type rig struct {
	Dir, Bin, Host, Runtime string
}

func (r rig) open() (*Driver, error) {
	images, err := image.Open(filepath.Join(r.Dir, "images"))
	if err != nil {
		return nil, err
	}
	o := Options{
		StateDir: filepath.Join(r.Dir, "state"), DataDir: filepath.Join(r.Dir, "data"), Images: images,
		Agent: filepath.Join(r.Bin, "cove-agent"), Host: r.Host,
	}
	_, variant, _ := strings.Cut(r.Runtime, ":")
	d, err := Open(o)(variant)
	if err != nil {
		return nil, err
	}
	return d.(*Driver), nil
}

// engines returns the addresses of the engines to test with: COVE_TEST_DOCKER, separated by
// spaces, or the one that the docker command would use.
func engines() []string {
	if hosts := strings.Fields(os.Getenv("COVE_TEST_DOCKER")); len(hosts) > 0 {
		return hosts
	}
	return []string{""}
}

// binaries returns a directory with the helper programs: COVE_BIN, or built for the test.
func binaries(t *testing.T) string {
	t.Helper()
	return drivertest.Programs(t, "cove-agent")
}

// label names an engine in a test's name.
func label(host string) string {
	if host == "" {
		return "default"
	}
	return strings.TrimSuffix(filepath.Base(host), ".sock")
}

func TestConformance(t *testing.T) {
	if testing.Short() {
		t.Skip("boots hundreds of sandboxes: run without -short")
	}
	bin := binaries(t)
	for _, host := range engines() {
		for _, runtime := range []string{"docker", "docker:gvisor"} {
			t.Run(label(host)+"/"+runtime, func(t *testing.T) {
				r := rig{t.TempDir(), bin, host, runtime}
				d, err := r.open()
				if err != nil {
					t.Fatal(err)
				}
				drivertest.Run(t, func() driver.Driver { return d }, conformance.Options{
					Spec:      cove.Spec{Runtime: runtime},
					Reopen:    func() (driver.Driver, error) { return r.open() },
					Crash:     drivertest.RigCrasher(r),
					Kill:      func(ctx context.Context, id string) error { return kill(ctx, d, id) },
					StateDirs: []string{r.Dir},
					Census:    func() map[string]int { return census(t, d) },
				})
				if err := Release(Options{StateDir: filepath.Join(r.Dir, "state")}); err != nil {
					t.Error(err)
				}
				if left := drivertest.Present(d.cgroups.Dirs("..")...); len(left) > 0 {
					t.Errorf("cgroups after all: %v, want none", left)
				}
			})
		}
	}
}

// kill ends a sandbox as docker kill does.
func kill(ctx context.Context, d *Driver, id string) error {
	return d.engine.call(ctx, func(ctx context.Context, c *client.Client) error {
		_, err := c.ContainerKill(ctx, containerName(id), client.ContainerKillOptions{Signal: "KILL"})
		return err
	})
}

// census counts what sandboxes of this driver have in the engine and on the host.
func census(t *testing.T, d *Driver) map[string]int {
	counts := map[string]int{}
	ours, err := d.containers(context.Background(), "")
	if err != nil {
		t.Error(err)
	}
	counts["containers"] = len(ours)
	entries, _ := os.ReadDir(d.state)
	counts["files"] = len(entries)
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	counts["mounts"] = strings.Count(string(mounts), d.state)
	counts["loops"] = drivertest.LoopsOf(d.disks.Dir)
	return counts
}
