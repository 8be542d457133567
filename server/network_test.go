package server

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/covehq/cove"
	"github.com/covehq/cove/client"
	"github.com/covehq/cove/egress"
	"github.com/covehq/cove/guest/wire"
	"github.com/covehq/cove/sandbox"
	"github.com/covehq/cove/secret"
	"github.com/covehq/cove/store/sqlite"
)

// asking stands before an agent and asks for what programs inside would.
type asking struct {
	lookups chan lookup
	setups  chan wire.NetworkSetup
}

type lookup struct {
	name     string
	answered chan struct{}
}

// ask has a name looked up, and returns when that is answered.
func (a *asking) ask(name string) {
	l := lookup{name, make(chan struct{})}
	a.lookups <- l
	<-l.answered
}

// before returns an address at which the agent behind dial is reached, but for its way out.
func (a *asking) before(t testing.TB, dial func(context.Context) (net.Conn, error)) string {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+wire.EgressPath, a.spare)
	mux.HandleFunc("POST "+wire.NetworkPath, func(w http.ResponseWriter, r *http.Request) {
		var setup wire.NetworkSetup
		if err := json.NewDecoder(r.Body).Decode(&setup); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		a.setups <- setup
		w.WriteHeader(http.StatusNoContent)
	})
	mux.Handle("/", &httputil.ReverseProxy{
		FlushInterval: -1,
		Rewrite:       func(p *httputil.ProxyRequest) { p.Out.URL.Scheme, p.Out.URL.Host = "http", "agent" },
		Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
		},
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

// spare is one stream, on which each lookup is asked for that the test wants.
func (a *asking) spare(w http.ResponseWriter, _ *http.Request) {
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+wire.EgressProtocol+"\r\n\r\n")
	gone := make(chan struct{})
	replies := make(chan struct{})
	go func() {
		defer close(gone)
		var reply wire.EgressReply
		for wire.ReadFrame(buffered, &reply) == nil {
			replies <- struct{}{}
		}
	}()
	for {
		select {
		case l := <-a.lookups:
			_ = wire.WriteFrame(conn, wire.EgressRequest{Kind: wire.EgressLookup, Name: l.name})
			select {
			case <-replies:
			case <-gone:
			}
			close(l.answered)
		case <-gone:
			return
		}
	}
}

// unopened is an Opener for hosts of which no connection is made.
type unopened struct{}

func (unopened) Serve(context.Context, net.Conn, egress.Opened) error { return errors.New("not here") }

// presets are those of a machine.
type presets map[string][]string

func (p presets) Rules(name string) ([]string, error) {
	if p[name] == nil {
		return nil, cove.Errorf(cove.NotFound, "preset", name, "there is no such preset", "use pip")
	}
	return p[name], nil
}

func (presets) Environment(string) map[string]string { return nil }

func (p presets) List(context.Context) []cove.NetworkPreset {
	return []cove.NetworkPreset{{Name: "pip", Rules: p["pip"], Source: "a test"}}
}

