package bundle

import (
	"slices"
	"strings"
	"testing"

	"github.com/covehq/cove"
)

func TestT71TheAgentAloneGetsWhatTheWayOutNeeds(t *testing.T) {
	none := cove.Network{Mode: cove.NetworkNone, Final: true}
	for name, test := range map[string]struct {
		spec  cove.Spec
		given bool
		value string
	}{
		"nothing allowed for now":      {cove.Spec{}, true, "NET_ADMIN,NET_RAW"},
		"something allowed for ever":   {cove.Spec{Network: cove.Network{Mode: cove.NetworkAllow, Final: true}}, true, "NET_ADMIN,NET_RAW"},
		"nothing allowed for ever":     {cove.Spec{Network: none}, false, ""},
		"a network of the engine":      {cove.Spec{Options: cove.Options{NetworkMode: "bridge"}}, false, ""},
		"the host's network":           {cove.Spec{Options: cove.Options{NetworkMode: "host"}}, false, ""},
		"one that the spec adds":       {cove.Spec{Options: cove.Options{CapAdd: []string{"NET_ADMIN"}}}, true, "NET_RAW"},
		"both that the spec adds":      {cove.Spec{Options: cove.Options{CapAdd: []string{"NET_ADMIN", "NET_RAW"}}}, true, "NONE"},
		"all that there are":           {cove.Spec{Options: cove.Options{CapAdd: []string{cove.AllCapabilities}}}, true, "NONE"},
		"no isolation":                 {cove.Spec{Options: cove.Options{Privileged: true}}, true, "NONE"},
		"both that the spec drops":     {cove.Spec{Options: cove.Options{CapDrop: []string{"NET_ADMIN", "NET_RAW"}}}, true, "NET_ADMIN,NET_RAW"},
		"added, and nothing for ever":  {cove.Spec{Network: none, Options: cove.Options{CapAdd: []string{"SYS_NICE"}}}, false, ""},
		"dropped, and nothing for now": {cove.Spec{Options: cove.Options{CapDrop: []string{cove.AllCapabilities}}}, true, "NET_ADMIN,NET_RAW"},
	} {
		for _, kernel := range []Kernel{SharedKernel, GvisorKernel, GuestKernel} {
			spec := test.spec.WithDefaults()
			config, err := Template{Kernel: kernel, Agent: "/agent"}.Config("/root", "/group", nil, &spec)
			if err != nil {
				t.Fatal(err)
			}
			value := ""
			for _, variable := range config.Process.Env {
				if text, ok := strings.CutPrefix(variable, NetworkVariable+"="); ok {
					value = text
				}
			}
			if value != test.value {
				t.Errorf("%s: %s is %q, want %q", name, NetworkVariable, value, test.value)
			}
			sets := config.Process.Capabilities
			for _, set := range [][]string{sets.Bounding, sets.Effective, sets.Permitted} {
				for _, capability := range []string{"CAP_NET_ADMIN", "CAP_NET_RAW"} {
					if got := slices.Contains(set, capability); got != test.given {
						t.Errorf("%s: %s is given: %v, want %v", name, capability, got, test.given)
					}
				}
				if sorted := slices.Sorted(slices.Values(set)); len(slices.Compact(sorted)) != len(set) {
					t.Errorf("%s: a capability is given twice: %v", name, set)
				}
			}
			if len(sets.Inheritable)+len(sets.Ambient) > 0 {
				t.Errorf("%s: capabilities are inherited: %v, %v", name, sets.Inheritable, sets.Ambient)
			}
		}
	}
}
