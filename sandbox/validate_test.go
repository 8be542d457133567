package sandbox

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/sandbox/driver"
)

func TestSpecIsChecked(t *testing.T) {
	pairs := func(n int) map[string]string {
		m := make(map[string]string)
		for i := range n {
			m[fmt.Sprintf("key-%d", i)] = "value"
		}
		return m
	}
	tests := []struct {
		name string
		spec cove.Spec
		code cove.Code
		text string // part of the error; "" for a spec that is fine
	}{
		{name: "nothing asked for is fine"},
		{name: "a name of 63 is fine", spec: cove.Spec{Name: strings.Repeat("a", 63)}},
		{name: "a name may begin with a digit", spec: cove.Spec{Name: "7-up"}},
		{name: "a name of 64 is too long", spec: cove.Spec{Name: strings.Repeat("a", 64)}, code: cove.Invalid, text: "name"},
		{name: "a name has no capitals", spec: cove.Spec{Name: "Box"}, code: cove.Invalid, text: `name "Box"`},
		{name: "a name does not begin with a dash", spec: cove.Spec{Name: "-box"}, code: cove.Invalid, text: "name"},
		{name: "a name has no second line", spec: cove.Spec{Name: "box\nbox"}, code: cove.Invalid, text: `"box\nbox"`},
		{name: "a runtime has at most one colon", spec: cove.Spec{Runtime: "a:b:c"}, code: cove.Invalid, text: "runtime"},
		{name: "a runtime has no path", spec: cove.Spec{Runtime: "../../bin/sh"}, code: cove.Invalid, text: "runtime"},
		{name: "a variant is not empty", spec: cove.Spec{Runtime: "test:"}, code: cove.Invalid, text: "runtime"},
		{name: "an unknown runtime is refused with those known", spec: cove.Spec{Runtime: "other"}, code: cove.Invalid, text: `runtime "other" is unknown`},
		{name: "an unknown variant is the driver's to refuse", spec: cove.Spec{Runtime: "test:x"}, code: cove.Invalid, text: "test has no variants"},
		{name: "an image has no NUL", spec: cove.Spec{Image: "a\x00b"}, code: cove.Invalid, text: "image"},
		{name: "an image has no line break", spec: cove.Spec{Image: "a\nb"}, code: cove.Invalid, text: "image"},
		{name: "an image is not endless", spec: cove.Spec{Image: strings.Repeat("a", 5000)}, code: cove.Invalid, text: "image is longer"},
		{name: "cpus are not negative", spec: cove.Spec{Limits: cove.Limits{CPUs: -1}}, code: cove.Invalid, text: "cpus -1"},
		{name: "cpus are a number", spec: cove.Spec{Limits: cove.Limits{CPUs: math.NaN()}}, code: cove.Invalid, text: "cpus is not a finite number"},
		{name: "cpus are finite", spec: cove.Spec{Limits: cove.Limits{CPUs: math.Inf(1)}}, code: cove.Invalid, text: "cpus is not a finite number"},
		{name: "cpus have an upper bound", spec: cove.Spec{Limits: cove.Limits{CPUs: 1e9}}, code: cove.Invalid, text: "cpus"},
		{name: "memory is not negative", spec: cove.Spec{Limits: cove.Limits{Memory: -1}}, code: cove.Invalid, text: "memory -1"},
		{name: "memory has an upper bound", spec: cove.Spec{Limits: cove.Limits{Memory: 1 << 60}}, code: cove.Invalid, text: "memory"},
		{name: "memory below the runtime's floor names the floor", spec: cove.Spec{Limits: cove.Limits{Memory: cove.MiB}}, code: cove.Invalid, text: "memory 1MiB is below the least that test starts with, 16MiB"},
		{name: "cpus below the runtime's floor name the floor", spec: cove.Spec{Limits: cove.Limits{CPUs: 0.01}}, code: cove.Invalid, text: "with, 0.1"},
		{name: "pids below the runtime's floor name the floor", spec: cove.Spec{Limits: cove.Limits{Pids: 1}}, code: cove.Invalid, text: "with, 8"},
		{name: "a disk below the runtime's floor names the floor", spec: cove.Spec{Limits: cove.Limits{Disk: 1}}, code: cove.Invalid, text: "with, 1MiB"},
		{name: "pids are not negative", spec: cove.Spec{Limits: cove.Limits{Pids: -1}}, code: cove.Invalid, text: "pids -1"},
		{name: "pids have the kernel's bound", spec: cove.Spec{Limits: cove.Limits{Pids: 1 << 23}}, code: cove.Invalid, text: "pids"},
		{name: "a disk is not negative", spec: cove.Spec{Limits: cove.Limits{Disk: -1}}, code: cove.Invalid, text: "disk -1"},
		{name: "64 labels are fine", spec: cove.Spec{Labels: pairs(64)}},
		{name: "300 labels are too many", spec: cove.Spec{Labels: pairs(300)}, code: cove.Invalid, text: "300 labels are more than 64"},
		{name: "a label has a key", spec: cove.Spec{Labels: map[string]string{"": "x"}}, code: cove.Invalid, text: "label key"},
		{name: "a label's key is short", spec: cove.Spec{Labels: map[string]string{strings.Repeat("k", 64): "x"}}, code: cove.Invalid, text: "label key"},
		{name: "a label's value is short", spec: cove.Spec{Labels: map[string]string{"k": strings.Repeat("v", 256)}}, code: cove.Invalid, text: `value of label "k"`},
		{name: "a label's value has no line break", spec: cove.Spec{Labels: map[string]string{"k": "a\nb"}}, code: cove.Invalid, text: `value of label "k"`},
		{name: "a label's value is UTF-8", spec: cove.Spec{Labels: map[string]string{"k": "\xff"}}, code: cove.Invalid, text: `value of label "k"`},
		{name: "a variable may be empty and have line breaks", spec: cove.Spec{Env: map[string]string{"A": "", "B": "x\ny=z"}}},
		{name: "a variable has a name", spec: cove.Spec{Env: map[string]string{"": "x"}}, code: cove.Invalid, text: "variable name"},
		{name: "a variable's name has no =", spec: cove.Spec{Env: map[string]string{"A=B": "x"}}, code: cove.Invalid, text: "variable name"},
		{name: "a variable's name has no NUL", spec: cove.Spec{Env: map[string]string{"A\x00": "x"}}, code: cove.Invalid, text: "variable name"},
		{name: "a variable's value has no NUL", spec: cove.Spec{Env: map[string]string{"A": "\x00"}}, code: cove.Invalid, text: `value of variable "A"`},
		{name: "an environment has a size", spec: cove.Spec{Env: map[string]string{"A": strings.Repeat("x", 65<<10)}}, code: cove.Invalid, text: "environment"},
		{name: "a user may be a name", spec: cove.Spec{User: "www-data"}},
		{name: "a user may be uid and gid", spec: cove.Spec{User: "1000:100"}},
		{name: "a user may be root in a kernel of its own", spec: cove.Spec{User: "root"}},
		{name: "a user is not a list", spec: cove.Spec{User: "a b"}, code: cove.Invalid, text: "user"},
		{name: "a user is not a number below zero", spec: cove.Spec{User: "-1"}, code: cove.Invalid, text: "user"},
		{name: "a uid is not the kernel's no-uid", spec: cove.Spec{User: "4294967295"}, code: cove.Invalid, text: "user"},
		{name: "a group is not empty", spec: cove.Spec{User: "1000:"}, code: cove.Invalid, text: "user"},
		{name: "a workdir is absolute", spec: cove.Spec{Workdir: "work"}, code: cove.Invalid, text: `workdir "work" is not absolute`},
		{name: "a workdir has no NUL", spec: cove.Spec{Workdir: "/a\x00"}, code: cove.Invalid, text: "workdir"},
		{name: "other networks are not supported", spec: cove.Spec{Network: cove.Network{Mode: "open"}}, code: cove.NotSupported, text: `network mode "open"`},
		{name: "durations may be never", spec: cove.Spec{Timeout: cove.Never, TTL: cove.Never, Idle: cove.Never}},
		{name: "a timeout is not negative", spec: cove.Spec{Timeout: -1}, code: cove.Invalid, text: "timeout"},
		{name: "a ttl is not negative", spec: cove.Spec{TTL: -5}, code: cove.Invalid, text: "ttl"},
		{name: "an idle limit is not a century", spec: cove.Spec{Idle: cove.Duration(100 * 365 * 24 * time.Hour)}, code: cove.Invalid, text: "idle"},
	}
	r := newRig(t, Options{})
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s, err := r.Create(t.Context(), test.spec, CreateOptions{})
			if test.text != "" {
				wantError(t, err, test.code, test.text)
				return
			}
			if err != nil {
				t.Fatalf("Create: %v", err)
			}
			if err := s.Destroy(t.Context()); err != nil {
				t.Errorf("Destroy: %v", err)
			}
		})
	}
	r.empty()
}

