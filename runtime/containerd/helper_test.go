package containerd

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	containers "github.com/containerd/containerd/api/services/containers/v1"
	"golang.org/x/sys/unix"

	"github.com/covehq/cove/runtime/internal/process"
)

func TestHelpersAreToldByTheirArguments(t *testing.T) {
	for name, test := range map[string]struct{ line, want string }{
		"a shim":                           {"/x/containerd-shim-runc-v2 -namespace cove -id 0a-x -address /run/c.sock", "0a-x"},
		"a shim that is started":           {"containerd-shim-runc-v2 -namespace cove -address /run/c.sock -id 0a-x start", "0a-x"},
		"runc":                             {"runc --root /run/containerd/runc/cove create --bundle /run/c/io.containerd.runtime.v2.task/cove/0a-x --pid-file p 0a-x", "0a-x"},
		"gVisor, in one word":              {"runsc-sandbox --root=/r boot --bundle=/run/c/io.containerd.runtime.v2.task/cove/0a-x 0a-x", "0a-x"},
		"a shim of somebody else's":        {"containerd-shim-runc-v2 -namespace k8s.io -id 0a-x -address /run/c.sock", ""},
		"runc of somebody else's":          {"runc create --bundle /run/c/io.containerd.runtime.v2.task/k8s.io/0a-x 0a-x", ""},
		"a command that names a container": {"tail -f /var/log/cove/0a-x", ""},
		"a flag without its value":         {"containerd-shim-runc-v2 -namespace cove -id", ""},
		"nothing, as a zombie has":         {"", ""},
	} {
		t.Run(name, func(t *testing.T) {
			if got := helperOf(strings.Split(test.line, " ")); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

// pose runs a process that has the arguments of a helper of a container, until it is killed.
func pose(t *testing.T, container string) *process.Process {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sh", "-c", "read line", "shim", "-namespace", namespace, "-id", container)
	stdin, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	p, err := process.Open(cmd.Process.Pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait()
	}()
	t.Cleanup(func() {
		stdin.Close()
		<-ended
		p.Close()
	})
	return p
}

// TestT91WhatTheEngineGoesOnWithForADeadCallerIsEnded has an engine that knows a container
// and no task yet, whose shims come one after another.
func TestT91WhatTheEngineGoesOnWithForADeadCallerIsEnded(t *testing.T) {
	e := newFakeEngine(t)
	d := kataDriver(t, e)
	name := d.container("abc")
	e.records[name] = &containers.Container{ID: name, Labels: d.labelsOf("abc"), Runtime: &containers.Container_Runtime{Name: "x"}}
	shims, foreign := []*process.Process{pose(t, name)}, pose(t, "ffffffff-abc")
	looks := 0
	e.onGet = func() {
		if looks++; looks == 3 || looks == 6 {
			shims = append(shims, pose(t, name))
		}
	}
	if err := d.Remove(t.Context(), "abc"); err != nil {
		t.Fatal(err)
	}
	if looks < 6 || !e.empty() {
		t.Errorf("the engine was asked %d times, and has nothing: %v; want 6 and more, and nothing", looks, e.empty())
	}
	for i, shim := range shims {
		if shim.Alive() {
			t.Errorf("shim %d lives", i)
		}
	}
	if !foreign.Alive() {
		t.Error("another daemon's was ended")
	}
}

func TestT91AShimWithoutAContainerIsListedAndRemoved(t *testing.T) {
	e := newFakeEngine(t)
	d := kataDriver(t, e)
	shim := pose(t, d.container("abc"))
	pose(t, "ffffffff-other")
	ids, err := d.List(t.Context())
	if err != nil || !slices.Equal(ids, []string{"abc"}) {
		t.Errorf("List: got %v, %v, want the one", ids, err)
	}
	if err := d.Remove(t.Context(), "abc"); err != nil || shim.Alive() {
		t.Errorf("Remove: %v, and it lives: %v", err, shim.Alive())
	}
	if ids, err := d.List(t.Context()); err != nil || len(ids) > 0 {
		t.Errorf("List: got %v, %v, want nothing", ids, err)
	}
	if err := errors.Join(d.Remove(t.Context(), "abc"), t.Context().Err()); err != nil {
		t.Errorf("Remove again: %v", err)
	}
}

// TestT91WhatRuncLeavesIsCleared has runc's directory of a container over which it was killed,
// with the program itself mounted in it, as runc 1.1 has.
func TestT91WhatRuncLeavesIsCleared(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounts: run as root")
	}
	e := newFakeEngine(t)
	d := kataDriver(t, e)
	d.variant, d.runcRoot = runc, t.TempDir()
	program := filepath.Join(t.TempDir(), "runc")
	ours, theirs := filepath.Join(d.runcRoot, namespace, d.container("abc")), filepath.Join(d.runcRoot, namespace, "ffffffff-abc")
	mounted := filepath.Join(ours, "runc.C1GcNm")
	for _, file := range []string{program, mounted, filepath.Join(theirs, "state.json")} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, []byte("x"), 0o700)); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mount(program, mounted, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	if err := d.Remove(t.Context(), "abc"); err != nil {
		t.Error(err)
		_ = unix.Unmount(mounted, unix.MNT_DETACH)
	}
	if _, err := os.Lstat(ours); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("runc's directory of the container: got %v, want none", err)
	}
	for _, file := range []string{program, filepath.Join(theirs, "state.json")} {
		if _, err := os.Lstat(file); err != nil {
			t.Errorf("what is not the container's: %v", err)
		}
	}
}
