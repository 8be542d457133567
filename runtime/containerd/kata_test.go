package containerd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	containers "github.com/containerd/containerd/api/services/containers/v1"
	"github.com/containerd/typeurl/v2"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/covehq/cove"
	"github.com/covehq/cove/guest/dial"
	"github.com/covehq/cove/image"
	"github.com/covehq/cove/runtime/internal/bundle"
	"github.com/covehq/cove/sandbox/driver"
)

// kataDriver is a driver of Kata's before an engine that isn't one.
func kataDriver(t *testing.T, e *fakeEngine) *Driver {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounts a sandbox's root: run as root")
	}
	dir := t.TempDir()
	images, err := image.Open(filepath.Join(dir, "images"))
	if err != nil {
		t.Fatal(err)
	}
	opened, err := Kata(Options{
		Address: e.address, StateDir: filepath.Join(dir, "state"), DataDir: filepath.Join(dir, "data"), Images: images, Agent: "/opt/agent",
	})("")
	if err != nil {
		t.Fatal(err)
	}
	return opened.(*Driver)
}

func boot(t *testing.T, d *Driver, spec cove.Spec) driver.Machine {
	t.Helper()
	spec.Image = "rootfs:" + t.TempDir()
	spec = spec.WithDefaults()
	spec.Limits.Disk = 4 * cove.MiB
	m, err := d.Create(t.Context(), "abc", &spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Destroy(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return m
}

func TestKataIsToldAllOfASandbox(t *testing.T) {
	e := newFakeEngine(t)
	d := kataDriver(t, e)
	boot(t, d, cove.Spec{Limits: cove.Limits{CPUs: 1.5, Memory: 256 * cove.MiB, Pids: 100}})
	record, task := e.only(t)
	if record.Runtime.GetName() != "io.containerd.kata.v2" || record.Runtime.GetOptions() != nil || task.request.Options != nil {
		t.Errorf("runtime: got %v with %v", record.Runtime, task.request.Options)
	}
	if record.Labels[instanceLabel] != d.instance || record.Labels[idLabel] != "abc" || record.Snapshotter != "" || record.Image != "" {
		t.Errorf("record: got %v, %q, %q", record.Labels, record.Snapshotter, record.Image)
	}
	if rootfs := task.request.Rootfs; len(rootfs) != 1 || rootfs[0].Type != "bind" || rootfs[0].Source != bundle.RootDir(d.bundle("abc")) {
		t.Errorf("rootfs: got %v", rootfs)
	}
	config := specOf(t, record)
	if config.Root.Path != "rootfs" || len(config.Annotations) > 0 {
		t.Errorf("root %q, annotations %v", config.Root.Path, config.Annotations)
	}
	if got := config.Process.Capabilities.Bounding; !slices.Contains(got, "CAP_MKNOD") || slices.Contains(got, "CAP_SYS_ADMIN") {
		t.Errorf("capabilities of root on a kernel of its own: got %v", got)
	}
	// The kernel inside enforces these, whatever the host's controllers are.
	resources := config.Linux.Resources
	if resources.CPU == nil || *resources.CPU.Quota != 150_000 || resources.Memory == nil || *resources.Memory.Limit != 256<<20 ||
		resources.Pids == nil || resources.Pids.Limit != 100+bundle.AgentThreads {
		t.Errorf("resources: got %+v", resources)
	}
	for _, mount := range config.Mounts {
		if mount.Type == "bind" && !slices.Contains(mount.Options, "ro") {
			t.Errorf("%s is bound writable", mount.Destination)
		}
	}
}

func specOf(t *testing.T, record *containers.Container) *specs.Spec {
	t.Helper()
	var config specs.Spec
	if err := typeurl.UnmarshalTo(record.Spec, &config); err != nil {
		t.Fatal(err)
	}
	return &config
}

func TestKatasAgentIsReachedByStreamsAndAfterARestartByAnother(t *testing.T) {
	e := newFakeEngine(t)
	d := kataDriver(t, e)
	m := boot(t, d, cove.Spec{})
	for range 3 { // over one carrier
		if err := dial.New(m.Dial).Health(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	_, task := e.only(t)
	if len(task.execs) != 0 {
		t.Errorf("processes to connect by: got %d, want none as long as the first one's streams work", len(task.execs))
	}
	again, err := d.Attach(t.Context(), "abc", m.Handle())
	if err != nil {
		t.Fatal(err)
	}
	if err := dial.New(again.Dial).Health(t.Context()); err != nil {
		t.Error(err)
	}
	if len(task.execs) != 1 {
		t.Errorf("processes to connect by, after an attach: got %d, want 1", len(task.execs))
	}
	task.stop() // as a crash of the virtual machine
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	for _, machine := range []driver.Machine{m, again} {
		exit, err := machine.Wait(ctx)
		if err != nil || exit.Reason != cove.ReasonKilled {
			t.Errorf("Wait: got %+v, %v, want killed", exit, err)
		}
		if _, err := machine.Dial(ctx); !errors.Is(err, cove.Gone) {
			t.Errorf("Dial: got %v, want gone", err)
		}
	}
	if _, err := d.Attach(ctx, "abc", m.Handle()); !errors.Is(err, cove.NotFound) {
		t.Errorf("Attach to a dead one: got %v, want not found", err)
	}
	if err := again.Destroy(ctx); err != nil || !e.empty() {
		t.Errorf("Destroy: %v, and the engine is empty: %v", err, e.empty())
	}
}

func TestAttachToASandboxThatDiesMeanwhileFindsNone(t *testing.T) {
	refused := status.Error(codes.Unknown, "no process was added")
	for name, test := range map[string]struct {
		onExec func(*fakeMachine) error
		none   bool // cove.NotFound is the answer
	}{
		"before its engine adds a process":  {func(m *fakeMachine) error { m.stop(); return refused }, true},
		"as its engine has added a process": {func(m *fakeMachine) error { m.stop(); return nil }, true},
		"and one that lives is not denied":  {func(*fakeMachine) error { return refused }, false},
	} {
		t.Run(name, func(t *testing.T) {
			e := newFakeEngine(t)
			d := kataDriver(t, e)
			m := boot(t, d, cove.Spec{})
			e.onExec = test.onExec
			again, err := d.Attach(t.Context(), "abc", m.Handle())
			if err == nil || errors.Is(err, cove.NotFound) != test.none {
				t.Errorf("got %v, %v, want not found: %v", again, err, test.none)
			}
		})
	}
}

// TestT08ForeignContainersAreNeverTouched gives a container the name of a sandbox.
func TestT08ForeignContainersAreNeverTouched(t *testing.T) {
	e := newFakeEngine(t)
	d := kataDriver(t, e)
	for name, labels := range map[string]map[string]string{
		"somebody's own":          nil,
		"of another daemon":       {instanceLabel: "ffffffff", idLabel: "abc"},
		"of another sandbox":      {instanceLabel: d.instance, idLabel: "other"},
		"of one without the name": {idLabel: "abc"},
	} {
		t.Run(name, func(t *testing.T) {
			e.mu.Lock()
			e.records[d.container("abc")] = &containers.Container{ID: d.container("abc"), Labels: labels, Runtime: &containers.Container_Runtime{Name: "x"}}
			e.mu.Unlock()
			if ids, err := d.List(t.Context()); err != nil || len(ids) > 0 {
				t.Errorf("List: got %v, %v, want nothing", ids, err)
			}
			if err := d.Remove(t.Context(), "abc"); !errors.Is(err, cove.Conflict) {
				t.Errorf("Remove: got %v, want a conflict", err)
			}
			if e.empty() {
				t.Error("the container is gone")
			}
		})
	}
}

// TestAProcessThatIsNotTheSandboxesIsNeverKilled has an engine in another PID namespace: its
// numbers are those of other processes here, as this test's.
func TestAProcessThatIsNotTheSandboxesIsNeverKilled(t *testing.T) {
	e := newFakeEngine(t)
	d := kataDriver(t, e)
	d.variant = runc
	spec := cove.Spec{Image: "rootfs:" + t.TempDir()}.WithDefaults()
	spec.Limits.Disk = 4 * cove.MiB
	if _, err := d.Create(t.Context(), "abc", &spec); !errors.Is(err, cove.Unavailable) || cove.HintOf(err) == "" {
		t.Errorf("Create: got %v, want unavailable with a hint", err)
	}
	if !e.empty() {
		t.Error("the engine still has it")
	}
}

func TestAnEnginesLongErrorIsShortened(t *testing.T) {
	err := brief(errors.New(strings.Repeat("x", 10_000) + " the cause"))
	if text := err.Error(); len(text) > longestText+10 || !strings.HasSuffix(text, " the cause") {
		t.Errorf("got %d bytes: %.20s", len(text), text)
	}
}

// TestT87LeakedContainersOfAKilledDaemonAreSweptByTheirLabel has an engine full of them,
// and of others'.
func TestT87LeakedContainersOfAKilledDaemonAreSweptByTheirLabel(t *testing.T) {
	e := newFakeEngine(t)
	d := kataDriver(t, e)
	const leaked, foreign = 300, 30
	for i := range leaked + foreign {
		id := fmt.Sprintf("leak%d", i)
		record := &containers.Container{ID: d.container(id), Labels: d.labelsOf(id), Runtime: &containers.Container_Runtime{Name: "x"}}
		if i >= leaked {
			record.ID, record.Labels = id, map[string]string{"app": "theirs"}
		}
		e.records[record.ID] = record
		e.machines[record.ID] = &fakeMachine{ended: make(chan struct{})}
	}
	ids, err := d.List(t.Context())
	if err != nil || len(ids) != leaked {
		t.Fatalf("List: got %d, %v, want the %d of this daemon", len(ids), err, leaked)
	}
	var group sync.WaitGroup
	for _, id := range ids {
		group.Go(func() {
			if err := d.Remove(t.Context(), id); err != nil {
				t.Errorf("remove %s: %v", id, err)
			}
		})
	}
	group.Wait()
	if ids, err := d.List(t.Context()); err != nil || len(ids) > 0 {
		t.Errorf("List: got %v, %v, want nothing", ids, err)
	}
	if len(e.records) != foreign || len(e.machines) != foreign {
		t.Errorf("of somebody else's %d containers %d are left, and %d tasks", foreign, len(e.records), len(e.machines))
	}
}
