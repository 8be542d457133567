package preset

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/covehq/cove"
)

// clients makes a PATH on which nothing is but these programs, each a shell script, and a
// home of their own.
func clients(t *testing.T, scripts map[string]string) (home string) {
	t.Helper()
	dir := t.TempDir()
	for name, script := range scripts {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir)
	return t.TempDir()
}

// noFetch is a machine without a network.
func noFetch(context.Context, string) ([]byte, error) { return nil, errors.New("no network") }

// python answers as pip does that has this configuration, and an index of its own.
func python(config string) map[string]string {
	return map[string]string{"python3": `case "$*" in
"-m pip config list") cat <<'END'
` + config + `
END
;;
-c*) echo https://index.example/simple; echo files.example;;
*) exit 2;;
esac`}
}

func TestWhatClientsAreSetUpToUse(t *testing.T) {
	const npm = `[ "$*" = "config list --json" ] || exit 2; cat <<'END'
`
	tests := map[string]struct {
		preset  string
		scripts map[string]string
		want    []string
		warning string
	}{
		"pip's default index, and the host of its files": {
			preset: "pip", scripts: python(""), want: []string{"index.example:443", "files.example:443"},
		},
		"pip's mirror takes the place of the default": {
			preset: "pip", scripts: python("global.index-url='https://user:hush@mirror.example/simple'"), want: []string{"mirror.example:443"},
			warning: "credentials, which are for secrets",
		},
		"pip's environment wins over its files": {
			preset: "pip", scripts: python("global.index-url='https://one.example/'\n:env:.index-url='http://two.example/'"), want: []string{"two.example:80"},
		},
		"pip's several indexes in one value": {
			preset: "pip", scripts: python(`global.extra-index-url='\nhttps://one.example/\nhttps://two.example:8443/'`),
			want: []string{"index.example:443", "files.example:443", "one.example:443", "two.example:8443"},
		},
		"the files of pip's default, which is configured as well": {
			preset: "pip", scripts: python("install.index-url='https://INDEX.example/simple/'"), want: []string{"index.example:443", "files.example:443"},
		},
		"pip without an index has its links alone": {
			preset: "pip", scripts: python(":env:.no-index='1'\nglobal.find-links='/srv/wheels https://wheels.example/all'"), want: []string{"wheels.example:443"},
		},
		"an index that is not switched off": {
			preset: "pip", scripts: python("global.no-index='false'"), want: []string{"index.example:443", "files.example:443"},
		},
		"pip's proxy without a scheme": {
			preset: "pip", scripts: python("global.proxy='user:hush@proxy.example:3128'"),
			want: []string{"index.example:443", "files.example:443", "proxy.example:3128"},
		},
		"npm's registry, those of scopes, and its proxy": {
			preset: "npm", scripts: map[string]string{"npm": npm + `{"registry":"https://npm.example/","@acme:registry":"http://user:hush@acme.example:4873","https-proxy":"http://proxy.example:3128","proxy":null,"cache":"/x"}
END`}, want: []string{"npm.example:443", "acme.example:4873", "proxy.example:3128"},
		},
		"go's proxies and its checksum database": {
			preset: "go", scripts: map[string]string{"go": `[ "$GOTOOLCHAIN" = local ] && echo '{"GOPROXY":"https://one.example|http://two.example/path,direct","GOSUMDB":"sum.example"}'`},
			want: []string{"one.example:443", "two.example:80", "sum.example:443"},
		},
		"go's checksum database at an URL": {
			preset: "go", scripts: map[string]string{"go": `echo '{"GOPROXY":"https://one.example","GOSUMDB":"sum.example+ab+cd https://mirror.example:8443/sum"}'`},
			want: []string{"one.example:443", "mirror.example:8443"},
		},
		"go without a checksum database": {
			preset: "go", scripts: map[string]string{"go": `echo '{"GOPROXY":"https://one.example","GOSUMDB":"off"}'`}, want: []string{"one.example:443"},
		},
		"apt's sources and proxies": {
			preset: "apt", scripts: map[string]string{
				"apt-get":    `[ "$*" = 'update --print-uris' ] && printf "'http://deb.example/debian/dists/x/InRelease' a 0 \n'http://deb.example/debian/dists/x/Packages' b 0 \n'https://sec.example/dists/x/InRelease' c 0 \n'cdrom:[Debian]/dists/x' d 0 \n'file:/srv/repo/dists/x' e 0 \n"`,
				"apt-config": `printf 'Acquire::http::Proxy http://proxy.example:3142\nAcquire::http::Proxy::deb.example DIRECT\nAPT::Architecture amd64\n'`,
			}, want: []string{"deb.example:80", "sec.example:443", "proxy.example:3142"},
		},
		"a private name is told": {
			preset: "npm", scripts: map[string]string{"npm": npm + `{"registry":"http://npm.corp:4873"}
END`}, want: []string{"npm.corp:4873"}, warning: "npm.corp is private",
		},
		"a name without a dot is told": {
			preset: "npm", scripts: map[string]string{"npm": npm + `{"registry":"http://verdaccio:4873"}
END`}, want: []string{"verdaccio.:4873"}, warning: "verdaccio is private",
		},
		"a private address is told": {
			preset: "npm", scripts: map[string]string{"npm": npm + `{"registry":"http://192.168.7.1"}
END`}, want: []string{"192.168.7.1:80"}, warning: "192.168.7.1 is private",
		},
		"this machine by its loopback is told": {
			preset: "npm", scripts: map[string]string{"npm": npm + `{"registry":"http://localhost:4873"}
END`}, want: []string{"localhost.:4873"}, warning: "inside of a sandbox the sandbox itself",
		},
		"an IPv6 address is left out": {
			preset: "npm", scripts: map[string]string{"npm": npm + `{"registry":"http://[2001:db8::1]/","@a:registry":"https://a.example"}
END`}, want: []string{"a.example:443"}, warning: "no way out for IPv6",
		},
		"a scheme that is not HTTP's is left out": {
			preset: "npm", scripts: map[string]string{"npm": npm + `{"registry":"ftp://user:hush@ftp.example/","@a:registry":"https://a.example"}
END`}, want: []string{"a.example:443"}, warning: "scheme ftp is left out",
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if test.scripts["npm"] != "" || test.scripts["python3"] != "" {
				test.scripts["cat"] = `while IFS= read -r line; do echo "$line"; done`
			}
			for script, text := range test.scripts { // echo of a shell may read escapes
				test.scripts[script] = strings.ReplaceAll(text, `echo "$line"`, `printf '%s\n' "$line"`)
			}
			p := New(Options{Home: clients(t, test.scripts), Fetch: noFetch})
			got, err := p.Rules(test.preset)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
			for _, preset := range p.List(t.Context()) {
				if preset.Name != test.preset {
					continue
				}
				text := strings.Join(append(preset.Warnings, preset.Source), "\n")
				if !strings.Contains(text, test.warning) || test.warning == "" && len(preset.Warnings) > 0 {
					t.Errorf("got warnings %q, want %q", preset.Warnings, test.warning)
				}
				if strings.Contains(text, "hush") {
					t.Errorf("credentials are shown: %s", text)
				}
			}
		})
	}
}

