package containerd

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/covehq/cove"
	"github.com/covehq/cove/runtime/internal/bundle"
	"github.com/covehq/cove/runtime/internal/process"
)

func TestVariantsAreData(t *testing.T) {
	for name, test := range map[string]struct {
		variant string
		want    variant
		program string
	}{
		"the engine's runc":                      {"", runc, "containerd-shim-runc-v2"},
		"gVisor, by the same shim":               {"gvisor", gvisor, "containerd-shim-runc-v2"},
		"Kata":                                   {"kata", kata("io.containerd.kata.v2"), "containerd-shim-kata-v2"},
		"another configuration of Kata's":        {"kata-fc", kata("io.containerd.kata-fc.v2"), "containerd-shim-kata-fc-v2"},
		"a shim of which nothing is known":       {"youki", variant{"io.containerd.youki.v2", bundle.SharedKernel, cove.IsolationSharedKernel, byStdio}, "containerd-shim-youki-v2"},
		"a shim of an earlier interface":         {"wasmtime.v1", variant{"io.containerd.wasmtime.v1", bundle.SharedKernel, cove.IsolationSharedKernel, byStdio}, "containerd-shim-wasmtime-v1"},
		"a name that begins as Kata's and isn't": {"katana", variant{"io.containerd.katana.v2", bundle.SharedKernel, cove.IsolationSharedKernel, byStdio}, "containerd-shim-katana-v2"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := variantOf(test.variant)
			if err != nil || got != test.want {
				t.Errorf("got %+v, %v, want %+v", got, err, test.want)
			}
			if got.shimProgram() != test.program {
				t.Errorf("program: got %s, want %s", got.shimProgram(), test.program)
			}
		})
	}
}

func TestT53NamesThatAreNoShimsAreRefused(t *testing.T) {
	for _, name := range []string{"../../bin/sh", "/usr/bin/x", "-v", "a b", "runsc", "runsc.v1", "X", "a.v9", "a.b.v2", strings.Repeat("a", 80)} {
		if _, err := Open(Options{})(name); !errors.Is(err, cove.Invalid) || cove.HintOf(err) == "" {
			t.Errorf("%q: got %v, want invalid with a hint", name, err)
		}
	}
	if _, err := Kata(Options{})("fc"); !errors.Is(err, cove.Invalid) {
		t.Errorf("kata:fc: got %v, want invalid", err)
	}
}

// testDriver opens a driver on an address where nothing listens, or on one that does.
func testDriver(t *testing.T, name, address string) *Driver {
	t.Helper()
	dir := t.TempDir()
	if address == "" {
		address = filepath.Join(dir, "none.sock")
	}
	v, err := variantOf(name)
	if err != nil {
		t.Fatal(err)
	}
	d, err := newDriver(Options{
		Address: address, StateDir: filepath.Join(dir, "state"), DataDir: filepath.Join(dir, "data"),
		Agent: "/opt/agent", Runsc: "/opt/it's runsc",
	}, "containerd:"+name, v)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestHandlesOfOthersAreRefused(t *testing.T) {
	d := testDriver(t, "gvisor", "")
	for name, test := range map[string]struct {
		handle string
		want   error
	}{
		"noise":             {"noise", cove.Invalid},
		"another version":   {`{"v":99}`, cove.NotSupported},
		"another boot":      {`{"v":1,"pid":1,"boot":"x"}`, cove.NotFound},
		"a pid of long ago": {`{"v":1,"pid":1,"started":1,"boot":"` + process.BootID() + `"}`, cove.NotFound},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := d.Attach(t.Context(), "x", []byte(test.handle)); !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
		})
	}
}

