package docker

import (
	"context"
	"fmt"
	"os"
	"os/exec"
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

// rigVariable makes this program the process that the crash checks kill: it opens the driver
// of the rig that it describes.
const rigVariable = "COVE_DOCKER_RIG"

// TestMain is also that process.
func TestMain(m *testing.M) {
	if text := os.Getenv(rigVariable); text != "" {
		parts := strings.SplitN(text, "|", 4)
		d, err := rig{parts[0], parts[1], parts[2], parts[3]}.open()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		drivertest.CrashWhenAsked(d)
	}
	os.Exit(m.Run())
}

// rig is one installation of the driver.
type rig struct {
	dir, bin, host, runtime string
}

func (r rig) environment() string {
	return rigVariable + "=" + strings.Join([]string{r.dir, r.bin, r.host, r.runtime}, "|")
}

func (r rig) open() (*Driver, error) {
	images, err := image.Open(filepath.Join(r.dir, "images"))
	if err != nil {
		return nil, err
	}
	o := Options{
		StateDir: filepath.Join(r.dir, "state"), DataDir: filepath.Join(r.dir, "data"), Images: images,
		Agent: filepath.Join(r.bin, "cove-agent"), Host: r.host,
	}
	_, variant, _ := strings.Cut(r.runtime, ":")
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
	if dir := os.Getenv("COVE_BIN"); dir != "" {
		return dir
	}
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", dir+"/", "./cmd/cove-agent", "./cmd/cove-runsc")
	cmd.Dir, cmd.Env = "../..", append(os.Environ(), "CGO_ENABLED=0")
	if output, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, output)
	}
	return dir
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
					Crash:     drivertest.Crasher(r.environment()),
					Kill:      func(ctx context.Context, id string) error { return kill(ctx, d, id) },
					StateDirs: []string{r.dir},
					Census:    func() map[string]int { return census(t, d) },
				})
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
	backing, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, path := range backing {
		if content, err := os.ReadFile(path); err == nil && strings.HasPrefix(string(content), d.disks.Dir) {
			counts["loops"]++
		}
	}
	return counts
}
