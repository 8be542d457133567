package cli

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestSettingsOfTheNetwork(t *testing.T) {
	const file = `
resolver: 192.0.2.53
egress_proxy: http://user:hush@proxy.example:3128
presets:
  git: [git.example, "*.git.example:443"]
  api: ["203.0.113.0/24:443"]
`
	path := filepath.Join(t.TempDir(), "cove.yaml")
	if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	p := &program{config: path}
	serve := p.serveVerb()
	if err := p.configure(serve.Flags()); err != nil {
		t.Fatal(err)
	}
	for flag, want := range map[string]string{
		"resolver": "192.0.2.53:53", "egress-proxy": "http://user:xxxxx@proxy.example:3128",
		"presets": "api=203.0.113.0/24:443 git=git.example,*.git.example:443",
	} {
		if got := serve.Flags().Lookup(flag).Value.String(); got != want {
			t.Errorf("%s = %s, want %s", flag, got, want)
		}
	}
}

func TestMistakesInSettingsOfTheNetwork(t *testing.T) {
	tests := map[string]struct{ file, want string }{
		"a preset without a rule":      {"presets: {git: []}", "preset git has an empty rule"},
		"a preset that is a name":      {"presets: {git.example: [x.org]}", "is not NAME=RULE"},
		"a preset that is an address":  {"presets: {\"10\": [x.org]}", "is not NAME=RULE"},
		"a rule with a space":          {"presets: {git: [\"x.org y.org\"]}", "y.org is not NAME=RULE"},
		"presets that are no map":      {"presets: [git]", "read configuration"},
		"a resolver that is a name":    {"resolver: dns.example", "dns.example is not ADDRESS[:PORT]"},
		"a resolver without a port":    {"resolver: \"192.0.2.53:0\"", "is not ADDRESS[:PORT]"},
		"a proxy of an unknown scheme": {"egress_proxy: ftp://user:hush@proxy.example", "a proxy is http://"},
		"a proxy with a path":          {"egress_proxy: http://user:hush@proxy.example/path", "a proxy is http://"},
		"a proxy that is no URL":       {"egress_proxy: \"http://user:hush@proxy.example:port\"", "it is not the URL of a proxy"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "cove.yaml")
			if err := os.WriteFile(path, []byte(test.file), 0o600); err != nil {
				t.Fatal(err)
			}
			p := &program{config: path}
			err := p.configure(p.serveVerb().Flags())
			if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "hush") {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

func TestPresetsOfTheCommandLineWinByName(t *testing.T) {
	var p presets
	for _, text := range []string{"git=a.example,b.example api=c.example", "git=d.example"} {
		if err := p.Set(text); err != nil {
			t.Fatal(err)
		}
	}
	if !slices.Equal(p["git"], []string{"d.example"}) || !slices.Equal(p["api"], []string{"c.example"}) {
		t.Errorf("got %v", p)
	}
}