func TestAllProblemsAreInOneError(t *testing.T) {
	r := newRig(t, Options{})
	_, err := r.Create(t.Context(), cove.Spec{
		Name: "Bad Name", Limits: cove.Limits{CPUs: -1, Memory: cove.MiB}, Network: cove.Network{Mode: "open"},
		Workdir: "x", User: "?", Labels: map[string]string{"": ""}, TTL: -1,
	}, CreateOptions{IdempotencyKey: "\n"})
	wantError(t, err, cove.Invalid, "name", "cpus", "memory 1MiB is below", "network", "workdir", "user", "label", "ttl", "idempotency key")

	env := make(map[string]string)
	for i := range 100 {
		env[fmt.Sprintf("%d=", i)] = ""
	}
	_, err = r.Create(t.Context(), cove.Spec{Env: env}, CreateOptions{})
	wantError(t, err, cove.Invalid, "and 80 more problems")
	if len(err.Error()) > 4096 {
		t.Errorf("the error has %d bytes, want a readable one", len(err.Error()))
	}
	r.empty()
}

func TestRuntimeMustEnforceWhatTheSpecNeeds(t *testing.T) {
	info := func(class cove.Isolation, changes map[cove.Control]cove.Enforcement) driver.Info {
		info := newWorld().info
		info.Isolation = class
		for control, degree := range changes {
			info.Controls[control] = degree
		}
		return info
	}
	rootless := map[cove.Control]cove.Enforcement{cove.ControlMemory: cove.Degraded, cove.ControlDisk: cove.Unsupported}
	tests := []struct {
		name  string
		info  driver.Info
		spec  cove.Spec
		texts []string // nil for a spec that is accepted
	}{
		{"what is enforced is accepted", info(cove.IsolationVM, nil), cove.Spec{}, nil},
		{
			"what is not is refused, all at once", info(cove.IsolationUserspaceKernel, rootless), cove.Spec{Limits: cove.Limits{Memory: cove.GiB}},
			[]string{"control memory is degraded on test here", "control disk is unsupported on test here"},
		},
		{
			"a limit that nobody asked for may be degraded, not missing", info(cove.IsolationUserspaceKernel, rootless), cove.Spec{},
			[]string{"create: control disk is unsupported on test here"},
		},
		{
			"a default that is degraded is accepted",
			info(cove.IsolationUserspaceKernel, map[cove.Control]cove.Enforcement{cove.ControlMemory: cove.Degraded, cove.ControlCPU: cove.Degraded}), cove.Spec{}, nil,
		},
		{"best effort accepts it", info(cove.IsolationUserspaceKernel, rootless), cove.Spec{BestEffort: true}, nil},
		{
			"read-only matters when asked for", info(cove.IsolationVM, map[cove.Control]cove.Enforcement{cove.ControlReadOnly: cove.Unsupported}),
			cove.Spec{ReadOnly: true}, []string{"control read_only"},
		},
		{
			"read-only does not matter otherwise", info(cove.IsolationVM, map[cove.Control]cove.Enforcement{cove.ControlReadOnly: cove.Unsupported}),
			cove.Spec{}, nil,
		},
		{
			"filters of system calls matter on the host's kernel", info(cove.IsolationSharedKernel, map[cove.Control]cove.Enforcement{cove.ControlSeccomp: cove.Degraded}),
			cove.Spec{}, []string{"control seccomp is degraded"},
		},
		{
			"they do not on another kernel", info(cove.IsolationUserspaceKernel, map[cove.Control]cove.Enforcement{cove.ControlSeccomp: cove.Degraded}),
			cove.Spec{}, nil,
		},
		{"root is refused on the host's kernel", info(cove.IsolationSharedKernel, nil), cove.Spec{User: "root"}, []string{`user "root" is root`}},
		{"root by number is, too", info(cove.IsolationSharedKernel, nil), cove.Spec{User: "00"}, []string{`user "00" is root`}},
		{"root's group is, too", info(cove.IsolationSharedKernel, nil), cove.Spec{User: "1000:0"}, []string{"root"}},
		{"best effort does not change that", info(cove.IsolationProcess, nil), cove.Spec{User: "0:0", BestEffort: true}, []string{"root"}},
		{"a control that the driver does not mention does not hold", driver.Info{Isolation: cove.IsolationVM}, cove.Spec{}, []string{"control cpu is unsupported"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld()
			w.info = test.info
			r := openRig(t, w, t.TempDir(), Options{})
			s, err := r.Create(t.Context(), test.spec, CreateOptions{})
			if test.texts != nil {
				wantError(t, err, cove.NotSupported, test.texts...)
				r.empty()
				return
			}
			if err != nil {
				t.Fatalf("Create: %v", err)
			}
			for control, want := range controls(test.info) {
				if got := s.View().Controls[control]; got != want {
					t.Errorf("control %s = %s, want %s: the reply is honest", control, got, want)
				}
			}
		})
	}
}