func TestTheClientInsideUsesTheSameServers(t *testing.T) {
	const npm = `[ "$*" = "config list --json" ] && echo '{"registry":"https://npm.example/"}'`
	for name, test := range map[string]struct {
		preset  string
		scripts map[string]string
		want    map[string]string
	}{
		"pip's default": {preset: "pip", scripts: python("")},
		"pip's mirror": {
			preset: "pip", scripts: python("global.index-url='https://mirror.example/simple'\nglobal.extra-index-url='https://more.example/'"),
			want: map[string]string{"PIP_INDEX_URL": "https://mirror.example/simple", "PIP_EXTRA_INDEX_URL": "https://more.example/"},
		},
		"one with credentials is for the daemon alone": {
			preset: "pip", scripts: python("global.index-url='https://user:hush@mirror.example/simple'\nglobal.extra-index-url='https://more.example/'"),
			want: map[string]string{"PIP_EXTRA_INDEX_URL": "https://more.example/"},
		},
		"npm's registry": {preset: "npm", scripts: map[string]string{"npm": npm}, want: map[string]string{"npm_config_registry": "https://npm.example/"}},
		"go's proxies": {
			preset: "go", scripts: map[string]string{"go": `echo '{"GOPROXY":"https://one.example|direct","GOSUMDB":"off"}'`},
			want: map[string]string{"GOPROXY": "https://one.example|direct", "GOSUMDB": "off"},
		},
		"go's proxies, one with credentials": {
			preset: "go", scripts: map[string]string{"go": `echo '{"GOPROXY":"https://user:hush@one.example,direct","GOSUMDB":"off"}'`},
			want: map[string]string{"GOSUMDB": "off"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			if test.scripts["python3"] != "" {
				test.scripts["cat"] = `while IFS= read -r line; do printf '%s\n' "$line"; done`
			}
			p := New(Options{Home: clients(t, test.scripts), Fetch: noFetch})
			if diff := cmp.Diff(test.want, p.Environment(test.preset)); diff != "" {
				t.Error(diff)
			}
			if got := p.Environment("apt"); got != nil {
				t.Errorf("of a preset without variables: %v", got)
			}
		})
	}
}

