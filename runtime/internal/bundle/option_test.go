package bundle

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/covehq/cove"
)

func configOf(t *testing.T, kernel Kernel, options cove.Options) (*specs.Spec, error) {
	t.Helper()
	spec := cove.Spec{Options: options}.WithDefaults()
	return Template{Kernel: kernel, Agent: "/opt/agent"}.Config("/root", "/group", nil, &spec)
}

func TestCapabilitiesAreAddedOnceAndOpenTheirSystemCalls(t *testing.T) {
	for name, test := range map[string]struct {
		kernel Kernel
		add    []string
		want   string
		mounts bool // mount(2) is allowed
	}{
		"one":                       {SharedKernel, []string{"NET_ADMIN", "NET_ADMIN", "CHOWN"}, "CAP_NET_ADMIN", false},
		"one that has system calls": {SharedKernel, []string{"SYS_ADMIN"}, "CAP_SYS_ADMIN", true},
		"all":                       {SharedKernel, []string{"ALL"}, "CAP_SYS_ADMIN", true},
		"in gVisor":                 {GvisorKernel, []string{"NET_RAW"}, "CAP_NET_RAW", false},
	} {
		t.Run(name, func(t *testing.T) {
			config, err := configOf(t, test.kernel, cove.Options{CapAdd: test.add})
			if err != nil {
				t.Fatal(err)
			}
			sets := config.Process.Capabilities
			for _, set := range [][]string{sets.Bounding, sets.Effective, sets.Permitted} {
				sorted := slices.Sorted(slices.Values(set))
				if !slices.Contains(set, test.want) || len(slices.Compact(sorted)) != len(set) {
					t.Errorf("got %v, want %s, and each once", set, test.want)
				}
			}
			if len(sets.Inheritable)+len(sets.Ambient) > 0 {
				t.Error("capabilities are inheritable: commands of an ordinary user would have them")
			}
			if config.Linux.Seccomp != nil && allows(config.Linux.Seccomp, "mount") != test.mounts {
				t.Errorf("mount is allowed: %v, want %v", !test.mounts, test.mounts)
			}
		})
	}
	if plain, err := configOf(t, SharedKernel, cove.Options{}); err != nil || slices.Contains(plain.Process.Capabilities.Bounding, "CAP_SYS_ADMIN") {
		t.Errorf("after all that, a plain sandbox has %v, %v", plain.Process.Capabilities.Bounding, err)
	}
}

// TestT18WhatTheAgentMayIsListedHere has the lists again, so that nothing joins them unseen.
func TestT18WhatTheAgentMayIsListedHere(t *testing.T) {
	const always = "CAP_CHOWN,CAP_DAC_OVERRIDE,CAP_FOWNER,CAP_FSETID,CAP_KILL,CAP_SETGID,CAP_SETUID,CAP_SETPCAP,CAP_SYS_PTRACE"
	const ofItsOwnKernel = ",CAP_AUDIT_WRITE,CAP_MKNOD,CAP_NET_BIND_SERVICE,CAP_SETFCAP,CAP_SYS_CHROOT,CAP_SYS_RESOURCE"
	const atItsStart = ",CAP_NET_ADMIN,CAP_NET_RAW"
	none := cove.Spec{Network: cove.Network{Mode: cove.NetworkNone, Final: true}}
	for name, test := range map[string]struct {
		kernel Kernel
		spec   cove.Spec
		want   string
		told   string // which of them the agent gives away at its start
	}{
		"on the host's kernel":                       {SharedKernel, cove.Spec{}, always + atItsStart, "NET_ADMIN,NET_RAW"},
		"on the host's kernel, never with a network": {SharedKernel, none, always, ""},
		"on an engine's network":                     {SharedKernel, cove.Spec{Options: cove.Options{NetworkMode: "bridge"}}, always, ""},
		"in gVisor":                                  {GvisorKernel, cove.Spec{}, always + ofItsOwnKernel + atItsStart, "NET_ADMIN,NET_RAW"},
		"in gVisor, never with a network":            {GvisorKernel, none, always + ofItsOwnKernel, ""},
		"in a virtual machine":                       {GuestKernel, cove.Spec{}, always + ofItsOwnKernel + atItsStart, "NET_ADMIN,NET_RAW"},
		"what was asked for is kept":                 {SharedKernel, cove.Spec{Options: cove.Options{CapAdd: []string{"NET_RAW"}}}, always + ",CAP_NET_RAW,CAP_NET_ADMIN", "NET_ADMIN"},
	} {
		t.Run(name, func(t *testing.T) {
			spec := test.spec.WithDefaults()
			config, err := Template{Kernel: test.kernel, Agent: "/opt/agent"}.Config("/root", "/group", nil, &spec)
			if err != nil {
				t.Fatal(err)
			}
			want := strings.Split(test.want, ",")
			if got := config.Process.Capabilities; !cmp.Equal(got, &specs.LinuxCapabilities{Bounding: want, Effective: want, Permitted: want}) {
				t.Errorf("got %+v, want %v and none of them inheritable", got, want)
			}
			told := ""
			for _, variable := range config.Process.Env {
				if value, ok := strings.CutPrefix(variable, NetworkVariable+"="); ok {
					told = value
				}
			}
			if told != test.told {
				t.Errorf("to be given away: got %q, want %q", told, test.told)
			}
		})
	}
}

func allows(profile *specs.LinuxSeccomp, call string) bool {
	return slices.ContainsFunc(profile.Syscalls, func(rule specs.LinuxSyscall) bool {
		return rule.Action == specs.ActAllow && len(rule.Args) == 0 && slices.Contains(rule.Names, call)
	})
}

func TestDevicesAreThoseOfTheHost(t *testing.T) {
	config, err := configOf(t, SharedKernel, cove.Options{Devices: []string{"/dev/zero:/dev/nothing:r"}})
	if err != nil {
		t.Fatal(err)
	}
	devices, rules := config.Linux.Devices, config.Linux.Resources.Devices
	if len(devices) != 1 || devices[0].Path != "/dev/nothing" || devices[0].Type != "c" || devices[0].Major != 1 || devices[0].Minor != 5 {
		t.Errorf("devices: got %+v", devices)
	}
	if last := rules[len(rules)-1]; rules[0].Allow || !last.Allow || *last.Major != 1 || *last.Minor != 5 || last.Access != "r" {
		t.Errorf("rules: got %+v", rules)
	}
	for path, want := range map[string]error{"/dev/none-such": cove.NotFound, "/etc/passwd": cove.Invalid} {
		if _, err := configOf(t, SharedKernel, cove.Options{Devices: []string{path + ":/dev/x:rwm"}}); !errors.Is(err, want) {
			t.Errorf("%s: got %v, want %v", path, err, want)
		}
	}
}