func TestUnavailableRuntimeIsNotReplaced(t *testing.T) {
	other := newWorld()
	w := newWorld()
	w.set(failing("probe", &cove.Error{Code: cove.NotFound, Err: errors.New("the program testd is missing"), Hint: "install testd"}))
	r := newRig(t, Options{Drivers: map[string]driver.Opener{"test": opener(w), "other": opener(other)}})
	_, err := r.Create(t.Context(), cove.Spec{}, CreateOptions{})
	wantError(t, err, cove.Unavailable, "test", "the program testd is missing")
	if hint := cove.HintOf(err); hint != "install testd" {
		t.Errorf("hint = %q, want the driver's", hint)
	}
	if len(other.ids()) != 0 {
		t.Errorf("the other runtime was used: %v", other.ids())
	}
	// An invalid spec is told so, for it would fail anywhere.
	_, err = r.Create(t.Context(), cove.Spec{Name: "?"}, CreateOptions{})
	wantError(t, err, cove.Invalid, "name")

	_, err = r.Create(t.Context(), cove.Spec{Runtime: "nothing"}, CreateOptions{})
	wantError(t, err, cove.Invalid, `"nothing" is unknown`)
	if hint := cove.HintOf(err); hint != "use one of other, test" {
		t.Errorf("hint = %q, want the known runtimes", hint)
	}
}

