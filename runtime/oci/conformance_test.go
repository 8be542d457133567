package oci

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/image"
	"github.com/covehq/cove/sandbox/conformance"
	"github.com/covehq/cove/sandbox/driver"
	"github.com/covehq/cove/sandbox/drivertest"
)

// TestMain is also the process that the crash checks kill: with crashEnv set the binary
// creates one sandbox, prints its handle and waits to be killed.
func TestMain(m *testing.M) {
	Stage()
	if order := os.Getenv(crashEnv); order != "" {
		if err := createAndWait([]byte(order)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	if err := AdoptOrphans(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

const crashEnv = "COVE_TEST_CRASH"

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
				Crash:     r.crash,
				StateDirs: []string{r.Dir},
				Census:    func() map[string]int { return census(d.(*Driver)) },
				Shared:    new(conformance.Shared),
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

// census counts what sandboxes of this driver have on the host.
func census(d *Driver) map[string]int {
	counts := map[string]int{"cgroups": 0, "files": 0, "mounts": 0, "loops": 0, "processes": 0}
	for _, h := range d.cgroups.Hierarchies {
		groups, _ := os.ReadDir(filepath.Join(h.Mount, d.cgroups.Prefix))
		for _, group := range groups {
			if group.IsDir() {
				counts["cgroups"]++
			}
		}
	}
	for _, dir := range []string{filepath.Join(d.state, "bundles"), d.data, d.root()} {
		entries, _ := os.ReadDir(dir)
		for _, entry := range entries {
			if entry.Name() != "null-netns" { // gVisor's, one for all sandboxes
				counts["files"]++
			}
		}
	}
	for _, mount := range mountsBelow(d.state) {
		if filepath.Base(mount) != "null-netns" {
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
		if content, err := os.ReadFile(path); err == nil && strings.Contains(string(content), d.state) {
			counts["processes"]++
		}
	}
	return counts
}

// crashOrder is what the process that will crash is to create.
type crashOrder struct {
	Rig  rig
	ID   string
	Spec cove.Spec
}

// crash creates a sandbox in another process and kills that.
func (r rig) crash(ctx context.Context, id string, spec *cove.Spec, after time.Duration) ([]byte, error) {
	order, err := json.Marshal(crashOrder{r, id, *spec})
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self)
	cmd.Env, cmd.WaitDelay = append(os.Environ(), crashEnv+"="+string(order)), time.Second
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	var complaint strings.Builder
	cmd.Stderr = &complaint
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	kill := sync.OnceFunc(func() { _ = cmd.Process.Kill() })
	lines := bufio.NewReader(stdout)
	if _, err := lines.ReadString('\n'); err != nil { // "creating"
		kill()
		return nil, fmt.Errorf("%w: %w: %s", err, cmd.Wait(), complaint.String())
	}
	if after >= 0 {
		timer := time.AfterFunc(after, kill)
		defer timer.Stop()
	}
	line, err := lines.ReadBytes('\n')
	kill()
	_, _ = io.Copy(io.Discard, lines)
	_ = cmd.Wait()
	if err != nil && after < 0 {
		return nil, fmt.Errorf("%w: %s", err, complaint.String())
	}
	return []byte(strings.TrimSpace(string(line))), nil
}

// createAndWait is the life of the process that crashes.
func createAndWait(data []byte) error {
	var order crashOrder
	if err := json.Unmarshal(data, &order); err != nil {
		return err
	}
	d, err := order.Rig.open()
	if err != nil {
		return err
	}
	fmt.Println("creating")
	m, err := d.Create(context.Background(), order.ID, &order.Spec)
	if err != nil {
		return err
	}
	fmt.Println(string(m.Handle()))
	time.Sleep(time.Minute) // killed before
	return nil
}
