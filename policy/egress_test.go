package policy

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/covehq/cove"
)

// reach is a complete spec with a network.
func reach(n cove.Network) cove.Spec {
	return cove.Spec{Network: n}.WithDefaults()
}

func TestWithoutAPolicyEverythingPublicMayBeAskedFor(t *testing.T) {
	for name, n := range map[string]cove.Network{
		"nothing":             {},
		"names and presets":   {Allow: []string{"pypi.org", "*.example.org:443", "pip", "db.example.org:*"}},
		"public addresses":    {Allow: []string{"203.0.113.0/24:5432", "198.51.100.7", "0.0.0.0/0:443", "8.0.0.0/7"}},
		"everything public":   {Mode: cove.NetworkOpen},
		"another sandbox":     {Allow: []string{"sandbox:db:5432"}},
		"requests":            {Requests: []cove.RequestRule{{Host: "api.example.org"}}},
		"secrets":             {Secrets: []cove.SecretUse{{Name: "TOKEN", Hosts: []string{"api.example.org"}}}},
		"private, in no mode": {Mode: cove.NetworkNone, Allow: []string{"10.0.0.0/8"}},
		"private, denied":     {Mode: cove.NetworkOpen, Deny: []string{"10.0.0.0/8"}},
	} {
		t.Run(name, func(t *testing.T) {
			spec := reach(n)
			for _, p := range []*Policy{nil, {}, parse(t, "max_sandboxes: 3")} {
				if found := p.Check(&spec); len(found) > 0 {
					t.Errorf("got %+v", found)
				}
			}
		})
	}
}

func TestT64PrivateAddressesNeedTheOperator(t *testing.T) {
	for _, rule := range []string{
		"10.0.0.0/8:443", "10.1.2.3", "172.16.0.1:5432", "192.168.0.0/16:*", "127.0.0.1", "127.0.0.0/8:80", "169.254.169.254:80",
		"100.64.0.1:1-9", "fd00::1", "fe80::/10", "[fd00::1]:443", "[fd00::]/8", "[fd00::]/8:443", "::1", "::ffff:10.0.0.1",
	} {
		t.Run(rule, func(t *testing.T) {
			spec := reach(cove.Network{Allow: []string{rule}})
			found := (*Policy)(nil).Check(&spec)
			if len(found) != 1 {
				t.Fatalf("got %+v, want one violation", found)
			}
			line := found[0].Line
			if found := parse(t, line).Check(&spec); len(found) > 0 {
				t.Errorf("with %s, which the hint names: %+v", line, found)
			}
		})
	}
}