func TestWithoutAnEngineThereIsNothingToSweep(t *testing.T) {
	d := testDriver(t, "", "")
	if ids, err := d.List(t.Context()); err != nil || len(ids) > 0 {
		t.Errorf("List: got %v, %v, want nothing", ids, err)
	}
	if err := d.Remove(t.Context(), "abc"); err != nil {
		t.Errorf("Remove: got %v, want nil", err)
	}
	if _, err := d.Probe(t.Context()); !errors.Is(err, cove.Unavailable) || cove.HintOf(err) == "" {
		t.Errorf("Probe: got %v, want unavailable with a hint", err)
	}
	// What a sandbox has left on the host is not forgotten for want of an engine.
	if err := os.MkdirAll(d.bundle("abc"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := d.List(t.Context()); !errors.Is(err, cove.Unavailable) {
		t.Errorf("List with a bundle: got %v, want unavailable", err)
	}
	if err := d.Remove(t.Context(), "abc"); !errors.Is(err, cove.Unavailable) {
		t.Errorf("Remove with a bundle: got %v, want unavailable", err)
	}
}

func TestGvisorsFlagsAreTheSandboxesOwn(t *testing.T) {
	d := testDriver(t, "gvisor", "")
	if err := os.MkdirAll(d.data, 0o700); err != nil {
		t.Fatal(err)
	}
	spec := cove.Spec{}.WithDefaults()
	if err := d.makeDisk("abc", &spec); err != nil {
		t.Fatal(err)
	}
	script, err := os.ReadFile(d.wrapper("abc"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`exec '/opt/it'\''s runsc' `, "'--network=none'", "'--allow-flag-override=false'", "size=2147483648'", ` "$@"`} {
		if !strings.Contains(string(script), want) {
			t.Errorf("the script lacks %s:\n%s", want, script)
		}
	}
	options := d.shimOptions("abc")
	if options.GetBinaryName() != d.wrapper("abc") || options.GetRoot() != d.runscRoot() {
		t.Errorf("the shim is told %v", options)
	}
}

// TestT08AndT18NothingOfTheCallerReachesTheEngine looks at all that the engine is given.
func TestT08AndT18NothingOfTheCallerReachesTheEngine(t *testing.T) {
	for _, name := range []string{"", "gvisor", "kata", "youki"} {
		d := testDriver(t, name, "")
		spec := cove.Spec{
			Name: "s3cret", Env: map[string]string{"TOKEN": "s3cret"}, Labels: map[string]string{"io.katacontainers.config.hypervisor.path": "s3cret"},
		}.WithDefaults()
		config, err := d.template().Config("rootfs", d.cgroups.Path("abc"), nil, &spec)
		if err != nil {
			t.Fatal(err)
		}
		record, err := d.record("abc", config)
		if err != nil {
			t.Fatal(err)
		}
		data, err := json.Marshal(record)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(data)+string(record.Spec.GetValue()), "s3cret") || len(config.Annotations) > 0 {
			t.Errorf("%q: the engine is told more than it needs:\n%s", name, record.Spec.GetValue())
		}
		if !config.Process.NoNewPrivileges {
			t.Errorf("%q: no-new-privileges is not set", name)
		}
		// Two are for the agent's start alone, which it is told to give away.
		want := append(bundle.Capabilities(d.variant.kernel), "CAP_NET_ADMIN", "CAP_NET_RAW")
		if got := config.Process.Capabilities; !cmp.Equal(got, &specs.LinuxCapabilities{Bounding: want, Effective: want, Permitted: want}) {
			t.Errorf("%q: capabilities: got %+v, want %v and none of them inheritable", name, got, want)
		}
		if given := bundle.NetworkVariable + "=NET_ADMIN,NET_RAW"; !slices.Contains(config.Process.Env, given) {
			t.Errorf("%q: the agent's environment: got %v, want %s in it", name, config.Process.Env, given)
		}
		for _, ns := range config.Linux.Namespaces {
			if ns.Path != "" {
				t.Errorf("%q: namespace %s joins %s, want a new one", name, ns.Type, ns.Path)
			}
		}
		if (config.Linux.Seccomp != nil) != (d.variant.kernel != bundle.GvisorKernel) {
			t.Errorf("%q: a system call filter: %v", name, config.Linux.Seccomp != nil)
		}
	}
}

func TestT03AKataThatIsTooOldIsRefused(t *testing.T) {
	for name, test := range map[string]struct{ line, want, refused string }{
		"of today":       {`Kata Containers containerd shim (Golang): id: "io.containerd.kata.v2", version: 3.2.0, commit: 123`, "3.2.0", ""},
		"of long ago":    {`Kata Containers containerd shim: id: "io.containerd.kata.v2", version: 2.5.2, commit: 1`, "", "kata 2.5.2 is too old"},
		"without number": {"hello", "", `the shim does not tell its version: "hello"`},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := kataVersion(test.line)
			if got != test.want || err != nil && err.Error() != test.refused || (err == nil) != (test.refused == "") {
				t.Errorf("got %q, %v, want %q, %s", got, err, test.want, test.refused)
			}
		})
	}
}

func TestAMachineWithoutKVMIsToldSo(t *testing.T) {
	missing := canVirtualize(filepath.Join(t.TempDir(), "kvm"))
	if missing == nil || !strings.Contains(missing.Error(), "this machine has no") {
		t.Errorf("got %v", missing)
	}
	if got, want := together(missing, nil, errors.New("x is not on the PATH")), missing.Error()+", and x is not on the PATH"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestProgramsAreFoundOnTheEnginesPath(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "program"), nil, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "data"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct{ path, program, want string }{
		"there":                     {"/none:" + dir, "program", filepath.Join(dir, "program")},
		"not executable":            {dir, "data", ""},
		"elsewhere":                 {"/none", "program", ""},
		"in the engine's directory": {".:", "program", ""},
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := findProgram(test.path, test.program); got != test.want || (err == nil) != (test.want != "") {
				t.Errorf("got %q, %v, want %q", got, err, test.want)
			}
		})
	}
}