func TestProbeIsAskedAgainOnlyWhenItMayHaveChanged(t *testing.T) {
	w := newWorld()
	opened := &runtime{name: "test", driver: w, turn: make(chan struct{}, 1)}
	probe := func(ctx context.Context, age time.Duration) error {
		_, err := opened.probe(ctx, age)
		return err
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	w.set(func(ctx context.Context, _, _ string) error { return ctx.Err() })
	if err := probe(gone, always); !errors.Is(err, context.Canceled) {
		t.Fatalf("probe of a caller that left = %v, want canceled", err)
	}
	w.set(failing("probe", errors.New("broken")))
	if err := probe(t.Context(), always); !errors.Is(err, cove.Unavailable) {
		t.Fatalf("probe = %v, want unavailable: the answer of a caller that left is not conclusive", err)
	}
	asked := w.probes
	if err := probe(t.Context(), always); err == nil || w.probes != asked {
		t.Errorf("second probe = %v after %d more questions, want the same answer without one", err, w.probes-asked)
	}
	w.set(nil)
	opened.at = opened.at.Add(-refusalKept - 1)
	if err := probe(t.Context(), always); err != nil {
		t.Errorf("probe some seconds after a failure = %v, want another answer", err)
	}
	w.set(failing("probe", errors.New("broken")))
	opened.at = opened.at.Add(-time.Hour)
	if err := probe(t.Context(), always); err != nil {
		t.Errorf("probe long after a success = %v, want the old answer", err)
	}
	if err := probe(t.Context(), time.Minute); err == nil {
		t.Error("probe for somebody who wants a fresh answer = nil, want unavailable")
	}
}

func TestRuntimesDescribesAllFamilies(t *testing.T) {
	good, bad := newWorld(), newWorld()
	bad.set(failing("probe", &cove.Error{Code: cove.NotFound, Err: errors.New("no such\nprogram"), Hint: "install it"}))
	odd := func(string) (driver.Driver, error) {
		return nil, cove.Errorf(cove.Invalid, "", "", "odd needs a variant", "write odd:NAME")
	}
	r := newRig(t, Options{Default: "good", Variants: []string{"good:er"}, Drivers: map[string]driver.Opener{"good": func(string) (driver.Driver, error) { return good, nil }, "bad": opener(bad), "odd": odd}})
	got := r.Runtimes(t.Context())
	if len(got) != 3 { // odd has no member of that name alone
		t.Fatalf("runtimes = %+v, want 3", got)
	}
	if b := got[0]; b.Name != "bad" || b.Available || b.Default || b.Reason != "runtime bad can't run here: no such program" || b.Hint != "install it" {
		t.Errorf("bad = %+v, want why it can't run, on one line", b)
	}
	if e := got[2]; e.Name != "good:er" || !e.Available || e.Default {
		t.Errorf("good:er = %+v, want the variant that was asked for", e)
	}
	if g := got[1]; g.Name != "good" || !g.Available || !g.Default || g.Isolation != cove.IsolationUserspaceKernel || g.Version != "1.0" || g.Controls[cove.ControlCPU] != cove.Enforced {
		t.Errorf("good = %+v, want it available and the default", g)
	}
}

func TestPlainIsOneShortLine(t *testing.T) {
	tests := []struct{ text, want string }{
		{" a\nb\x1b[31m ", "a b [31m"},
		{"ok\xff", "ok\uFFFD"},
		{strings.Repeat("é", 600), strings.Repeat("é", 256) + "…"},
		{"x" + strings.Repeat("é", 600), "x" + strings.Repeat("é", 255) + "…"},
	}
	for _, test := range tests {
		if got := plain(test.text); got != test.want {
			t.Errorf("plain(%q) = %q, want %q", test.text, got, test.want)
		}
	}
}
