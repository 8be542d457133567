package egress_test

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/covehq/cove"
	"github.com/covehq/cove/egress"
)

// addr is an address, or none for "".
func addr(text string) netip.Addr {
	if text == "" {
		return netip.Addr{}
	}
	return netip.MustParseAddr(text)
}

func TestRulesDecideByNameAndPort(t *testing.T) {
	rules := compile(t, cove.Network{
		Mode: cove.NetworkAllow,
		Allow: []string{
			"pypi.org", "*.example.org:443", "db.example.org:5000-5010", "any.example.net:*", "8.8.4.0/24:53", "1.1.1.1",
			"sandbox:db:5432", "Bücher.example", "intranet.:8080", "deep.example.org.",
		},
		Deny: []string{"bad.example.org", "any.example.net:25", "8.8.4.4"},
	})
	for _, test := range []struct {
		name, addr string
		port       int
		rule       string // "" is refused by none
		allowed    bool
	}{
		{"pypi.org", "", 443, "pypi.org", true},
		{"PyPI.org.", "", 80, "pypi.org", true},
		{"pypi.org", "", 8443, "", false},
		{"a.pypi.org", "", 443, "", false},
		{"a.example.org", "", 443, "*.example.org:443", true},
		{"a.b.c.example.org", "", 443, "*.example.org:443", true},
		{"example.org", "", 443, "", false},
		{"aexample.org", "", 443, "", false},
		{"a.example.org", "", 80, "", false},
		{"db.example.org", "", 5000, "db.example.org:5000-5010", true},
		{"db.example.org", "", 5010, "db.example.org:5000-5010", true},
		{"db.example.org", "", 5011, "", false},
		{"db.example.org", "", 443, "*.example.org:443", true},
		{"bad.example.org", "", 443, "bad.example.org", false},
		{"any.example.net", "", 65535, "any.example.net:*", true},
		{"any.example.net", "", 25, "any.example.net:25", false},
		{"", "8.8.4.8", 53, "8.8.4.0/24:53", true},
		{"", "::ffff:8.8.4.8", 53, "8.8.4.0/24:53", true},
		{"", "8.8.4.4", 53, "8.8.4.4", false},
		{"", "8.8.5.8", 53, "", false},
		{"", "1.1.1.1", 443, "1.1.1.1", true},
		{"pypi.org", "8.8.4.4", 443, "8.8.4.4", false}, // where a name leads may be denied
		{"db.sandbox", "", 5432, "sandbox:db:5432", true},
		{"db.sandbox", "", 5433, "", false},
		{"x.db.sandbox", "", 5432, "", false},
		{"xn--bcher-kva.example", "", 443, "Bücher.example", true},
		{"intranet", "", 8080, "intranet.:8080", true},
		{"deep.example.org", "", 80, "deep.example.org.", true},
		{"pypi.org", "", 0, "", false},
		{"pypi.org", "", -1, "", false},
		{"pypi.org", "", 65536 + 443, "", false},
		{"", "", 443, "", false},
	} {
		d := rules.Connect(test.name, addr(test.addr), test.port)
		if d.Allowed != test.allowed || d.Rule != test.rule || d.Allowed == (d.Reason != "") {
			t.Errorf("%s %s:%d: %+v, want allowed %v by %q", test.name, test.addr, test.port, d, test.allowed, test.rule)
		}
	}
}

func TestALookupIsAllowedWhereAPortIs(t *testing.T) {
	rules := compile(t, cove.Network{
		Mode:  cove.NetworkAllow,
		Allow: []string{"a.example.org", "b.example.org:8000-8010", "*.example.net", "sandbox:db:5432"},
		Deny:  []string{"a.example.org:80", "b.example.org:8000-8005", "b.example.org:8006-9000", "x.example.net"},
	})
	for name, want := range map[string]bool{
		"a.example.org": true, "b.example.org": false, "y.example.net": true, "x.example.net": false, "y.x.example.net": true,
		"db.sandbox": true, "web.sandbox": false, "example.net": false,
	} {
		if d := rules.Name(name); d.Allowed != want {
			t.Errorf("%s: %+v", name, d)
		}
	}
}

func TestOpenAllowsAllButDenialsAndSandboxes(t *testing.T) {
	rules := compile(t, cove.Network{Mode: cove.NetworkOpen, Deny: []string{"*.evil.example", "9.9.9.0/24"}})
	for name, want := range map[string]bool{"pypi.org": true, "a.evil.example": false, "db.sandbox": false} {
		for _, port := range []int{25, 443, 8443} {
			if d := rules.Connect(name, addr(""), port); d.Allowed != want || d.Allowed && d.Rule != "open" {
				t.Errorf("%s:%d: %+v", name, port, d)
			}
		}
		if d := rules.Name(name); d.Allowed != want {
			t.Errorf("lookup of %s: %+v", name, d)
		}
	}
	if d := rules.Connect("", addr("9.9.9.9"), 53); d.Allowed || d.Rule != "9.9.9.0/24" {
		t.Errorf("9.9.9.9: %+v", d)
	}
}

