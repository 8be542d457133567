package oci

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/covehq/cove"
	"github.com/covehq/cove/image"
	"github.com/covehq/cove/runtime/internal/bundle"
	"github.com/covehq/cove/runtime/internal/cgroup"
	"github.com/covehq/cove/runtime/internal/process"
	"github.com/covehq/cove/sandbox/driver"
)

func testDriver(t *testing.T, kind kind, cgroups cgroup.Tree) *Driver {
	t.Helper()
	dir := t.TempDir()
	d, err := newDriver(Options{StateDir: filepath.Join(dir, "state"), DataDir: filepath.Join(dir, "data"), Agent: "/opt/agent"}, kind, "test", "test")
	if err != nil {
		t.Fatal(err)
	}
	cgroups.Prefix = d.cgroups.Prefix
	d.cgroups = cgroups
	return d
}

var (
	cgroupV1 = cgroup.Tree{Hierarchies: []cgroup.Hierarchy{{Mount: "/v1/cpu", Controllers: []string{"cpu", "cpuacct"}}, {Mount: "/v1/memory", Controllers: []string{"memory"}}, {Mount: "/v1/pids", Controllers: []string{"pids"}}}}
	cgroupV2 = cgroup.Tree{Unified: true, Hierarchies: []cgroup.Hierarchy{{Mount: "/v2", Controllers: []string{"cpu", "memory", "pids"}}}}
)

func configOf(t *testing.T, d *Driver, change func(*cove.Spec)) *specs.Spec {
	t.Helper()
	spec := cove.Spec{}.WithDefaults()
	if change != nil {
		change(&spec)
	}
	config, err := d.config("x", "/rootfs", []image.Bind{{Source: "/usr", Target: "/usr"}}, nil, &spec)
	if err != nil {
		t.Fatal(err)
	}
	return config
}

func TestTheBundleHoldsEveryControl(t *testing.T) {
	for name, test := range map[string]struct {
		kind    kind
		cgroups cgroup.Tree
	}{
		"gvisor on v1": {kindGvisor, cgroupV1}, "gvisor on v2": {kindGvisor, cgroupV2},
		"linux on v1": {kindLinux, cgroupV1}, "linux on v2": {kindLinux, cgroupV2},
	} {
		t.Run(name, func(t *testing.T) {
			d := testDriver(t, test.kind, test.cgroups)
			config := configOf(t, d, nil)
			var namespaces []string
			for _, ns := range config.Linux.Namespaces {
				if ns.Path != "" {
					t.Errorf("namespace %s joins %s, want a new one", ns.Type, ns.Path)
				}
				namespaces = append(namespaces, string(ns.Type))
			}
			for _, want := range []string{"pid", "network", "ipc", "uts", "mount"} {
				if !slices.Contains(namespaces, want) {
					t.Errorf("namespaces: got %v, want %s", namespaces, want)
				}
			}
			if !config.Process.NoNewPrivileges {
				t.Error("no-new-privileges is not set")
			}
			// Two are for the agent's start alone, which it is told to give away.
			want := append(bundle.Capabilities(d.kernel()), "CAP_NET_ADMIN", "CAP_NET_RAW")
			if got := config.Process.Capabilities; !cmp.Equal(got, &specs.LinuxCapabilities{Bounding: want, Effective: want, Permitted: want}) {
				t.Errorf("capabilities: got %+v, want %v and none of them inheritable", got, want)
			}
			if given := bundle.NetworkVariable + "=NET_ADMIN,NET_RAW"; !slices.Contains(config.Process.Env, given) {
				t.Errorf("the agent's environment: got %v, want %s in it", config.Process.Env, given)
			}
			if len(config.Annotations) > 0 {
				t.Errorf("annotations: got %v, want none", config.Annotations)
			}
			resources := config.Linux.Resources
			if *resources.CPU.Quota != 100_000 || *resources.CPU.Period != 100_000 {
				t.Errorf("cpu: got %d of %d", *resources.CPU.Quota, *resources.CPU.Period)
			}
			memory, pids := int64(cove.DefaultMemory), int64(cove.DefaultPids+bundle.AgentThreads)
			if test.kind == kindGvisor {
				memory, pids = memory+int64(bundle.SentryMemory), 4*cove.DefaultPids+128
			}
			if *resources.Memory.Limit != memory || resources.Pids.Limit != pids {
				t.Errorf("got memory %d and pids %d, want %d and %d", *resources.Memory.Limit, resources.Pids.Limit, memory, pids)
			}
			if grouped := resources.Unified["memory.oom.group"] == "1"; grouped != (test.kind == kindLinux && test.cgroups.Unified) {
				t.Errorf("memory.oom.group: got %v", grouped)
			}
			if (config.Linux.Seccomp != nil) != (test.kind == kindLinux) {
				t.Errorf("seccomp: got %v", config.Linux.Seccomp != nil)
			}
			for _, mount := range config.Mounts {
				if mount.Type == "bind" && !slices.Contains(mount.Options, "ro") {
					t.Errorf("%s is bound writable", mount.Destination)
				}
			}
		})
	}
}

