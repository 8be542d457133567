package oci

import (
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
	"github.com/covehq/cove/internal/ordinary"
	"github.com/covehq/cove/runtime/internal/cgroup"
)

// TestConformanceAsAnOrdinaryUser runs the suite for gVisor again in a process without
// privileges.
func TestConformanceAsAnOrdinaryUser(t *testing.T) {
	asOrdinaryUser(t, "TestConformance/gvisor", nil)
}

// TestLimitsHoldInADelegatedCgroup runs the checks of limits as an ordinary user to whom
// cgroups were given.
func TestLimitsHoldInADelegatedCgroup(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give a cgroup to somebody else")
	}
	tree := cgroup.Find("")
	if !tree.Has("memory") || !tree.Has("cpu") || !tree.Has("pids") {
		t.Skip("no controllers are mounted here")
	}
	if tree.Unified {
		t.Skip("the group of these tests has processes of others, so that it can't pass controllers on")
	}
	var groups []string
	for _, controller := range []string{"cpu", "memory", "pids"} {
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
	groups = slices.Compact(groups)
	for run, want := range map[string]string{
		"TestConformance/gvisor/limits": "PASS: TestConformance/gvisor/limits/memory",
		"TestDelegationIsComplete":      "PASS: TestDelegationIsComplete",
	} {
		if output := asOrdinaryUser(t, run, groups); !strings.Contains(output, want) {
			t.Errorf("no %q in the output:\n%s", want, output)
		}
	}
}

// TestDelegationIsComplete is for a process that TestLimitsHoldInADelegatedCgroup starts.
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
func asOrdinaryUser(t *testing.T, run string, groups []string) string {
	t.Helper()
	bin := binaries(t)
	return ordinary.Test(t, ordinary.Options{Run: run, Groups: groups, Programs: map[string]string{
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