func TestARefusalSaysWhatWouldAllowIt(t *testing.T) {
	rules := compile(t, allow("pypi.org"))
	for _, test := range []struct {
		got  egress.Decision
		want string
	}{
		{rules.Name("npmjs.org"), "no rule allows npmjs.org: add --allow npmjs.org"},
		{rules.Connect("npmjs.org", addr(""), 443), "no rule allows npmjs.org:443: add --allow npmjs.org"},
		{rules.Connect("npmjs.org", addr(""), 22), "no rule allows npmjs.org:22: add --allow npmjs.org:22"},
		{rules.Connect("pypi.org", addr(""), 22), "the rule pypi.org does not allow port 22: add --allow pypi.org:22"},
		{rules.Connect("", addr("8.8.8.8"), 53), "no rule allows 8.8.8.8:53: add --allow 8.8.8.8:53"},
		{rules.Connect("db.sandbox", addr(""), 5432), "no rule allows db.sandbox:5432: add --allow sandbox:db:5432"},
		{rules.Connect("intranet", addr(""), 80), "no rule allows intranet:80: add --allow intranet."},
		{rules.Connect("", addr("10.1.2.3"), 80), "no rule allows 10.1.2.3:80, a private address: only the operator can open it (egress.private of the policy)"},
		{rules.Connect("", addr("169.254.169.254"), 80), "no rule allows 169.254.169.254:80, a metadata service: it is never reached"},
		{compile(t, cove.Network{}).Connect("pypi.org", addr(""), 443), "the network is off: add --allow pypi.org"},
		{(*egress.Rules)(nil).Name("pypi.org"), "the network is off: add --allow pypi.org"},
	} {
		if test.got.Allowed || test.got.Reason != test.want {
			t.Errorf("got %+v, want %q", test.got, test.want)
		}
	}
}

func TestEveryWrongRuleIsToldAtOnce(t *testing.T) {
	wrong := map[string]string{
		strings.Repeat("a.", 150) + "example": "longer than 253",
		strings.Repeat("a", 64) + ".example":  "a part that is empty or longer",
		"a..example":                          "a part that is empty",
		"*":                                   "would allow every name",
		"*:443":                               "would allow every name",
		"a.*.example":                         "a * elsewhere",
		"a*.example":                          "a * elsewhere",
		"*.*.example":                         "a * elsewhere",
		"pypi.org:0":                          "no such port",
		"pypi.org:65536":                      "no such port",
		"pypi.org:080":                        "no such port",
		"pypi.org:+80":                        "no such port",
		"pypi.org:90-80":                      "no such port",
		"pypi.org:":                           "no such port",
		"pypi.org:80-":                        "no such port",
		"https://pypi.org/simple":             "is a URL",
		"pypi.org/simple":                     "neither a name nor a range",
		"exa mple.org":                        "other characters",
		"-a.example":                          "other characters",
		"203.0.114.7/24":                      "bits set beyond its length",
		"203.0.114.0/33":                      "neither a name nor a range",
		"10.0.0.0/8":                          "holds a private address",
		"8.0.0.0/5":                           "holds a private address",
		"0.0.0.0/0":                           "holds an address of this network",
		"192.168.1.5:8080":                    "is a private address",
		"127.0.0.1:8080":                      "is a loopback address",
		"169.254.169.254":                     "is a link-local address",
		"168.63.129.16":                       "is a metadata service",
		"168.63.0.0/16":                       "holds a metadata service",
		"100.100.100.200:80":                  "is a metadata service",
		"::ffff:10.0.0.1":                     "is a private address",
		"2606:4700::1111":                     "no way out",
		"[2606:4700::1111]:443":               "no way out",
		"2606:4700::/32":                      "no way out",
		"0x7f.1":                              "ends in a number",
		"017700000001.":                       "ends in a number",
		"127.1":                               "ends in a number",
		"010.8.8.8":                           "ends in a number",
		"localhost:8080":                      "a name without a dot",
		"db.sandbox:5432":                     "is the name of a sandbox",
		"sandbox:db":                          "names no port",
		"sandbox:d b:80":                      "the name of a sandbox",
		"sandbox:Db:80":                       "the name of a sandbox",
		"sandbox:a.b:80":                      "the name of a sandbox",
		"sandbox:db:99999":                    "no such port",
		"nopreset":                            "there is no preset",
		"":                                    "a part that is empty",
	}
	for rule, want := range wrong {
		_, err := egress.Compile(allow(rule), egress.CompileOptions{})
		code := cove.Invalid
		if strings.HasSuffix(want, "private address") { // the operator might allow it
			code = cove.Forbidden
		}
		if !errors.Is(err, code) || !strings.Contains(err.Error(), want) || cove.HintOf(err) == "" {
			t.Errorf("%q: %v (hint %q), want %q", short(rule), err, cove.HintOf(err), want)
		}
	}
	_, err := egress.Compile(cove.Network{
		Mode: "wide", Allow: []string{"*", "pypi.org:0"}, Deny: []string{"a.*.b"},
		Requests: []cove.RequestRule{
			{Host: "10.0.0.1", Methods: []string{"get"}, Paths: []string{"repos"}, Action: "maybe", Headers: map[string]string{"host": "x", "a b": "c"}},
		},
		Secrets: []cove.SecretUse{{Name: "TOKEN"}, {Name: "KEY", Hosts: []string{"*"}, In: []cove.SecretPlace{"cookie"}}},
		Limits:  cove.NetworkLimits{Rate: -1},
	}, egress.CompileOptions{})
	for _, want := range []string{
		`no network mode "wide"`, `allow: "*"`, `"pypi.org:0"`, `deny: "a.*.b"`, `"10.0.0.1" is not a name`, `"get" is no method`, `"repos" is no path`,
		`no action "maybe"`, `the header host`, `the header "a b"`, "secret TOKEN is bound to no host", `secret KEY: "*"`, `no place "cookie"`, "limit",
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error %v lacks %q", err, want)
		}
	}
}