func TestClientsThatCantBeAsked(t *testing.T) {
	tests := map[string]struct {
		preset  string
		scripts map[string]string
		want    string
	}{
		"npm is missing":                 {"npm", nil, "npm is not installed on the daemon's machine"},
		"python is missing":              {"pip", nil, "python3 is not installed"},
		"go is missing":                  {"go", nil, "go is not installed"},
		"cargo is missing":               {"cargo", nil, "cargo is not installed"},
		"apt is missing":                 {"apt", nil, "apt-get is not installed"},
		"python without pip":             {"pip", map[string]string{"python3": "exit 1"}, "it can't be asked: exit status 1"},
		"npm says nonsense":              {"npm", map[string]string{"npm": "echo hello"}, "can't be read"},
		"npm is set up for no server":    {"npm", map[string]string{"npm": "echo {}"}, "set up to use no server"},
		"go goes to each module's host":  {"go", map[string]string{"go": `echo '{"GOPROXY":"direct","GOSUMDB":"sum.example"}'`}, "GOPROXY is direct"},
		"go does not go anywhere":        {"go", map[string]string{"go": `echo '{"GOPROXY":"off","GOSUMDB":"off"}'`}, "set up to use no server"},
		"cargo asks nobody":              {"cargo", map[string]string{"cargo": "exit 1"}, "it asks no server for its index"},
		"a pip that knows no default":    {"pip", map[string]string{"python3": `[ "$1" = -m ]`}, "does not say which one is its default"},
		"an error has no credentials":    {"npm", map[string]string{"npm": "echo https://user:hush@npm.example >&2; exit 3"}, "exit status 3"},
		"an URL that can't be read, too": {"npm", map[string]string{"npm": `echo '{"registry":"https://user:hush@npm.example:port/"}'`}, "set up to use no server"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			p := New(Options{Home: clients(t, test.scripts), Fetch: noFetch})
			_, err := p.Rules(test.preset)
			if !errors.Is(err, cove.Unavailable) || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("got %v, want %q", err, test.want)
			}
			if !strings.Contains(cove.HintOf(err), "presets in cove.yaml") || strings.Contains(err.Error()+cove.HintOf(err), "hush") {
				t.Errorf("hint %q of %v", cove.HintOf(err), err)
			}
			i := slices.IndexFunc(p.List(t.Context()), func(n cove.NetworkPreset) bool { return n.Name == test.preset })
			if listed := p.List(t.Context())[i]; !strings.Contains(listed.Error, test.want) || !strings.Contains(listed.Error, "presets in cove.yaml") || len(listed.Rules) > 0 {
				t.Errorf("listed as %+v", listed)
			}
		})
	}
}

func TestAListOfMirrorsOfApt(t *testing.T) {
	list := filepath.Join(t.TempDir(), "mirrors.list")
	if err := os.WriteFile(list, []byte("# ours\nhttp://one.example/debian\tpriority:1\n\nhttps://two.example/debian\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := New(Options{Home: clients(t, map[string]string{"apt-get": "echo \"'mirror+file:" + list + "/dists/stable/InRelease' name 0\"", "apt-config": "true"})})
	got, err := p.Rules("apt")
	if diff := cmp.Diff([]string{"one.example:80", "two.example:443"}, got); diff != "" || err != nil {
		t.Error(err, diff)
	}
}

func TestTheOperatorsPresets(t *testing.T) {
	p := New(Options{Home: clients(t, nil), Own: map[string][]string{"git": {"git.example:443", "*.git.example"}, "npm": {"npm.example"}}})
	for name, want := range map[string][]string{"git": {"git.example:443", "*.git.example"}, "npm": {"npm.example"}} {
		if got, err := p.Rules(name); err != nil || !slices.Equal(got, want) {
			t.Errorf("Rules(%s) = %v, %v, want %v", name, got, err, want)
		}
	}
	if want := []string{"apt", "cargo", "git", "go", "npm", "pip"}; !slices.Equal(p.Names(), want) {
		t.Errorf("Names() = %v, want %v", p.Names(), want)
	}
	if listed := p.List(t.Context())[2]; listed.Source != "presets of cove.yaml" || listed.Error != "" {
		t.Errorf("git is listed as %+v", listed)
	}
	_, err := p.Rules("gem")
	if !errors.Is(err, cove.NotFound) || !strings.Contains(cove.HintOf(err), "use one of apt, cargo, git, go, npm, pip") {
		t.Errorf("got %v, %s", err, cove.HintOf(err))
	}
}