func TestSeccompDoesNotOpenUpForTheAgent(t *testing.T) {
	config := configOf(t, testDriver(t, kindLinux, cgroupV2), nil)
	if config.Linux.Seccomp.DefaultAction != specs.ActErrno {
		t.Errorf("default: got %s, want an error", config.Linux.Seccomp.DefaultAction)
	}
	for _, rule := range config.Linux.Seccomp.Syscalls {
		if rule.Action != specs.ActAllow || len(rule.Args) > 0 {
			continue
		}
		for _, name := range []string{"unshare", "mount", "bpf", "io_uring_setup", "keyctl", "setns", "init_module", "userfaultfd"} {
			if slices.Contains(rule.Names, name) {
				t.Errorf("%s is allowed", name)
			}
		}
	}
}

func TestNothingOfTheCallerReachesTheHelpers(t *testing.T) {
	d := testDriver(t, kindGvisor, cgroupV1)
	config := configOf(t, d, func(s *cove.Spec) {
		s.Env = map[string]string{"TOKEN": "s3cret", "LD_PRELOAD": "/x"}
		s.Labels = map[string]string{"dev.gvisor.flag.host-uds=all": "x", "k": "s3cret"}
		s.Name = "s3cret"
	})
	data, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range []string{"s3cret", "LD_PRELOAD", "host-uds=all"} {
		if strings.Contains(string(data), word) {
			t.Errorf("the bundle holds %q", word)
		}
		if strings.Contains(strings.Join(append(d.globalFlags("x", &cove.Spec{}), bundle.HelperEnv...), " "), word) {
			t.Errorf("a helper is given %q", word)
		}
	}
}

func TestReadOnlyLeavesTmpAndWorkspace(t *testing.T) {
	for _, kind := range []kind{kindGvisor, kindLinux} {
		config := configOf(t, testDriver(t, kind, cgroupV1), func(s *cove.Spec) { s.ReadOnly = true })
		if !config.Root.Readonly {
			t.Error("the root is writable")
		}
		var writable []string
		for _, mount := range config.Mounts {
			if mount.Type == "tmpfs" && !slices.Contains(mount.Options, "ro") {
				writable = append(writable, mount.Destination)
			}
		}
		want := []string{"/.cove", "/dev", "/dev/shm", "/tmp", "/workspace"}
		slices.Sort(writable)
		if !slices.Equal(writable, want) {
			t.Errorf("writable: got %v, want %v", writable, want)
		}
	}
}

func TestVariantsAreNamesOfProgramsAndNothingElse(t *testing.T) {
	for name, test := range map[string]struct {
		open    driver.Opener
		variant string
		ok      bool
	}{
		"gvisor":                     {Gvisor(Options{}), "", true},
		"gvisor with a variant":      {Gvisor(Options{}), "kvm", false},
		"runc":                       {Named(Options{}, "runc"), "", true},
		"runc with a variant":        {Named(Options{}, "runc"), "x", false},
		"another program":            {Any(Options{}), "youki", true},
		"no program":                 {Any(Options{}), "", false},
		"a path":                     {Any(Options{}), "../../bin/sh", false},
		"a flag":                     {Any(Options{}), "-v", false},
		"two words":                  {Any(Options{}), "a b", false},
		"a runsc of unknown version": {Any(Options{}), "runsc", false},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := test.open(test.variant)
			if (err == nil) != test.ok || err != nil && !errors.Is(err, cove.Invalid) {
				t.Errorf("got %v, want ok %v, or invalid", err, test.ok)
			}
		})
	}
}

func TestProbeSaysWhatToDo(t *testing.T) {
	d, err := Any(Options{Agent: "/none"})("no-such-runtime")
	if err != nil {
		t.Fatal(err)
	}
	_, err = d.Probe(context.Background())
	if !errors.Is(err, cove.Unavailable) || cove.HintOf(err) == "" {
		t.Errorf("got %v with hint %q, want unavailable with a hint", err, cove.HintOf(err))
	}
}