func short(text string) string { return text[:min(len(text), 40)] }

func TestT64WhatTheOperatorOpensMayBeNamed(t *testing.T) {
	private := []string{"10.0.0.0/8", "100.64.0.0/10", "169.254.0.0/16", "127.0.0.1/32"}
	compile(t, allow("10.1.0.0/16:5432", "10.0.0.0/8", "10.1.2.3", "100.64.0.0/10"), private...)
	for _, rule := range []string{"192.168.0.0/16", "169.254.169.254", "169.254.0.0/16", "127.0.0.1", "100.100.100.200"} {
		if _, err := egress.Compile(allow(rule), egress.CompileOptions{Private: prefixes(private)}); errors.Is(err, cove.Forbidden) != (rule == "192.168.0.0/16") || err == nil {
			t.Errorf("%s: %v, %s", rule, err, cove.CodeOf(err))
		}
	}
}

func TestT64WhatTheOperatorMightAllowIsForbiddenAndAllElseIsInvalid(t *testing.T) {
	for rule, want := range map[string]cove.Code{
		"10.0.0.0/8": cove.Forbidden, "192.168.1.5:8080": cove.Forbidden, "100.64.1.1": cove.Forbidden, "::ffff:10.0.0.1": cove.Forbidden,
		"127.0.0.1": cove.Invalid, "169.254.169.254": cove.Invalid, "0.0.0.0/0": cove.Invalid, "168.63.129.16": cove.Invalid, "127.1": cove.Invalid,
	} {
		_, err := egress.Compile(allow(rule), egress.CompileOptions{})
		if got := cove.CodeOf(err); got != want {
			t.Errorf("%s: %s, want %s", rule, got, want)
		}
	}
	_, err := egress.Compile(allow("10.0.0.1", "pypi.org:0"), egress.CompileOptions{})
	if got := cove.CodeOf(err); got != cove.Invalid {
		t.Errorf("with a mistake beside it: %s, want invalid", got)
	}
}

func TestPresetsStandForRules(t *testing.T) {
	presets := func(name string) ([]string, error) {
		switch name {
		case "pip":
			return []string{"pypi.org", "files.pythonhosted.org:443"}, nil
		case "odd":
			return []string{"pip", "*"}, nil
		case "none":
			return nil, nil
		case "local":
			return []string{"127.0.0.1:3141", "10.0.0.1:80"}, nil
		case "mixed":
			return []string{"127.0.0.1:3141", "mirror.example"}, nil
		}
		return nil, cove.Errorf(cove.NotFound, "preset", name, "no such client", "install it")
	}
	rules, err := egress.Compile(allow("pip"), egress.CompileOptions{Presets: presets})
	if err != nil {
		t.Fatal(err)
	}
	if d := rules.Connect("files.pythonhosted.org", addr(""), 443); !d.Allowed || d.Rule != "pip" {
		t.Errorf("got %+v", d)
	}
	if rules.Connect("files.pythonhosted.org", addr(""), 80).Allowed {
		t.Error("a port that the preset does not name is allowed")
	}
	mixed, err := egress.Compile(allow("mixed"), egress.CompileOptions{Presets: presets})
	if err != nil || !slices.Equal(mixed.Notes(), []string{`allow: mixed: "127.0.0.1:3141" is a loopback address, and is left out`}) {
		t.Errorf("mixed: %v, notes %q", err, mixed.Notes())
	}
	_, err = egress.Compile(allow("cargo", "odd", "none", "local"), egress.CompileOptions{Presets: presets})
	for _, want := range []string{"no such client", `odd stands for "pip"`, `odd: "*"`, "none stands for nothing", "local stands for nothing that can be reached"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error %v lacks %q", err, want)
		}
	}
	if hint := cove.HintOf(err); !strings.Contains(hint, "install it") {
		t.Errorf("hint: %s", hint)
	}
}

