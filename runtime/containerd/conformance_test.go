package containerd

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/covehq/cove"
	"github.com/covehq/cove/image"
	"github.com/covehq/cove/sandbox/conformance"
	"github.com/covehq/cove/sandbox/driver"
	"github.com/covehq/cove/sandbox/drivertest"
)

// TestMain is also the process that the crash checks kill, in which rigVariable says what to
// open.
func TestMain(m *testing.M) {
	if text := os.Getenv(rigVariable); text != "" {
		dir, rest, _ := strings.Cut(text, "|")
		bin, runtime, _ := strings.Cut(rest, "|")
		d, err := rig{dir, bin, runtime}.open()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		drivertest.CrashWhenAsked(d)
	}
	os.Exit(m.Run())
}

const rigVariable = "COVE_TEST_CONTAINERD"

// rig is one installation of the driver, on the engine that CONTAINERD_ADDRESS names.
type rig struct {
	Dir, Bin, Runtime string
}

func (r rig) String() string { return r.Dir + "|" + r.Bin + "|" + r.Runtime }

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
				Crash:     drivertest.Crasher(rigVariable + "=" + r.String()),
				StateDirs: []string{r.Dir},
				Census:    func() map[string]int { return census(t, d.(*Driver)) },
			})
			if err := Release(Options{StateDir: filepath.Join(r.Dir, "state")}); err != nil {
				t.Error(err)
			}
			if left := mountsBelow(r.Dir); len(left) > 0 {
				t.Errorf("mounted after all: %v, want nothing", left)
			}
		})
	}
}

func mountsBelow(dir string) []string {
	file, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	defer file.Close()
	var mounts []string
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if fields := strings.Fields(lines.Text()); len(fields) > 4 && strings.HasPrefix(fields[4], dir+"/") {
			mounts = append(mounts, fields[4])
		}
	}
	return mounts
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
	for _, dir := range []string{filepath.Join(d.state, "bundles"), d.data, filepath.Join(d.runscRoot(), namespace)} {
		entries, _ := os.ReadDir(dir)
		for _, entry := range entries {
			if entry.Name() != "null-netns" { // gVisor's, one for all sandboxes
				counts["files"]++
			}
		}
	}
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, d.state) && !strings.Contains(line, "null-netns") || strings.Contains(line, d.instance+"-") {
			counts["mounts"]++
		}
	}
	backing, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, path := range backing {
		if content, err := os.ReadFile(path); err == nil && strings.HasPrefix(string(content), d.disks.Dir) {
			counts["loops"]++
		}
	}
	commands, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range commands {
		if content, err := os.ReadFile(path); err == nil && strings.Contains(string(content), d.instance+"-") {
			counts["processes"]++ // shims too
		}
	}
	return counts
}
