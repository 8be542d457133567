package preset

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/covehq/cove"
)

// askCargo finds out which index cargo uses, with its replacement where there is one, the
// registries beside it, and where those keep their files.
func askCargo(ctx context.Context, m machine) (*servers, error) {
	cargo, err := m.find("cargo")
	if err != nil {
		return nil, err
	}
	indexes, err := cargoIndex(ctx, m, cargo)
	if err != nil {
		return nil, err
	}
	config := readCargo(ctx, m, cargo)
	for i, index := range indexes {
		for _, source := range config.Source {
			if sameHost(index, source.Registry) {
				indexes[i] = source.Registry // with its path
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(config.Registries)) {
		indexes = append(indexes, config.Registries[name].Index)
	}
	found := &servers{source: "cargo fetch and cargo's configuration"}
	for _, index := range indexes {
		if found.add(index) {
			found.addCrates(ctx, m, index)
		}
	}
	return found, nil
}

// cargoVariables are those of the environment that are meant for cargo.
func cargoVariables() []string { return []string{"CARGO_*", "RUSTUP_*"} }

// cargoIndex learns the index that cargo would use: it has cargo look for a crate by way
// of a proxy that notes what is asked for, and lets nothing through. Cargo has no command
// that tells its default.
func cargoIndex(ctx context.Context, m machine, cargo string) ([]string, error) {
	project, err := os.MkdirTemp("", "cove-preset-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(project)
	if err := writeProject(project); err != nil {
		return nil, err
	}
	proxy, err := listen()
	if err != nil {
		return nil, err
	}
	env := append(m.environment(cargoVariables()),
		"CARGO_HTTP_PROXY="+proxy.url(), "CARGO_NET_RETRY=0", "CARGO_NET_OFFLINE=false")
	// It fails, as it can't reach its index; what counts is what it asked for.
	_, _ = m.run(ctx, project, env, []string{cargo, "fetch", "--manifest-path", filepath.Join(project, "Cargo.toml")})
	asked := proxy.close()
	if len(asked) == 0 {
		return nil, cove.Errorf(cove.Unavailable, "", "", "it asks no server for its index", "run cargo fetch in a project to see what it does")
	}
	return asked, nil
}

func writeProject(dir string) error {
	// The name is reserved for no crate; whether there is one makes no difference.
	const manifest = "[package]\nname = \"cove-asks\"\nversion = \"0.0.0\"\n\n[lib]\npath = \"lib.rs\"\n\n[dependencies]\ncove-asks-for-the-index = \"1\"\n"
	if err := os.WriteFile(filepath.Join(dir, "Cargo.toml"), []byte(manifest), 0o600); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "lib.rs"), nil, 0o600)
}

// cargoConfig is what matters of cargo's configuration.
type cargoConfig struct {
	Source     map[string]struct{ Registry string }
	Registries map[string]struct{ Index string }
}

// readCargo returns cargo's configuration, of files and variables; of a cargo that does
// not print it, none.
func readCargo(ctx context.Context, m machine, cargo string) (config cargoConfig) {
	// The command is not stable; the variable lets a stable cargo run it.
	env := append(m.environment(cargoVariables()), "RUSTC_BOOTSTRAP=1")
	output, err := m.run(ctx, "/", env, []string{cargo, "-Z", "unstable-options", "config", "get", "--format", "json-value"})
	if err != nil || json.Unmarshal(output, &config) != nil {
		return cargoConfig{}
	}
	return config
}

// addCrates adds where an index has its files: its config.json says so, which cargo has
// kept, or else the index is asked.
// https://doc.rust-lang.org/cargo/reference/registry-index.html
func (s *servers) addCrates(ctx context.Context, m machine, index string) {
	u, err := url.Parse(strings.TrimPrefix(index, "sparse+"))
	if err != nil {
		return
	}
	home := cmp.Or(os.Getenv("CARGO_HOME"), filepath.Join(m.home, ".cargo"))
	kept, _ := filepath.Glob(filepath.Join(home, "registry", "index", u.Hostname()+"-*", "config.json"))
	var content []byte
	for _, path := range kept {
		if data, err := readFile(path); err == nil {
			content = data
		}
	}
	if content == nil {
		u.Fragment, u.RawQuery = "", ""
		content, err = m.fetch(ctx, u.JoinPath("config.json").String())
	}
	var config struct{ DL, API string }
	if err != nil || json.Unmarshal(content, &config) != nil || config.DL == "" {
		s.warn("where " + u.Hostname() + " has its files is not known before cargo has used it: allow that host too")
		return
	}
	s.add(config.DL)
	s.add(config.API)
}

// proxy is an HTTP proxy on loopback that notes which servers are asked for, and refuses.
type proxy struct {
	listener net.Listener
	served   sync.WaitGroup
	asked    []string // of the goroutine that serves; of close after that
}

func listen() (*proxy, error) {
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &proxy{listener: listener}
	p.served.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			p.note(conn)
		}
	})
	return p, nil
}

func (p *proxy) url() string { return "http://" + p.listener.Addr().String() }

// close ends the proxy and returns what was asked for.
func (p *proxy) close() []string {
	_ = p.listener.Close() // which ends the loop
	p.served.Wait()
	return p.asked
}

func (p *proxy) note(conn net.Conn) {
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Second)) // cargo writes at once
	request, err := http.ReadRequest(bufio.NewReader(conn))
	if err != nil {
		return
	}
	server := "http://" + request.Host
	if request.Method == http.MethodConnect {
		server = "https://" + request.Host
	}
	if !slices.Contains(p.asked, server) {
		p.asked = append(p.asked, server)
	}
	_, _ = conn.Write([]byte("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"))
}
