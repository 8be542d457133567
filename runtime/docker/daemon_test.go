package docker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/covehq/cove"
	"github.com/covehq/cove/runtime/internal/agent"
	"github.com/covehq/cove/runtime/internal/bundle"
	"github.com/covehq/cove/sandbox/driver"
	"github.com/covehq/cove/sandbox/drivertest"
)

// daemon is an engine of a test's own, to be stopped and killed. Its containerd is a process
// of its own, as where both are services: containers outlive the engine then.
type daemon struct {
	dir        string
	bin        string // where Cove's programs are
	containerd *exec.Cmd
	cmd        *exec.Cmd
	networked  bool // in a network namespace of its own, with which its bridges go
}

// newDaemon starts an engine that knows gVisor. A machine that can't run one skips the test.
func newDaemon(t *testing.T, options ...string) *daemon {
	t.Helper()
	return startDaemon(t, &daemon{}, options...)
}

func startDaemon(t *testing.T, e *daemon, options ...string) *daemon {
	t.Helper()
	e.place(t)
	e.start(t, options...)
	return e
}

// place makes what an engine needs to start.
func (e *daemon) place(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("dockerd"); err != nil || os.Geteuid() != 0 {
		t.Skip("starts an engine: install docker.io, and run as root")
	}
	if testing.Short() {
		t.Skip("starts an engine: run without -short")
	}
	dir, err := os.MkdirTemp("/var/lib", "cove-test-dockerd-") // overlays don't lie on every /tmp
	if err != nil {
		t.Fatal(err)
	}
	e.dir, e.bin = dir, binaries(t)
	if err := os.WriteFile(dir+"/engine.json", []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	change, err := Register(dir+"/engine.json", filepath.Join(e.bin, "cove-runsc"))
	if err != nil {
		t.Fatal(err)
	}
	if err := change.Apply(); err != nil {
		t.Fatal(err)
	}
	config := fmt.Sprintf("version = 2\nroot = %q\nstate = %q\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = %q\n", dir+"/containerd", dir+"/containerd-run", dir+"/containerd.sock")
	if err := os.WriteFile(dir+"/containerd.toml", []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	e.containerd = e.run(t, "containerd", "--config", dir+"/containerd.toml")
	t.Cleanup(func() { e.remove(t) })
}

// mountsBelow returns where something is mounted in a directory, the last one first.
func mountsBelow(dir string) []string {
	content, _ := os.ReadFile("/proc/self/mountinfo")
	var places []string
	for line := range strings.Lines(string(content)) {
		if fields := strings.Fields(line); len(fields) > 4 && strings.HasPrefix(fields[4], dir+"/") {
			places = append(places, fields[4])
		}
	}
	slices.Reverse(places)
	return places
}

func (e *daemon) host() string { return "unix://" + e.dir + "/engine.sock" }

// run starts one of the engine's programs.
func (e *daemon) run(t *testing.T, program string, args ...string) *exec.Cmd {
	t.Helper()
	log, err := os.OpenFile(e.dir+"/log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = log, log, time.Second
	if e.networked {
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd
}

func (e *daemon) start(t *testing.T, options ...string) {
	t.Helper()
	bridge := "--bridge=none"
	if e.networked {
		bridge = "--bridge="
	}
	e.cmd = e.run(t, "dockerd", append([]string{"--config-file", e.dir + "/engine.json", "--data-root", e.dir + "/data", "--exec-root", e.dir + "/run",
		"--containerd", e.dir + "/containerd.sock", "--pidfile", e.dir + "/pid", "--host", e.host(),
		bridge, "--iptables=false", "--ip6tables=false"}, options...)...)
	asks := &engine{host: e.host()}
	for end := time.Now().Add(60 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		err := asks.ping(t.Context())
		if err == nil {
			return
		}
		if time.Now().After(end) {
			said, _ := os.ReadFile(e.dir + "/log")
			t.Fatalf("the engine does not answer: %v\n%s", err, said[max(0, len(said)-2000):])
		}
	}
}

func (e *daemon) signal(t *testing.T, signal syscall.Signal) {
	t.Helper()
	if err := e.cmd.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Fatal(err)
	}
}

// halt makes the engine stand still, and returns when it does.
func (e *daemon) halt(t *testing.T) {
	t.Helper()
	e.signal(t, syscall.SIGSTOP)
	if err := drivertest.AwaitStopped(e.cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
}

func (e *daemon) stop(t *testing.T, signal syscall.Signal) {
	t.Helper()
	e.signal(t, signal)
	_ = e.cmd.Wait()
}

// remove stops the engine and leaves nothing of it, whatever a test that failed has left.
func (e *daemon) remove(t *testing.T) {
	if e.cmd != nil {
		e.signal(t, syscall.SIGCONT)
		asks := &engine{host: e.host()}
		_ = asks.call(context.Background(), func(ctx context.Context, c *client.Client) error {
			found, err := c.ContainerList(ctx, client.ContainerListOptions{All: true})
			for _, left := range found.Items {
				_, err = c.ContainerRemove(ctx, left.ID, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
			}
			return err
		})
		e.stop(t, syscall.SIGTERM)
	}
	_ = e.containerd.Process.Signal(syscall.SIGTERM)
	_ = e.containerd.Wait()
	for _, mounted := range mountsBelow(e.dir) { // an engine leaves its data on itself, and namespaces
		if err := bundle.UnmountAll(mounted); err != nil {
			t.Error(err)
		}
	}
	if err := os.RemoveAll(e.dir); err != nil {
		t.Errorf("an engine's directory stays: %v", err)
	}
}

// restart kills the engine in the middle of whatever it does, and starts it again.
func (e *daemon) restart(t *testing.T, options ...string) {
	t.Helper()
	e.stop(t, syscall.SIGKILL)
	e.start(t, options...)
}

// open opens the driver of a runtime on the engine, as a daemon does that has just started:
// all of one runtime share their state.
func (e *daemon) open(t *testing.T, runtime string) *Driver {
	t.Helper()
	d, err := rig{e.dir + "/cove", e.bin, e.host(), runtime}.open()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// driver is open for an engine that answers.
func (e *daemon) driver(t *testing.T, runtime string) *Driver {
	t.Helper()
	d := e.open(t, runtime)
	if _, err := d.Probe(t.Context()); err != nil {
		t.Fatal(err)
	}
	return d
}

// swept fails the test unless a sweep by a daemon that has just started leaves nothing.
func (e *daemon) swept(t *testing.T, runtimes ...string) {
	t.Helper()
	for _, runtime := range runtimes {
		d := e.driver(t, runtime)
		ids, err := d.List(t.Context())
		if err != nil {
			t.Error(err)
		}
		for _, id := range ids {
			if err := d.Remove(t.Context(), id); err != nil {
				t.Errorf("remove %s: %v", id, err)
			}
		}
		if ids, err := d.List(t.Context()); err != nil || len(ids) > 0 {
			t.Errorf("left of %s: %v, %v; want nothing", runtime, ids, err)
		}
		for what, count := range census(t, d) {
			if count > 0 {
				t.Errorf("%s of %s: %d are left, want none", what, runtime, count)
			}
		}
	}
	// The engine ends a shim after it has said that the container is gone.
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		left := e.shims()
		if len(left) == 0 {
			return
		}
		if time.Now().After(end) {
			t.Errorf("shims: %d are left, want none", len(left))
			return
		}
	}
}

// shims returns the processes by which the engine holds its containers.
func (e *daemon) shims() (pids []string) {
	commands, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range commands {
		content, err := os.ReadFile(path)
		if err == nil && strings.Contains(string(content), "containerd-shim") && strings.Contains(string(content), e.dir) {
			pids = append(pids, filepath.Base(filepath.Dir(path)))
		}
	}
	return pids
}

// spec returns a whole spec.
func spec() *cove.Spec {
	s := cove.Spec{Runtime: "docker"}.WithDefaults()
	return &s
}

// open opens the driver on an engine.
func open(t *testing.T, host string) *Driver {
	t.Helper()
	d, err := rig{t.TempDir(), binaries(t), host, "docker"}.open()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// answers is the error of a sandbox that does not answer.
func answers(ctx context.Context, m driver.Machine) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return agent.Ready(ctx, m.Dial, nil)
}

// anyEngine opens the driver on the first engine of this machine, or skips the test.
func anyEngine(t *testing.T) *Driver {
	t.Helper()
	if testing.Short() {
		t.Skip("boots sandboxes: run without -short")
	}
	d := open(t, engines()[0])
	if _, err := d.Probe(t.Context()); err != nil {
		t.Skipf("%v (%s)", err, cove.HintOf(err))
	}
	return d
}

// bare makes a container past the driver, which is never started.
func bare(t *testing.T, d *Driver, name string, labels map[string]string) string {
	t.Helper()
	f, err := d.facts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	from, err := d.resolve(t.Context(), spec(), f)
	if err != nil {
		t.Fatal(err)
	}
	var made client.ContainerCreateResult
	err = d.engine.call(t.Context(), func(ctx context.Context, c *client.Client) (err error) {
		made, err = c.ContainerCreate(ctx, client.ContainerCreateOptions{Name: name, Config: &container.Config{Image: from.id, Cmd: []string{"/nothing"}, Labels: labels}})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = d.engine.call(context.Background(), func(ctx context.Context, c *client.Client) error {
			_, err := c.ContainerRemove(ctx, made.ID, client.ContainerRemoveOptions{Force: true})
			return err
		})
	})
	return made.ID
}