func TestAnswersAreKeptForAWhile(t *testing.T) {
	asked, fail := 0, true
	p := New(Options{
		LookPath: func(name string) (string, error) { return "/bin/" + name, nil },
		Run: func(context.Context, string, []string, []string) ([]byte, error) {
			if asked++; fail {
				return nil, errors.New("not yet")
			}
			return []byte(`{"registry":"https://npm.example"}`), nil
		},
	})
	now := time.Unix(1, 0)
	p.now = func() time.Time { return now }
	step := func(after time.Duration, want int, works bool) {
		t.Helper()
		now = now.Add(after)
		rules, err := p.Rules("npm")
		if asked != want || works != (err == nil) || works != (len(rules) == 1) {
			t.Errorf("after %v: asked %d times, want %d; %v, %v", after, asked, want, rules, err)
		}
		if works {
			rules[0] = "changed by the caller"
		}
	}
	step(0, 1, false)
	step(failedTime-1, 1, false)
	fail = false
	step(1, 2, true)
	step(freshTime-1, 2, true)
	if rules, _ := p.Rules("npm"); !slices.Equal(rules, []string{"npm.example:443"}) {
		t.Errorf("what is kept was changed: %v", rules)
	}
	step(1, 3, true)
}

func TestWhoeverGivesUpLeavesNoErrorBehind(t *testing.T) {
	p := New(Options{Home: clients(t, map[string]string{"npm": `echo '{"registry":"https://npm.example"}'`})})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	p.List(ctx)
	if _, err := p.Rules("npm"); err != nil {
		t.Error(err)
	}
}

func TestAClientSeesOnlyWhatIsMeantForIt(t *testing.T) {
	t.Setenv("GITHUB_TOKEN", "hush")
	t.Setenv("npm_config_registry", "https://npm.example")
	home := clients(t, map[string]string{"npm": `[ -z "$GITHUB_TOKEN" ] && [ "$PWD" = / ] || exit 4; echo "{\"registry\":\"$npm_config_registry\",\"cache\":\"$HOME\"}"; echo "$HOME" > "$HOME/seen"`})
	rules, err := New(Options{Home: home}).Rules("npm")
	if err != nil || !slices.Equal(rules, []string{"npm.example:443"}) {
		t.Fatalf("got %v, %v", rules, err)
	}
	if seen, err := os.ReadFile(filepath.Join(home, "seen")); string(seen) != home+"\n" {
		t.Errorf("HOME was %q, %v", seen, err)
	}
}

func TestAClientThatHangsIsEnded(t *testing.T) {
	// The child holds the pipe open, and is of the same group.
	home := clients(t, map[string]string{"npm": `/bin/sleep 600 & echo $! > "$HOME/pid"; wait`})
	m := machine{home: home, lookPath: lookPath, run: run}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		for ctx.Err() == nil {
			if text, _ := os.ReadFile(filepath.Join(home, "pid")); strings.HasSuffix(string(text), "\n") {
				cancel()
			}
			time.Sleep(time.Millisecond)
		}
	}()
	if _, err := askNpm(ctx, m); err == nil || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("got %v", err)
	}
	pid, err := os.ReadFile(filepath.Join(home, "pid"))
	if err != nil {
		t.Fatal(err)
	}
	for {
		stat, err := os.ReadFile("/proc/" + strings.TrimSpace(string(pid)) + "/stat")
		if err != nil || strings.Contains(string(stat), ") Z ") {
			return // it is dead; the test's time limit ends this otherwise
		}
		time.Sleep(time.Millisecond)
	}
}

func TestOutputIsBounded(t *testing.T) {
	var output capped
	for range 3 {
		if n, err := output.Write(make([]byte, maxOutput/2+1)); n != maxOutput/2+1 || err != nil {
			t.Fatalf("Write = %d, %v", n, err)
		}
	}
	if output.Len() != maxOutput {
		t.Errorf("kept %d bytes, want %d", output.Len(), maxOutput)
	}
}