func TestOddButValidPoliciesAreNoted(t *testing.T) {
	rules := compile(t, cove.Network{
		Allow: []string{"*.example.org", "a.example.org:443", "pypi.org", "pypi.org", "8.8.8.0/24", "8.8.8.8", "198.18.7.0/24", "no.example.net"},
		Deny:  []string{"*.example.net"},
	})
	got := rules.Notes()
	for _, want := range []string{
		"the rule a.example.org:443 is covered by *.example.org", "the rule pypi.org is there twice", "the rule 8.8.8.8 is covered by 8.8.8.0/24",
		"198.18.7.0/24 is a benchmarking address: nothing is reached by it", "the rule no.example.net has no effect: *.example.net is denied",
	} {
		if !slices.Contains(got, want) {
			t.Errorf("%q lacks %q", got, want)
		}
	}
	if len(got) != 5 {
		t.Errorf("notes: %q", got)
	}
}

func TestRequestRulesAndSecretsOpenTheirNames(t *testing.T) {
	rules := compile(t, cove.Network{
		Mode:     cove.NetworkAllow,
		Allow:    []string{"plain.example", "token.example:*"},
		Requests: []cove.RequestRule{{Host: "api.example"}, {Host: "*.odd.example:8443"}},
		Secrets:  []cove.SecretUse{{Name: "TOKEN", Hosts: []string{"token.example", "other.example:9443"}}},
	})
	for _, test := range []struct {
		name           string
		port           int
		allowed, opens bool
	}{
		{"plain.example", 443, true, false},
		{"api.example", 443, true, true},
		{"api.example", 80, true, true},
		{"api.example", 8443, false, false},
		{"a.odd.example", 8443, true, true},
		{"a.odd.example", 443, false, false},
		{"token.example", 443, true, true},
		{"TOKEN.example.", 80, true, true}, // in the clear, where a placeholder has to be found
		{"token.example", 22, true, false},
		{"other.example", 9443, true, true},
		{"other.example", 443, false, false},
	} {
		if got := rules.Connect(test.name, addr(""), test.port).Allowed; got != test.allowed {
			t.Errorf("%s:%d is allowed: %v", test.name, test.port, got)
		}
		if got := rules.Opens(test.name, test.port); got != test.opens {
			t.Errorf("%s:%d is opened: %v", test.name, test.port, got)
		}
	}
}

func TestTheAgentIsToldTheBoundedListOfPorts(t *testing.T) {
	if setup := compile(t, cove.Network{}).Setup(); setup.Enabled || len(setup.Ports) != 0 {
		t.Errorf("mode none: %+v", setup)
	}
	setup := compile(t, allow("a.example:5432", "b.example:8000-8002", "c.example:*", "d.example")).Setup()
	if want := []int{80, 443, 5432, 8000, 8001, 8002}; !setup.Enabled || !slices.Equal(setup.Ports, want) {
		t.Errorf("got %+v, want %v", setup, want)
	}
	var many []string
	for _, from := range []string{"1000-1060", "2000-2060", "3000-3060", "4000-4060", "5000-5060", "6000-6060"} {
		many = append(many, "a.example:"+from)
	}
	if got := compile(t, allow(many...)).Setup().Ports; len(got) > 256 {
		t.Errorf("%d ports", len(got))
	}
}

func FuzzRules(f *testing.F) {
	for _, seed := range []string{"pypi.org", "*.a.b:1-2", "10.0.0.0/8", "[::1]:80", "sandbox:a:1", "ü.example:*", "0x7f.1"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		rules, err := egress.Compile(cove.Network{Mode: cove.NetworkAllow, Allow: []string{text}}, egress.CompileOptions{})
		if (rules == nil) != (err != nil) || err != nil && !errors.Is(err, cove.Invalid) && !errors.Is(err, cove.Forbidden) {
			t.Fatalf("%q: %v, %v", text, rules, err)
		}
		if err != nil {
			return
		}
		for _, private := range []string{"10.0.0.1", "127.0.0.1", "169.254.169.254", "192.168.0.1"} {
			if d := rules.Connect("", netip.MustParseAddr(private), 80); d.Allowed {
				t.Errorf("the rule %q allows %s", text, private)
			}
			if d := rules.Name(private); d.Allowed {
				t.Errorf("the rule %q allows %s as a name", text, private)
			}
		}
	})
}