func TestWhatTheOperatorsPolicySaysOfEgress(t *testing.T) {
	const listed = "egress: {allow: [pip, \"*.Example.org\", api.github.com, 203.0.113.0/24]}"
	tests := map[string]struct {
		policy string
		ask    cove.Network
		want   []string // lines that would allow it; none: it is allowed
	}{
		"a name on the list":                {policy: listed, ask: cove.Network{Allow: []string{"API.GitHub.com.:443"}}},
		"a name below one on the list":      {policy: listed, ask: cove.Network{Allow: []string{"a.b.example.org:*"}}},
		"all names below one on the list":   {policy: listed, ask: cove.Network{Allow: []string{"*.example.org", "*.b.example.org:1-9"}}},
		"a preset on the list":              {policy: listed, ask: cove.Network{Allow: []string{"pip"}}},
		"addresses within those listed":     {policy: listed, ask: cove.Network{Allow: []string{"203.0.113.128/25:80", "203.0.113.9"}}},
		"another sandbox needs no list":     {policy: listed, ask: cove.Network{Allow: []string{"sandbox:db:5432"}}},
		"a name that is not listed":         {policy: listed, ask: cove.Network{Allow: []string{"evil.org:443", "evil.org:80"}}, want: []string{`egress: {allow: ["evil.org"]}`}},
		"all names of what is above":        {policy: listed, ask: cove.Network{Allow: []string{"*.org"}}, want: []string{`egress: {allow: ["*.org"]}`}},
		"the name itself, below is listed":  {policy: listed, ask: cove.Network{Allow: []string{"example.org"}}, want: []string{`egress: {allow: ["example.org"]}`}},
		"more addresses than those listed":  {policy: listed, ask: cove.Network{Allow: []string{"203.0.112.0/23"}}, want: []string{`egress: {allow: ["203.0.112.0/23"]}`}},
		"a preset that is not listed":       {policy: listed, ask: cove.Network{Allow: []string{"npm"}}, want: []string{`egress: {allow: ["npm"]}`}},
		"a request's host":                  {policy: listed, ask: cove.Network{Requests: []cove.RequestRule{{Host: "evil.org"}}}, want: []string{`egress: {allow: ["evil.org"]}`}},
		"a secret's host":                   {policy: listed, ask: cove.Network{Secrets: []cove.SecretUse{{Name: "T", Hosts: []string{"evil.org:8443"}}}}, want: []string{`egress: {allow: ["evil.org"]}`}},
		"open goes around a list":           {policy: listed, ask: cove.Network{Mode: cove.NetworkOpen}, want: []string{"egress: {modes: [open]}"}},
		"open, as the operator says so":     {policy: "egress: {modes: [open], allow: [x.org]}", ask: cove.Network{Mode: cove.NetworkOpen}},
		"a mode that is not listed":         {policy: "egress: {modes: [none]}", ask: cove.Network{Allow: []string{"x.org"}}, want: []string{"egress: {modes: [allow]}"}},
		"none needs no listing":             {policy: "egress: {modes: []}", ask: cove.Network{}},
		"an empty list allows nothing":      {policy: "egress: {allow: []}", ask: cove.Network{Allow: []string{"x.org"}}, want: []string{`egress: {allow: ["x.org"]}`}},
		"no secrets":                        {policy: "egress: {secrets: false}", ask: cove.Network{Secrets: []cove.SecretUse{{Name: "T", Hosts: []string{"x.org"}}}}, want: []string{"egress: {secrets: true}"}},
		"secrets, as the operator says so":  {policy: "egress: {secrets: true}", ask: cove.Network{Secrets: []cove.SecretUse{{Name: "T", Hosts: []string{"x.org"}}}}},
		"private addresses that are listed": {policy: "egress: {private: [10.0.0.0/8, 192.168.1.1]}", ask: cove.Network{Allow: []string{"10.2.0.0/16:443", "192.168.1.1"}}},
		"private ones beside the list":      {policy: "egress: {private: [10.0.0.0/8]}", ask: cove.Network{Allow: []string{"172.16.0.1"}}, want: []string{`egress: {private: ["172.16.0.1"]}`}},
		"all problems at once": {policy: "egress: {modes: [none], allow: [], secrets: false}",
			ask: cove.Network{Mode: cove.NetworkOpen, Allow: []string{"10.0.0.1", "x.org"}, Secrets: []cove.SecretUse{{Name: "T"}}}, want: []string{
				"egress: {modes: [open]}", "egress: {secrets: true}", `egress: {private: ["10.0.0.1"]}`, `egress: {allow: ["x.org"]}`}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			p, spec := parse(t, test.policy), reach(test.ask)
			var got []string
			for _, violation := range p.Check(&spec) {
				got = append(got, violation.Line)
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("got %q, want %q", got, test.want)
			}
			if live := p.CheckNetwork(&spec.Network); len(live) != len(test.want) {
				t.Errorf("as a change of one that runs: %+v", live)
			}
		})
	}
}

func TestMistakesInEgress(t *testing.T) {
	_, err := Parse([]byte("egress: {modes: [all], allow: [\"\", \"*.*.*.*.*\"], private: [intranet]}"), "/etc/cove/policy.yaml")
	for _, want := range []string{`no mode "all"`, `pattern ""`, `"*.*.*.*.*"`, `"intranet" is not an address`} {
		if !errors.Is(err, cove.Invalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s in it", err, want)
		}
	}
}

func TestPrivateAddressesOfThePolicy(t *testing.T) {
	got := parse(t, "egress: {private: [10.1.2.3/8, 192.168.1.1]}").Private()
	want := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("192.168.1.1/32")}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := (*Policy)(nil).Private(); got != nil {
		t.Errorf("of no policy: %v", got)
	}
}
