package containerd

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/guest/dial"
	"github.com/covehq/cove/image"
	"github.com/covehq/cove/sandbox/driver"
	"github.com/covehq/cove/sandbox/drivertest"
)

// realEngine is a containerd of the test's own, to be stopped and started.
type realEngine struct {
	t       *testing.T
	dir     string
	program string
	cmd     *exec.Cmd
}

// engineProgram returns the containerd on PATH.
func engineProgram(t *testing.T) string {
	t.Helper()
	program, err := exec.LookPath("containerd")
	if testing.Short() || os.Geteuid() != 0 || err != nil {
		t.Skip("starts containerd: needs root and containerd on PATH, and no -short")
	}
	return program
}

// startEngine starts it.
func startEngine(t *testing.T) *realEngine {
	t.Helper()
	e := placeEngine(t)
	e.start()
	return e
}

// placeEngine makes what it needs to start.
func placeEngine(t *testing.T) *realEngine {
	t.Helper()
	program := engineProgram(t)
	dir, err := os.MkdirTemp("", "ctd") // short: a socket's path has 108 bytes
	if err != nil {
		t.Fatal(err)
	}
	config := fmt.Sprintf("version = 2\nroot = %q\nstate = %q\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = %q\n[ttrpc]\naddress = %q\n",
		filepath.Join(dir, "root"), filepath.Join(dir, "state"), filepath.Join(dir, "sock"), filepath.Join(dir, "sock.ttrpc"))
	if err := os.WriteFile(filepath.Join(dir, "config.toml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	e := &realEngine{t: t, dir: dir, program: program}
	t.Cleanup(func() {
		e.stop()
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return e
}

func (e *realEngine) address() string { return filepath.Join(e.dir, "sock") }

func (e *realEngine) start() {
	e.t.Helper()
	log, err := os.OpenFile(filepath.Join(e.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		e.t.Fatal(err)
	}
	defer log.Close()
	e.cmd = exec.Command(e.program, "--config", filepath.Join(e.dir, "config.toml"))
	e.cmd.Stdout, e.cmd.Stderr, e.cmd.SysProcAttr = log, log, &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	if err := e.cmd.Start(); err != nil {
		e.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for probe := newEngine(e.address()); ctx.Err() == nil; time.Sleep(20 * time.Millisecond) {
		if probe.ping(ctx) == nil {
			return
		}
	}
	said, _ := os.ReadFile(log.Name())
	e.t.Fatalf("containerd does not come up:\n%s", said[max(0, len(said)-2000):])
}

func (e *realEngine) stop() {
	if e.cmd != nil {
		e.signal(syscall.SIGCONT)
		e.signal(syscall.SIGTERM)
		_ = e.cmd.Wait()
		e.cmd = nil
	}
}

// kill ends it in the middle of whatever it does.
func (e *realEngine) kill() {
	e.signal(syscall.SIGKILL)
	_ = e.cmd.Wait()
	e.cmd = nil
}

// halt makes it stand still, and returns when it does.
func (e *realEngine) halt() {
	e.t.Helper()
	e.signal(syscall.SIGSTOP)
	if err := drivertest.AwaitStopped(e.cmd.Process.Pid); err != nil {
		e.t.Fatal(err)
	}
}

func (e *realEngine) signal(s syscall.Signal) { _ = e.cmd.Process.Signal(s) }

// driver opens a driver on the engine, or another one on the same state.
func (e *realEngine) driver(bin, variant string) *Driver {
	e.t.Helper()
	images, err := image.Open(filepath.Join(e.dir, "images"))
	if err != nil {
		e.t.Fatal(err)
	}
	opened, err := Open(Options{
		Address: e.address(), StateDir: filepath.Join(e.dir, "cove"), DataDir: filepath.Join(e.dir, "data"), Images: images,
		Agent: filepath.Join(bin, "cove-agent"), Runsc: filepath.Join(bin, "cove-runsc"),
	})(variant)
	if err != nil {
		e.t.Fatal(err)
	}
	d := opened.(*Driver)
	if _, err := d.Probe(e.t.Context()); err != nil {
		e.t.Skipf("probe says: %v", err)
	}
	return d
}

func create(t *testing.T, d *Driver, id string) driver.Machine {
	t.Helper()
	spec := cove.Spec{}.WithDefaults()
	m, err := d.Create(t.Context(), id, &spec)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func healthy(t *testing.T, m driver.Machine, when string) {
	t.Helper()
	if err := dial.New(m.Dial).Health(t.Context()); err != nil {
		t.Errorf("the sandbox, %s: %v, want it to answer", when, err)
	}
}

// swept fails the test unless a sweep leaves nothing.
func swept(t *testing.T, d *Driver) {
	t.Helper()
	ids, err := d.List(t.Context())
	if err != nil {
		t.Error(err)
	}
	for _, id := range ids {
		if err := d.Remove(t.Context(), id); err != nil {
			t.Errorf("remove %s: %v", id, err)
		}
	}
	left := census(t, d)
	// An engine that finds a shim dead clears up after it, by a process of its own.
	some := func(count int) bool { return count > 0 }
	for end := time.Now().Add(10 * time.Second); slices.ContainsFunc(slices.Collect(maps.Values(left)), some) && time.Now().Before(end); left = census(t, d) {
		time.Sleep(20 * time.Millisecond)
	}
	for what, count := range left {
		if count > 0 {
			t.Errorf("%s: %d are left, want none", what, count)
		}
	}
	if err := Release(Options{StateDir: filepath.Dir(d.state)}); err != nil {
		t.Error(err)
	}
}