func TestHandlesOfOthersAreRefused(t *testing.T) {
	d := testDriver(t, kindLinux, cgroupV1)
	for name, test := range map[string]struct {
		handle string
		want   error
	}{
		"noise":             {"noise", cove.Invalid},
		"another version":   {`{"v":99}`, cove.NotSupported},
		"another boot":      {`{"v":1,"pid":1,"boot":"x"}`, cove.NotFound},
		"a pid of long ago": {`{"v":1,"pid":1,"started":1,"boot":"` + process.BootID() + `"}`, cove.NotFound},
		"no such process":   {`{"v":1,"pid":4194300,"started":1,"boot":"` + process.BootID() + `"}`, cove.NotFound},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := d.Attach(context.Background(), "x", []byte(test.handle)); !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
		})
	}
}

func TestRemoveTakesNothingOfAnotherSandbox(t *testing.T) {
	d := testDriver(t, kindGvisor, cgroup.Tree{})
	for _, name := range []string{"abc.state", "abc_sandbox:abc.state", "abc_sandbox:abc.lock", "runsc-abc.sock", "abcd.state", "runsc-abcd.sock", "null-netns"} {
		if err := os.MkdirAll(d.root(), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(d.root(), name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	for _, path := range d.leftovers("abc") {
		got = append(got, filepath.Base(path))
	}
	if want := []string{"abc.state", "abc_sandbox:abc.lock", "abc_sandbox:abc.state", "runsc-abc.sock"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	for _, id := range []string{"", "../x", "a/b", "A", strings.Repeat("a", 41)} {
		if err := d.Remove(context.Background(), id); !errors.Is(err, cove.Invalid) {
			t.Errorf("Remove(%q): got %v, want invalid", id, err)
		}
	}
}

func TestTheRuntimesLastWordIsFound(t *testing.T) {
	const cause = `{"level":"error","msg":"the cause"}` + "\n"
	noise := strings.Repeat(`{"level":"info","msg":"hello"}`+"\n", 1<<10)
	for name, test := range map[string]struct{ log, want string }{
		"the last error": {`{"level":"error","msg":"an earlier one"}` + "\n" + cause, "the cause"},
		"an error, and not the warning after it": {
			`{"level":"info","msg":"hello"}` + "\nnot json\n" + cause + `{"level":"warning","msg":"later noise"}` + "\n", "the cause"},
		"a warning where there is no error":     {`{"level":"warning","msg":"a hint"}` + "\n", "a hint"},
		"the end of a long log":                 {noise + noise + noise + cause + noise, "the cause"},
		"nothing of what is before that":        {cause + noise + noise + noise, ""},
		"nothing of a line that is cut in two":  {strings.Repeat("x", 64<<10) + cause + strings.Repeat(" ", 64<<10-20), ""},
		"nothing of an empty log":               {"", ""},
		"the first 500 bytes of a long message": {`{"level":"fatal","msg":"` + strings.Repeat("m", 600) + `"}`, strings.Repeat("m", 500)},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "log")
			if err := os.WriteFile(path, []byte(test.log), 0o600); err != nil {
				t.Fatal(err)
			}
			if got := lastMessage(path); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
	if got := lastMessage(filepath.Join(t.TempDir(), "missing")); got != "" {
		t.Errorf("got %q of no log", got)
	}
}

// TestAttachToASandboxThatDiesMeanwhileFindsNone has a runtime program that ends the sandbox
// as it is asked to reach it.
func TestAttachToASandboxThatDiesMeanwhileFindsNone(t *testing.T) {
	for name, test := range map[string]struct {
		program string // told its first process in FIRST
		want    error  // nil: another one
	}{
		"while the program runs":           {"kill -9 FIRST; exit 1", cove.NotFound},
		"before the agent answers":         {"kill -9 FIRST", cove.NotFound},
		"and one that lives is not denied": {"exit 1", nil},
	} {
		t.Run(name, func(t *testing.T) {
			first := exec.CommandContext(t.Context(), "sleep", "600")
			if err := first.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				_ = first.Process.Kill()
				_ = first.Wait()
			})
			held, err := process.Open(first.Process.Pid, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer held.Close()
			d := testDriver(t, kindGvisor, cgroup.Tree{})
			d.binary = filepath.Join(t.TempDir(), "program")
			script := "#!/bin/sh\n" + strings.ReplaceAll(test.program, "FIRST", strconv.Itoa(held.PID)) + "\n"
			if err := os.WriteFile(d.binary, []byte(script), 0o700); err != nil {
				t.Fatal(err)
			}
			known, err := json.Marshal(handle{Version: handleVersion, PID: held.PID, Started: held.Started, Boot: process.BootID()})
			if err != nil {
				t.Fatal(err)
			}
			_, err = d.Attach(t.Context(), "x", known)
			if err == nil || errors.Is(err, cove.NotFound) != (test.want != nil) {
				t.Errorf("got %v, want %v", err, test.want)
			}
		})
	}
}
