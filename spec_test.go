package cove_test

import (
	"encoding/json"
	"testing"

	"github.com/covehq/cove"
)

func TestWithDefaultsFillsInWhatIsLeftOut(t *testing.T) {
	got := cove.Spec{}.WithDefaults()
	want := `{"runtime":"gvisor","image":"host","pull":"missing","limits":{"cpus":1,"memory":536870912,"pids":256,"disk":2147483648,"shm":67108864},` +
		`"network":{"mode":"none","limits":{"connections":1024}},"user":"user","workdir":"/workspace","timeout":300,"ttl":3600,"idle":"never"}`
	if text, err := json.Marshal(got); err != nil || string(text) != want {
		t.Errorf("defaults = %s, %v\nwant %s", text, err, want)
	}
	if again, _ := json.Marshal(got.WithDefaults()); string(again) != want {
		t.Errorf("defaults of the defaults = %s, want the same", again)
	}
}

func TestWithDefaultsKeepsWhatIsAsked(t *testing.T) {
	asked := cove.Spec{
		Name: "a", Runtime: "runc", Image: "rootfs:/x", Pull: "never", User: "root", Workdir: "/", ReadOnly: true, BestEffort: true,
		Limits:  cove.Limits{CPUs: 2, Memory: 1, Pids: 2, Disk: 3, Shm: 4},
		Network: cove.Network{Mode: "open", Limits: cove.NetworkLimits{Connections: 3}}, Timeout: cove.Never, TTL: 1, Idle: 2,
		Env: map[string]string{"A": "1"}, Labels: map[string]string{"b": "2"},
	}
	before, err := json.Marshal(asked)
	if err != nil {
		t.Fatal(err)
	}
	complete := asked.WithDefaults()
	if after, _ := json.Marshal(complete); string(after) != string(before) {
		t.Errorf("a complete spec became %s, want %s", after, before)
	}
	complete.Env["A"], complete.Labels["b"] = "changed", "changed"
	if asked.Env["A"] != "1" || asked.Labels["b"] != "2" {
		t.Errorf("changing the result changed what was asked for: %v %v", asked.Env, asked.Labels)
	}
}

func TestRootInsideNeedsAKernelOfItsOwn(t *testing.T) {
	want := map[cove.Isolation]bool{
		cove.IsolationProcess: false, cove.IsolationSharedKernel: false,
		cove.IsolationUserspaceKernel: true, cove.IsolationVM: true, "": false,
	}
	for class, allowed := range want {
		if got := class.RootInside(); got != allowed {
			t.Errorf("RootInside of %q = %v, want %v", class, got, allowed)
		}
	}
}
