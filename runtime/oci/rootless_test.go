package oci

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/guest/dial"
	"github.com/covehq/cove/internal/ordinary"
	"github.com/covehq/cove/runtime/internal/cgroup"
)

// TestConformanceAsAnOrdinaryUser runs the suite for gVisor again in a process without
// privileges, to which cgroups were given, so that every limit can be enforced.
func TestConformanceAsAnOrdinaryUser(t *testing.T) {
	groups, reason := delegate(t)
	if reason != "" {
		t.Log("without delegated cgroups, and so without what needs them:", reason)
		asOrdinaryUser(t, "TestConformance/gvisor", nil, "COVE_REQUIRE=")
		return
	}
	asOrdinaryUser(t, "TestConformance/gvisor", groups)
	if output := asOrdinaryUser(t, "TestDelegationIsComplete", groups); !strings.Contains(output, "PASS: TestDelegationIsComplete") {
		t.Errorf("delegation was not seen:\n%s", output)
	}
}

// delegate gives the ordinary user a group of every controller, or says why it can't.
func delegate(t *testing.T) (groups []string, reason string) {
	if os.Geteuid() != 0 {
		return nil, "only root can give a cgroup to somebody else"
	}
	tree := cgroup.Find("")
	if !tree.Has("memory") || !tree.Has("cpu") || !tree.Has("pids") {
		return nil, "no controllers are mounted here"
	}
	if tree.Unified {
		return nil, "the group of these tests has processes of others, so that it can't pass controllers on"
	}
	for _, controller := range []string{"cpu", "cpuacct", "memory", "pids"} {
		if !tree.Has(controller) {
			continue // what is used can't be told then
		}
		group := filepath.Join(tree.MountOf(controller), fmt.Sprintf("cove-test-%d", os.Getpid()))
		if err := os.MkdirAll(group, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { removeGroups(t, group) })
		for _, path := range []string{group, filepath.Join(group, "cgroup.procs")} {
			if err := os.Chown(path, ordinary.ID, ordinary.ID); err != nil {
				t.Fatal(err)
			}
		}
		groups = append(groups, group)
	}
	slices.Sort(groups)
	return slices.Compact(groups), ""
}

// TestMemoryIsBoundedWithoutACgroup runs TestMemoryIsSampled as a user who has none.
func TestMemoryIsBoundedWithoutACgroup(t *testing.T) {
	output := asOrdinaryUser(t, "TestMemoryIsSampled", nil)
	if !t.Failed() && !strings.Contains(output, "PASS: TestMemoryIsSampled") {
		t.Errorf("it did not run:\n%s", output)
	}
}

// TestMemoryIsSampled is for a process that TestMemoryIsBoundedWithoutACgroup starts.
func TestMemoryIsSampled(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root has a cgroup")
	}
	d, err := rig{Dir: t.TempDir(), Bin: binaries(t), Runtime: "gvisor"}.open()
	if err != nil {
		t.Fatal(err)
	}
	spec := cove.Spec{Runtime: "gvisor", Limits: cove.Limits{Memory: 128 * cove.MiB}}.WithDefaults()
	m, err := d.Create(t.Context(), "greedy", &spec)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Destroy(context.Background())
	client := dial.New(m.Dial)
	defer client.Close()
	// A line without an end, which tail has to keep whole.
	stream, err := client.Start(t.Context(), dial.Start{Argv: []string{"sh", "-c", "head -c 600000000 /dev/zero | tail -n 1 | wc -c; sleep 60"}})
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Second)
	defer cancel()
	exit, err := m.Wait(ctx)
	if err != nil || exit.Reason != cove.ReasonOOM {
		t.Errorf("got %+v, %v, want an end for lack of memory", exit, err)
	}
}

// TestDelegationIsComplete is for a process that TestConformanceAsAnOrdinaryUser starts.
func TestDelegationIsComplete(t *testing.T) {
	tree := cgroup.FindDelegated("cove/test")
	if len(tree.Hierarchies) == 0 {
		t.Skip("nothing is delegated to this process")
	}
	for _, controller := range []string{"cpu", "memory", "pids"} {
		if !tree.Has(controller) {
			t.Errorf("%s is not delegated: %+v", controller, tree.Hierarchies)
		}
	}
}

// removeGroups removes the groups at and below one.
func removeGroups(t *testing.T, group string) {
	var dirs []string
	_ = filepath.WalkDir(group, func(path string, entry os.DirEntry, err error) error {
		if err == nil && entry.IsDir() {
			dirs = append(dirs, path)
		}
		return nil
	})
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		for _, dir := range slices.Backward(dirs) {
			_ = os.Remove(dir)
		}
		if _, err := os.Stat(group); os.IsNotExist(err) {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("%s can't be removed: somebody is in there", group)
			return
		}
	}
}

// asOrdinaryUser runs a test of this program as a user without privileges, in some cgroups,
// and returns what it printed.
func asOrdinaryUser(t *testing.T, run string, groups []string, env ...string) string {
	t.Helper()
	bin := binaries(t)
	return ordinary.Test(t, ordinary.Options{Run: run, Groups: groups, Env: env, Programs: map[string]string{
		"cove-agent": filepath.Join(bin, "cove-agent"), "cove-runsc": filepath.Join(bin, "cove-runsc"),
	}})
}

func TestAnOrdinaryUserIsToldWhatIsDegraded(t *testing.T) {
	d := testDriver(t, kindGvisor, cgroup.Tree{Own: true})
	d.rootless = true
	controls := d.info("1").Controls
	for control, want := range map[cove.Control]cove.Enforcement{
		cove.ControlMemory: cove.Degraded, cove.ControlCPU: cove.Degraded, cove.ControlPids: cove.Enforced, cove.ControlDisk: cove.Enforced, cove.ControlNetwork: cove.Enforced,
	} {
		if controls[control] != want {
			t.Errorf("%s is %s, want %s", control, controls[control], want)
		}
	}
	d.cgroups.Hierarchies = cgroupV2.Hierarchies
	if controls := d.info("1").Controls; controls[cove.ControlMemory] != cove.Enforced || controls[cove.ControlCPU] != cove.Enforced {
		t.Errorf("with a delegated group %v, want all enforced", controls)
	}
}

func TestARefusedUserNamespaceIsExplained(t *testing.T) {
	for name, test := range map[string]struct {
		setting, value string
		err            error
		hint           string
	}{
		"Debian's switch":              {"kernel/unprivileged_userns_clone", "0", syscall.EPERM, "kernel.unprivileged_userns_clone=1"},
		"a limit of zero":              {"user/max_user_namespaces", "0", syscall.ENOSPC, "user.max_user_namespaces=15000"},
		"Ubuntu's AppArmor":            {"kernel/apparmor_restrict_unprivileged_userns", "1", syscall.EACCES, "userns,"},
		"an engine's system call list": {"kernel/unprivileged_userns_clone", "1", syscall.EPERM, "--security-opt"},
	} {
		t.Run(name, func(t *testing.T) {
			sys := t.TempDir()
			path := filepath.Join(sys, test.setting)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(test.value+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
			err := refusal(sys, "gvisor", test.err)
			if !errors.Is(err, cove.Unavailable) || !strings.Contains(cove.HintOf(err), test.hint) {
				t.Errorf("got %v (%s), want a hint with %q", err, cove.HintOf(err), test.hint)
			}
		})
	}
	if err := refusal(t.TempDir(), "gvisor", syscall.ENOENT); err != nil {
		t.Errorf("got %v for a cause that is none of them, want nothing", err)
	}
}