// outward is a world whose sandboxes reach out, as far as names that resolve.
func outward(t *testing.T, o Options) (*world, *asking) {
	t.Helper()
	a := &asking{lookups: make(chan lookup), setups: make(chan wire.NetworkSetup, 100)}
	gateway, err := egress.New(egress.Options{
		Logger: slog.New(slog.DiscardHandler),
		Lookup: func(context.Context, string) ([]netip.Addr, error) {
			return []netip.Addr{netip.MustParseAddr("1.2.3.4")}, nil
		},
		Dial: func(context.Context, netip.AddrPort) (net.Conn, error) { return nil, errors.New("no network") },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { gateway.Close() })
	dir := t.TempDir()
	records, err := sqlite.Open(t.Context(), filepath.Join(dir, "vault"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { records.Close() })
	vault, err := secret.Open(records, filepath.Join(dir, "key"))
	if err != nil {
		t.Fatal(err)
	}
	on := &memory{t: t, front: a.before, network: sandbox.NetworkOptions{
		Gateway: gateway, Opener: unopened{}, Vault: vault, Presets: presets{"pip": {"index.example:443"}},
	}}
	return newWorldOf(t, o, on), a
}

// reaching makes a sandbox with a network.
func (w *world) reaching(n cove.Network) *client.Sandbox {
	w.t.Helper()
	spec := w.spec()
	spec.Network = n
	box, err := w.client.Create(w.t.Context(), spec, client.CreateOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = box.Remove(context.Background()) })
	return box
}

func TestTheNetworkIsShownAndChanged(t *testing.T) {
	w, _ := outward(t, Options{})
	box := w.reaching(cove.Network{Allow: []string{"pip"}})
	status, err := box.Network(t.Context())
	if err != nil || status.Network.Mode != cove.NetworkAllow || !slices.Equal(status.Network.Allow, []string{"pip"}) {
		t.Fatalf("got %+v, %v", status, err)
	}
	reply, body := w.request(http.MethodPatch, "/v1/sandboxes/"+box.ID+"/network", jsonHeader(), strings.NewReader(`{"deny":["evil.example"],"limits":{"connections":7}}`))
	if reply.StatusCode != http.StatusOK || !strings.Contains(body, `"deny":["evil.example"]`) || !strings.Contains(body, `"allow":["pip"]`) || !strings.Contains(body, `"connections":7`) {
		t.Errorf("what is absent stays: %d %s", reply.StatusCode, body)
	}
	none := cove.NetworkNone
	if status, err = box.SetNetwork(t.Context(), cove.NetworkUpdate{Mode: &none, Allow: &[]string{}}); err != nil || status.Network.Mode != none || len(status.Network.Allow) > 0 {
		t.Errorf("got %+v, %v", status, err)
	}
	if err := box.Refresh(t.Context()); err != nil || box.Spec.Network.Mode != none {
		t.Errorf("the sandbox shows %+v, %v", box.Spec.Network, err)
	}
}

func TestMistakesInTheNetwork(t *testing.T) {
	w, _ := outward(t, Options{})
	box := w.reaching(cove.Network{Allow: []string{"pip"}})
	final := w.reaching(cove.Network{Allow: []string{"pip"}, Final: true})
	for name, test := range map[string]struct {
		path, body string
		status     int
		want       string
	}{
		"a mode that is none":          {box.ID, `{"mode":"all"}`, 400, "mode"},
		"a preset that is none":        {box.ID, `{"allow":["gem"]}`, 400, "gem"},
		"a key that is unknown":        {box.ID, `{"alow":[]}`, 400, "alow"},
		"no list":                      {box.ID, `{"allow":"pip"}`, 400, "allow"},
		"a network that is final":      {final.ID, `{"allow":[]}`, 409, "final"},
		"a private address":            {box.ID, `{"allow":["10.0.0.1"]}`, 403, "egress: {private:"},
		"a secret that nobody stored":  {box.ID, `{"secrets":[{"name":"NONE","hosts":["x.example"]}]}`, 404, "NONE"},
		"of a sandbox that is not one": {"nobody", `{"allow":[]}`, 404, "nobody"},
	} {
		t.Run(name, func(t *testing.T) {
			reply, body := w.request(http.MethodPatch, "/v1/sandboxes/"+test.path+"/network", jsonHeader(), strings.NewReader(test.body))
			if reply.StatusCode != test.status || !strings.Contains(body, test.want) {
				t.Errorf("got %d %s, want %d with %q", reply.StatusCode, body, test.status, test.want)
			}
		})
	}
	if status, err := box.Network(t.Context()); err != nil || !slices.Equal(status.Network.Allow, []string{"pip"}) {
		t.Errorf("a mistake has changed it to %+v, %v", status.Network, err)
	}
}

func TestTheNetworkLog(t *testing.T) {
	w, inside := outward(t, Options{})
	box := w.reaching(cove.Network{Allow: []string{"pip"}})
	path := "/v1/sandboxes/" + box.ID + "/network/log"
	if reply, body := w.request(http.MethodGet, path, nil, nil); reply.StatusCode != http.StatusOK || strings.TrimSpace(body) != `{"events":[]}` {
		t.Errorf("before anything: %d %s", reply.StatusCode, body)
	}
	names := func(after uint64) (names []string) {
		events, _, err := box.NetworkEvents(t.Context(), after)
		if err != nil {
			t.Fatal(err)
		}
		for _, event := range events {
			names = append(names, event.Name)
		}
		return names
	}
	for _, name := range []string{"one.example", "index.example", "two.example"} {
		inside.ask(name)
	}
	eventually(t, "what was refused is told", func() bool { return len(names(0)) == 2 })
	if got := names(0); !slices.Equal(got, []string{"one.example", "two.example"}) {
		t.Errorf("refused lookups are %v", got)
	}
	events, lost, err := box.NetworkEvents(t.Context(), 1)
	if err != nil || lost || len(events) != 1 || events[0].Seq != 2 || events[0].Allowed || !strings.Contains(events[0].Reason, "--allow two.example") {
		t.Errorf("after 1: %+v, %v, %v", events, lost, err)
	}
	if got := names(2); got != nil {
		t.Errorf("after the last: %v", got)
	}
	if got := names(1 << 40); len(got) != 2 {
		t.Errorf("after a number of an earlier daemon: %v, want all", got)
	}
	if reply, body := w.request(http.MethodGet, path+"?after=99999999999999999999", nil, nil); reply.StatusCode != http.StatusBadRequest || !strings.Contains(body, "out of range") {
		t.Errorf("a number that is none: %d %s", reply.StatusCode, body)
	}
}

func TestTheNetworkLogIsFollowedToTheEndOfTheSandbox(t *testing.T) {
	w, inside := outward(t, Options{})
	box := w.reaching(cove.Network{})
	inside.ask("one.example")
	inside.ask("two.example")
	eventually(t, "both are told", func() bool {
		events, _, _ := box.NetworkEvents(t.Context(), 0)
		return len(events) == 2
	})
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://cove/v1/sandboxes/"+box.ID+"/network/log?after=0", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header = http.Header{"Accept": {"text/event-stream"}, "Last-Event-Id": {"1"}}
	resumed, err := w.client.HTTP().Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer resumed.Body.Close()
	lines := bufio.NewScanner(resumed.Body)
	var first []string
	for len(first) < 3 && lines.Scan() {
		if lines.Text() != "" && !strings.HasPrefix(lines.Text(), ":") {
			first = append(first, lines.Text())
		}
	}
	if len(first) < 3 || first[0] != "event: lookup" || first[1] != "id: 2" || !strings.Contains(first[2], "two.example") {
		t.Errorf("resumed after 1: %q", first)
	}
	var wait sync.WaitGroup
	defer wait.Wait()
	var got []string
	for event, err := range box.FollowNetwork(t.Context(), 0) {
		if err != nil {
			if !errors.Is(err, cove.Gone) && !errors.Is(err, cove.NotFound) {
				t.Errorf("at the end: %v", err)
			}
			break
		}
		switch got = append(got, event.Name); len(got) {
		case 2:
			wait.Go(func() { inside.ask("three.example") })
		case 3:
			if err := box.Remove(t.Context()); err != nil {
				t.Error(err)
			}
		}
	}
	if want := []string{"one.example", "two.example", "three.example"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestPresetsAreListed(t *testing.T) {
	w, _ := outward(t, Options{})
	got, err := w.client.NetworkPresets(t.Context())
	want := []cove.NetworkPreset{{Name: "pip", Rules: []string{"index.example:443"}, Source: "a test"}}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Error(err, diff)
	}
	if reply, body := newWorld(t, Options{}).request(http.MethodGet, "/v1/network/presets", nil, nil); strings.TrimSpace(body) != `{"presets":[]}` {
		t.Errorf("without any: %d %s", reply.StatusCode, body)
	}
}

func TestSecretsByTheAPI(t *testing.T) {
	w, _ := outward(t, Options{})
	ctx := t.Context()
	if reply, body := w.request(http.MethodGet, "/v1/secrets", nil, nil); reply.StatusCode != http.StatusOK || strings.TrimSpace(body) != `{"secrets":[]}` {
		t.Errorf("without any: %d %s", reply.StatusCode, body)
	}
	set, err := w.client.SetSecret(ctx, "TOKEN", cove.SecretInput{Value: "hush-hush-hush", Hosts: []string{"api.example"}})
	if err != nil || set.Name != "TOKEN" || !slices.Equal(set.Hosts, []string{"api.example"}) || !slices.Equal(set.In, []cove.SecretPlace{cove.SecretInHeader}) || set.CreatedAt.IsZero() {
		t.Fatalf("got %+v, %v", set, err)
	}
	got, err := w.client.Secret(ctx, "TOKEN")
	if diff := cmp.Diff(set, got); diff != "" || err != nil {
		t.Error(err, diff)
	}
	if list, err := w.client.Secrets(ctx); err != nil || len(list) != 1 || list[0].Name != "TOKEN" {
		t.Errorf("got %+v, %v", list, err)
	}
	if err := w.client.RemoveSecret(ctx, "TOKEN"); err != nil {
		t.Error(err)
	}
	if err := w.client.RemoveSecret(ctx, "TOKEN"); !errors.Is(err, cove.NotFound) {
		t.Errorf("removed twice: %v", err)
	}
	if _, err := w.client.Secret(ctx, "TOKEN"); !errors.Is(err, cove.NotFound) || cove.HintOf(err) == "" {
		t.Errorf("of one that is gone: %v", err)
	}
}

func TestT83NoReplyAndNoLogHasASecret(t *testing.T) {
	var (
		mu  sync.Mutex
		log bytes.Buffer
	)
	w, _ := outward(t, Options{Logger: slog.New(slog.NewJSONHandler(locked{&mu, &log}, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	const value = "hush-Zk83jd02ms-hush"
	box := w.reaching(cove.Network{Secrets: []cove.SecretUse{{Name: "OWN", Hosts: []string{"api.example"}, Value: value}}})
	for name, request := range map[string]struct{ method, path, body string }{
		"set":                          {"PUT", "/v1/secrets/TOKEN", `{"value":"` + value + `","hosts":["api.example"]}`},
		"set without a host":           {"PUT", "/v1/secrets/TOKEN", `{"value":"` + value + `","hosts":[]}`},
		"set in no place":              {"PUT", "/v1/secrets/TOKEN", `{"value":"` + value + `","hosts":["api.example"],"in":["` + value + `"]}`},
		"set as no text":               {"PUT", "/v1/secrets/TOKEN", `{"value":["` + value + `"],"hosts":["api.example"]}`},
		"set in broken JSON":           {"PUT", "/v1/secrets/TOKEN", `{"value":"` + value},
		"set in an unknown key":        {"PUT", "/v1/secrets/TOKEN", `{"valeu":"` + value + `","hosts":["api.example"]}`},
		"get":                          {"GET", "/v1/secrets/TOKEN", ""},
		"list":                         {"GET", "/v1/secrets", ""},
		"create with one, bound":       {"POST", "/v1/sandboxes", `{"network":{"secrets":[{"name":"A","hosts":["api.example"],"value":"` + value + `"}]}}`},
		"create with one, not bound":   {"POST", "/v1/sandboxes", `{"network":{"secrets":[{"name":"A","value":"` + value + `"}]}}`},
		"the sandbox that has one":     {"GET", "/v1/sandboxes/" + box.ID, ""},
		"its network":                  {"GET", "/v1/sandboxes/" + box.ID + "/network", ""},
		"all sandboxes":                {"GET", "/v1/sandboxes", ""},
		"events":                       {"GET", "/v1/events?no_follow=true", ""},
		"a change of its network":      {"PATCH", "/v1/sandboxes/" + box.ID + "/network", `{"secrets":[{"name":"B","hosts":["api.example"],"value":"` + value + `"}]}`},
		"a change of it that is wrong": {"PATCH", "/v1/sandboxes/" + box.ID + "/network", `{"secrets":[{"name":"B","hosts":["*"],"value":"` + value + `"}]}`},
	} {
		header := http.Header{}
		if request.body != "" {
			header = jsonHeader()
		}
		reply, body := w.request(request.method, request.path, header, strings.NewReader(request.body))
		if strings.Contains(body, value) {
			t.Errorf("%s: %d %s", name, reply.StatusCode, body)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if log.Len() == 0 || strings.Contains(log.String(), value) {
		t.Errorf("the log, of %d bytes, has it", log.Len())
	}
}

// locked is a writer for several.
type locked struct {
	mu *sync.Mutex
	to io.Writer
}

func (l locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.to.Write(p)
}
