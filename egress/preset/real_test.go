package preset

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// alone is a machine whose clients, where they are installed, find no configuration but
// what the test puts into their home.
func alone(t *testing.T, client string) (home string) {
	t.Helper()
	if _, err := exec.LookPath(client); err != nil {
		t.Skipf("%s is not installed", client)
	}
	for _, entry := range os.Environ() {
		name, value, _ := strings.Cut(entry, "=")
		for _, prefix := range []string{"PIP_", "npm_config_", "NPM_CONFIG_", "GOPROXY", "GOSUMDB", "GONOSUMDB", "GOENV", "CARGO_", "XDG_CONFIG", "APT_CONFIG"} {
			if strings.HasPrefix(name, prefix) {
				t.Setenv(name, value) // so that it is put back
				os.Unsetenv(name)
			}
		}
	}
	if os.Getenv("RUSTUP_HOME") == "" && client == "cargo" {
		t.Setenv("RUSTUP_HOME", filepath.Join(os.Getenv("HOME"), ".rustup"))
	}
	return t.TempDir()
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// has fails unless the rules are among those of the preset, which may have others by the
// machine's own configuration, and which the test does not show.
func has(t *testing.T, o Options, preset string, want ...string) {
	t.Helper()
	got, err := New(o).Rules(preset)
	if err != nil {
		t.Fatal(err)
	}
	for _, rule := range want {
		if !slices.Contains(got, rule) {
			t.Errorf("%s is not among the %d rules of %s", rule, len(got), preset)
		}
	}
}

func TestRealPip(t *testing.T) {
	home := alone(t, "python3")
	if exec.CommandContext(t.Context(), "python3", "-m", "pip", "--version").Run() != nil {
		t.Skip("pip is not installed")
	}
	write(t, filepath.Join(home, ".config/pip/pip.conf"), "[global]\nindex-url = https://user:hush@pip.example/simple\nextra-index-url =\n  https://one.example/x\n  http://two.example:8080/y\n")
	has(t, Options{Home: home}, "pip", "pip.example:443", "one.example:443", "two.example:8080")
	t.Setenv("PIP_INDEX_URL", "http://env.example/simple")
	has(t, Options{Home: home}, "pip", "env.example:80", "one.example:443")
}

func TestRealPipKnowsItsDefault(t *testing.T) {
	home := alone(t, "python3")
	t.Setenv("PIP_CONFIG_FILE", os.DevNull) // which has no configuration, the machine's neither
	got, err := New(Options{Home: home}).Rules("pip")
	if err != nil || len(got) != 2 || !strings.HasSuffix(got[0], ":443") || !strings.HasSuffix(got[1], ":443") {
		t.Errorf("got %d rules, %v; want the index and the host of its files", len(got), err)
	}
}

func TestRealNpm(t *testing.T) {
	home := alone(t, "npm")
	write(t, filepath.Join(home, ".npmrc"), "registry=https://npm.example/\n@acme:registry=http://acme.example:4873/\n//acme.example:4873/:_authToken=hush\n")
	has(t, Options{Home: home}, "npm", "npm.example:443", "acme.example:4873")
}

func TestRealGo(t *testing.T) {
	home := alone(t, "go")
	write(t, filepath.Join(home, ".config/go/env"), "GOPROXY=https://user:hush@go.example/mod,direct\nGOSUMDB=sum.example\n")
	has(t, Options{Home: home}, "go", "go.example:443", "sum.example:443")
}

func TestRealApt(t *testing.T) {
	alone(t, "apt-get")
	etc := t.TempDir()
	write(t, filepath.Join(etc, "sources.list"), "deb http://deb.example/debian stable main\n")
	write(t, filepath.Join(etc, "sources.list.d/more.sources"), "Types: deb\nURIs: https://more.example:8443/debian\nSuites: stable\nComponents: main\n")
	write(t, filepath.Join(etc, "apt.conf"), "Dir::Etc \""+etc+"\";\nAcquire::http::Proxy \"http://proxy.example:3142\";\n")
	t.Setenv("APT_CONFIG", filepath.Join(etc, "apt.conf"))
	has(t, Options{}, "apt", "deb.example:80", "more.example:8443", "proxy.example:3142")
}

// TestRealCargo has a mirror in memory, whose index says where its files are.
func TestRealCargo(t *testing.T) {
	home := alone(t, "cargo")
	mirror := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/index/config.json" {
			http.NotFound(w, r)
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]string{"dl": "https://files.example/{crate}", "api": "https://api.example"})
	}))
	defer mirror.Close()
	write(t, filepath.Join(home, ".cargo/config.toml"), "[source.crates-io]\nreplace-with = \"mirror\"\n[source.mirror]\nregistry = \"sparse+"+mirror.URL+"/index/\"\n[registries.own]\nindex = \"sparse+https://own.example/\"\n")
	o := Options{Home: home, Fetch: func(ctx context.Context, url string) ([]byte, error) {
		if !strings.HasPrefix(url, mirror.URL) {
			return noFetch(ctx, url)
		}
		return fetch(ctx, url)
	}}
	has(t, o, "cargo", strings.TrimPrefix(mirror.URL, "http://"), "files.example:443", "api.example:443", "own.example:443")
}

func TestRealCargoIsAskedForItsDefault(t *testing.T) {
	home := alone(t, "cargo")
	var index string
	got, err := New(Options{Home: home, Fetch: func(_ context.Context, url string) ([]byte, error) {
		index = url
		return []byte(`{"dl":"https://files.example/crates"}`), nil
	}}).Rules("cargo")
	if err != nil || len(got) != 2 || !slices.Contains(got, "files.example:443") || !strings.HasPrefix(index, "https://") || !strings.HasSuffix(index, "/config.json") {
		t.Errorf("got %d rules, %v; want the index and the host of its files", len(got), err)
	}
}
