package containerd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/guest/dial"
	"github.com/covehq/cove/image"
	"github.com/covehq/cove/sandbox/driver"
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
	e.start()
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
	for what, count := range census(t, d) {
		if count > 0 {
			t.Errorf("%s: %d are left, want none", what, count)
		}
	}
	if err := Release(Options{StateDir: filepath.Dir(d.state)}); err != nil {
		t.Error(err)
	}
}

func TestT91SandboxesGoOnWithoutTheEngineAndAcrossItsRestart(t *testing.T) {
	engineProgram(t)
	bin := binaries(t)
	for _, variant := range []string{"", "gvisor", "runc"} {
		t.Run("containerd:"+variant, func(t *testing.T) {
			e := startEngine(t)
			d := e.driver(bin, variant)
			stays, goes := create(t, d, "stays"), create(t, d, "goes")
			e.stop()
			healthy(t, stays, "while the engine is stopped")
			if _, err := d.Probe(t.Context()); !errors.Is(err, cove.Unavailable) || cove.HintOf(err) == "" {
				t.Errorf("Probe: got %v, want unavailable with a hint", err)
			}
			spec := cove.Spec{}.WithDefaults()
			if _, err := d.Create(t.Context(), "never", &spec); !errors.Is(err, cove.Unavailable) {
				t.Errorf("Create: got %v, want unavailable", err)
			}
			if left := d.traces("never"); len(left) > 0 {
				t.Errorf("of a sandbox that was not made there is %v", left)
			}
			if err := goes.Destroy(t.Context()); !errors.Is(err, cove.Unavailable) {
				t.Errorf("Destroy: got %v, want unavailable", err)
			}
			if ids := d.cgroups.List(); slices.Contains(ids, "goes") {
				t.Errorf("groups: got %v, not that of one that was destroyed", ids)
			}
			e.start()
			if err := goes.Destroy(t.Context()); err != nil {
				t.Errorf("Destroy again: %v", err)
			}
			healthy(t, stays, "after the engine's restart")
			again, err := e.driver(bin, variant).Attach(t.Context(), "stays", stays.Handle())
			if err != nil {
				t.Fatal(err)
			}
			healthy(t, again, "attached")
			if err := again.Destroy(t.Context()); err != nil {
				t.Error(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			if _, err := stays.Wait(ctx); err != nil {
				t.Errorf("Wait, from before the restart: %v", err)
			}
			if err := stays.Destroy(t.Context()); err != nil {
				t.Error(err)
			}
			swept(t, d)
		})
	}
}

func TestT91AnEngineThatHangsIsNotWaitedForLong(t *testing.T) {
	e := startEngine(t)
	d := e.driver(binaries(t), "")
	m := create(t, d, "before")
	e.signal(syscall.SIGSTOP)
	spec := cove.Spec{}.WithDefaults()
	before := runtime.NumGoroutine()
	var group sync.WaitGroup
	for i := range 10 {
		group.Go(func() {
			if _, err := d.Create(t.Context(), fmt.Sprintf("hang%d", i), &spec); !errors.Is(err, cove.Unavailable) {
				t.Errorf("Create: got %v, want unavailable", err)
			}
		})
	}
	healthy(t, m, "while the engine hangs")
	group.Wait()
	if after := runtime.NumGoroutine(); after > before+5 {
		t.Errorf("goroutines: got %d after ten calls, want the %d of before", after, before)
	}
	e.signal(syscall.SIGCONT)
	create(t, d, "after")
	swept(t, d)
}

func TestT91ARestartInTheMiddleLeavesNothing(t *testing.T) {
	e := startEngine(t)
	d := e.driver(binaries(t), "")
	for round := range 3 {
		var group sync.WaitGroup
		begun := make(chan struct{}, 4)
		for i := range cap(begun) {
			group.Go(func() {
				spec := cove.Spec{}.WithDefaults()
				begun <- struct{}{}
				m, err := d.Create(t.Context(), fmt.Sprintf("r%dn%d", round, i), &spec)
				if err == nil {
					_ = m.Destroy(t.Context()) // what it leaves is the sweep's
				}
			})
		}
		for range cap(begun) {
			<-begun
		}
		time.Sleep(time.Duration(50*(round+1)) * time.Millisecond) // into another part of the work each time
		e.stop()
		e.start()
		group.Wait()
	}
	swept(t, d)
}

// TestT91AContainerRemovedByHandIsASandboxThatEnded has somebody else delete the container.
func TestT91AContainerRemovedByHandIsASandboxThatEnded(t *testing.T) {
	e := startEngine(t)
	for _, variant := range []string{"", "runc"} {
		t.Run("containerd:"+variant, func(t *testing.T) {
			d := e.driver(binaries(t), variant)
			m := create(t, d, "abc")
			if err := d.removeTask(t.Context(), "abc"); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			if exit, err := m.Wait(ctx); err != nil || exit.Reason != cove.ReasonKilled {
				t.Errorf("Wait: got %+v, %v, want killed", exit, err)
			}
			if err := m.Destroy(t.Context()); err != nil {
				t.Error(err)
			}
			swept(t, d)
		})
	}
}
