package domain_test

import (
	"strings"
	"testing"

	"github.com/covehq/cove/egress/domain"
)

func TestNamesAreComparedInOneSpelling(t *testing.T) {
	long := strings.Repeat("a.", 126) + "org"
	for name, want := range map[string]string{
		"pypi.org": "pypi.org", "PyPI.ORG.": "pypi.org", "intranet": "intranet", "_dmarc.a-b.test": "_dmarc.a-b.test", "r-.test": "r-.test",
		"x.1a": "x.1a", "0x.test": "0x.test", long[2:]: long[2:], strings.Repeat("a", 63) + ".org": strings.Repeat("a", 63) + ".org",
		// What is none.
		"": "", ".": "", "..": "", "a..org": "", ".org": "", "a.org..": "", long: "", strings.Repeat("a", 64) + ".org": "", "-a.test": "",
		"a b.test": "", "a/b.test": "", "a:80": "", "*.test": "", "bücher.test": "", "a\x00.test": "", "a\n.test": "", "[::1]": "", "a%2e.test": "",
		// Addresses, in every spelling that inet_aton reads.
		"192.0.2.1": "", "192.0.2.1.": "", "2130706433": "", "0x7f.1": "", "0177.0.0.1": "", "a.0x": "", "a.0xff": "", "0X7F000001": "", "a.127": "",
	} {
		if got, err := domain.Clean(name); got != want || (err == nil) != (want != "") {
			t.Errorf("%.40q is %q, %v, want %q", name, got, err, want)
		}
	}
}

func TestPatternsMeanOneNameOrThoseBelow(t *testing.T) {
	for _, test := range []struct{ pattern, names, others string }{
		{"pypi.org", "pypi.org", "a.pypi.org apypi.org org"},
		{"*.example.org", "a.example.org a.b.example.org", "example.org aexample.org example.org.test"},
		{"Bücher.example.", "xn--bcher-kva.example", "a.xn--bcher-kva.example"},
		{"intranet", "intranet", "a.intranet"},
	} {
		pattern, flaw := domain.ParsePattern(test.pattern)
		if flaw != nil {
			t.Errorf("%s %s", test.pattern, flaw.Text)
			continue
		}
		for name := range strings.FieldsSeq(test.names) {
			if !pattern.Matches(name) {
				t.Errorf("%s does not mean %s", pattern, name)
			}
		}
		for name := range strings.FieldsSeq(test.others) {
			if pattern.Matches(name) {
				t.Errorf("%s means %s", pattern, name)
			}
		}
	}
}

func TestHostsAreOneText(t *testing.T) {
	for text, want := range map[string]string{
		"api.example.org": "api.example.org", "API.Example.org.:443": "api.example.org", "*.example.org:8443": "*.example.org:8443",
		"bücher.example:80": "xn--bcher-kva.example:80", "intranet": "intranet", "*.org": "*.org",
		"": "", "*": "", "*.": "", "**.test": "", "api.*.test": "", "*.*.test": "", "a*.test": "", "192.0.2.1": "", "0x7f.1:443": "", "[::1]:443": "", "::1": "",
		"https://example.org": "", "example.org/path": "", "example.org:": "", "example.org:0": "", "example.org:65536": "", "example.org:+443": "",
		"example.org:0443": "", "example.org:80-90": "", "example.org:*": "", "example.org:443:443": "", "a b": "",
		strings.Repeat("ü", 2000): "",
	} {
		host, flaw := domain.ParseHost(text)
		if want == "" {
			if flaw == nil || flaw.Text == "" || flaw.Hint == "" {
				t.Errorf("%.40q is %s, want it refused with a reason and a hint", text, host)
			}
			continue
		}
		if flaw != nil || host.String() != want {
			t.Errorf("%q is %s, %v, want %s", text, host, flaw, want)
		}
		if again, flaw := domain.ParseHost(want); flaw != nil || again != host {
			t.Errorf("%q is read as %v, %v, want %v", want, again, flaw, host)
		}
	}
}

func TestAHostCoversNoMoreThanItIs(t *testing.T) {
	for _, test := range []struct {
		host, other string
		want        bool
	}{
		{"a.test", "a.test:443", true}, {"a.test", "a.test:80", false}, {"a.test", "*.a.test", false},
		{"*.a.test", "*.a.test", true}, {"*.a.test", "x.a.test", true}, {"*.a.test", "*.x.a.test", true}, {"*.a.test", "a.test", false},
		{"*.a.test:8443", "x.a.test", false}, {"*.a.test", "*.test", false}, {"*.a.test", "xa.test", false}, {"*.a.test", "*.xa.test", false},
	} {
		host, flaw := domain.ParseHost(test.host)
		other, flaw2 := domain.ParseHost(test.other)
		if flaw != nil || flaw2 != nil || host.Covers(other) != test.want {
			t.Errorf("%s covers %s: %v, want %v", test.host, test.other, !test.want, test.want)
		}
	}
}

// FuzzParseHost holds that what was accepted is accepted again, as the same.
func FuzzParseHost(f *testing.F) {
	for _, text := range []string{"a.test", "*.A.test.:8443", "bücher.example", "xn--a.test", "0x7f.1", "a:0443"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		host, flaw := domain.ParseHost(text)
		if flaw != nil {
			return
		}
		if again, flaw := domain.ParseHost(host.String()); flaw != nil || again != host {
			t.Errorf("%q is %v, and %q is %v, %v", text, host, host.String(), again, flaw)
		}
	})
}
