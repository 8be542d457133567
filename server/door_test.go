package server

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/client"
	"github.com/covehq/cove/internal/httpapi"
)

// house is a world with a door on loopback.
type house struct {
	*world
	at  string // HOST:PORT of the door
	log *logFile
}

func newHouse(t *testing.T, door DoorOptions) *house {
	t.Helper()
	log := &logFile{}
	return openHouse(t, log, newWorld(t, Options{Door: &door, Logger: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))}))
}

// openHouse opens the door of a world that has one.
func openHouse(t *testing.T, log *logFile, w *world) *house {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := &house{world: w, at: listener.Addr().String(), log: log}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- h.server.ServeDoor(ctx, listener) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Errorf("the door ended with: %v", err)
		}
	})
	return h
}

// key makes a key.
func (h *house) key(in cove.KeyInput) string {
	h.t.Helper()
	made, err := h.keys.Create(h.t.Context(), in)
	if err != nil {
		h.t.Fatal(err)
	}
	return made.Secret
}

// holder returns a client with a key of an owner's.
func (h *house) holder(name string, scope cove.Scope) *client.Client {
	h.t.Helper()
	return h.caller(h.key(cove.KeyInput{Name: name, Scope: scope}))
}

func (h *house) caller(secret string) *client.Client {
	h.t.Helper()
	c, err := client.New(client.Options{URL: "http://" + h.at, APIKey: secret})
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { c.Close() })
	return c
}

// sandboxOf creates a sandbox of an owner's.
func (h *house) sandboxOf(c *client.Client) *client.Sandbox {
	h.t.Helper()
	made, err := c.Create(h.t.Context(), h.spec(), client.CreateOptions{})
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() {
		if box, err := h.host.Sandbox(context.Background(), made.ID); err == nil {
			if err := box.Destroy(context.Background()); err != nil {
				h.t.Errorf("destroy: %v", err)
			}
		}
	})
	return made
}

// knock sends one request to the door and returns the reply with its body.
func (h *house) knock(method, path string, header http.Header, body io.Reader) (*http.Response, string) {
	h.t.Helper()
	request, err := http.NewRequestWithContext(h.t.Context(), method, "http://"+h.at+path, body)
	if err != nil {
		h.t.Fatal(err)
	}
	for name, values := range header {
		request.Header[name] = values
	}
	if host := header.Get("Host"); host != "" {
		request.Host = host
		request.Header.Del("Host")
	}
	// A connection of its own, since a refusal may end one.
	transport := &http.Transport{DisableKeepAlives: true}
	reply, err := transport.RoundTrip(request)
	if err != nil {
		h.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer reply.Body.Close()
	data, err := io.ReadAll(reply.Body)
	if err != nil {
		h.t.Fatalf("%s %s: %v", method, path, err)
	}
	return reply, string(data)
}

func bearer(secret string) http.Header { return http.Header{"Authorization": {"Bearer " + secret}} }

var braces = regexp.MustCompile(`\{[^}]*\}`)

// walk calls visit with every route of a server, of the sandbox with an id.
func walk(s *Server, id string, visit func(pattern, method, path string)) {
	for _, pattern := range s.routes {
		method, path, found := strings.Cut(pattern, " ")
		methods := []string{method}
		if !found {
			path, methods = pattern, portMethods
		}
		path = strings.Replace(path, "{id}", id, 1)
		path = strings.Replace(path, "{path...}", "x", 1)
		for _, method := range methods {
			visit(pattern, method, braces.ReplaceAllString(path, "1"))
		}
	}
}

func TestEveryRouteHasAScope(t *testing.T) {
	table := scopes()
	s := New(Options{})
	for _, pattern := range s.routes {
		scope, known := table[pattern]
		if !known || scope != anybody && !scope.Includes(cove.ScopeRead) {
			t.Errorf("%s has the scope %q: say in scope.go who may use it", pattern, scope)
		}
		delete(table, pattern)
	}
	for pattern := range table {
		t.Errorf("%s has a scope and is no route", pattern)
	}
}

func TestNothingAnswersWithoutAKeyT75(t *testing.T) {
	h := newHouse(t, DoorOptions{})
	h.server.door.failures = newLimiters(1e6, 1<<30, 10)
	box := h.sandbox()
	good := h.key(cove.KeyInput{Name: "good"})
	revoked := h.key(cove.KeyInput{Name: "revoked", Scope: cove.ScopeAdmin})
	if err := h.keys.Remove(t.Context(), "revoked"); err != nil {
		t.Fatal(err)
	}
	upgrade := func(to string) http.Header {
		return http.Header{"Connection": {"Upgrade"}, "Upgrade": {to}, "Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {"dGhlIHNhbXBsZSBub25jZQ=="}}
	}
	ways := map[string]http.Header{
		"nothing":           {},
		"a revoked key":     bearer(revoked),
		"a word":            bearer("secret"),
		"an empty key":      bearer(""),
		"basic":             {"Authorization": {"Basic " + good}},
		"no scheme":         {"Authorization": {good}},
		"two keys":          {"Authorization": {"Bearer " + good, "Bearer " + good}},
		"an empty header":   {httpapi.HeaderAPIKey: {""}},
		"a cookie":          {"Cookie": {"cove=" + good + "; Authorization=" + good}},
		"a proxy's word":    {"X-Forwarded-For": {"127.0.0.1"}, "X-Forwarded-User": {"root"}},
		"a proxy's key":     {"Proxy-Authorization": {"Bearer " + good}},
		"a websocket":       upgrade("websocket"),
		"a tunnel":          upgrade(httpapi.UpgradeTCP),
		"an event stream":   {"Accept": {httpapi.TypeSSE}},
		"a body":            jsonHeader(),
		"another's request": {"X-Http-Method-Override": {"GET"}, "X-Original-Url": {"/healthz"}, "X-Rewrite-Url": {"/healthz"}},
	}
	walked := 0
	refuse := func(way, method, path string, header http.Header) {
		t.Helper()
		var body io.Reader
		if header.Get("Content-Type") != "" && method != http.MethodGet {
			body = strings.NewReader("{}")
		}
		reply, text := h.knock(method, path, header, body)
		walked++
		if reply.StatusCode != http.StatusUnauthorized || reply.Header.Get("Www-Authenticate") == "" ||
			method != http.MethodHead && !strings.Contains(text, `"unauthenticated"`) || strings.Contains(text, box.ID) {
			t.Errorf("%s %s with %s: %d %s", method, path, way, reply.StatusCode, text)
		}
		for name := range reply.Header {
			if name == "Set-Cookie" || strings.HasPrefix(name, "Access-Control-") {
				t.Errorf("%s %s with %s: the reply has the header %s", method, path, way, name)
			}
		}
	}
	for way, header := range ways {
		walk(h.server, box.ID, func(pattern, method, path string) {
			if pattern == "GET /healthz" {
				return
			}
			refuse(way, method, path, header)
			if way == "nothing" {
				refuse("the key in the URL", method, path+"?api_key="+good+"&access_token="+good+"&key="+good, header)
			}
		})
		for _, path := range []string{"/", "/v1", "/nowhere", "/debug/pprof/", "/v1/../healthz", "//healthz", "/healthz/", "/healthz/../metrics", "/v1/sandboxes/" + box.ID + "/ports/80"} {
			refuse(way, http.MethodGet, path, header)
		}
		refuse(way, http.MethodOptions, "/v1/sandboxes", header)
		refuse(way, http.MethodPost, "/healthz", header)
		refuse(way, "BREW", "/v1/sandboxes", header)
	}
	if walked < 40*len(ways) {
		t.Errorf("only %d requests were refused", walked)
	}
	if reply, text := h.knock(http.MethodGet, "/healthz", nil, nil); reply.StatusCode != http.StatusOK || strings.TrimSpace(text) != `{"status":"ok"}` {
		t.Errorf("/healthz answers %d %s, want that all is well and nothing else", reply.StatusCode, text)
	}
}

func TestAScopeOpensWhatItSays(t *testing.T) {
	h := newHouse(t, DoorOptions{KeyRate: 1e6})
	table := scopes()
	for _, scope := range []cove.Scope{cove.ScopeRead, cove.ScopeRun, cove.ScopeAdmin} {
		secret := h.key(cove.KeyInput{Name: string(scope), Scope: scope})
		walk(h.server, "nobody", func(pattern, method, path string) {
			if pattern == "GET /v1/events" {
				path += "?no_follow=true"
			}
			if pattern == "DELETE /v1/keys/{name}" {
				path += "-nobody"
			}
			reply, text := h.knock(method, path, bearer(secret), nil)
			refused := reply.StatusCode == http.StatusForbidden
			if may := scope.Includes(table[pattern]) || table[pattern] == anybody; may == refused || reply.StatusCode == http.StatusUnauthorized {
				t.Errorf("%s %s with the scope %s: %d %s", method, path, scope, reply.StatusCode, text)
			}
		})
	}
	lost := h.key(cove.KeyInput{Name: "lost", Scope: cove.ScopeRun})
	delete(h.server.door.scopes, "GET /v1/version")
	if reply, _ := h.knock(http.MethodGet, "/v1/version", bearer(lost), nil); reply.StatusCode != http.StatusForbidden {
		t.Errorf("a route without a scope answers %d to a key that is no admin's", reply.StatusCode)
	}
}

func TestOwnersDoNotSeeEachOtherThroughTheDoorT82(t *testing.T) {
	h := newHouse(t, DoorOptions{KeyRate: 1e6})
	alice, bob := h.holder("alice", cove.ScopeRun), h.holder("bob", cove.ScopeRun)
	hers, his := h.sandboxOf(alice), h.sandboxOf(bob)
	secret := h.key(cove.KeyInput{Name: "eve", Owner: "alice"})
	nobody := strings.Repeat("a", len(his.ID))
	ids := regexp.MustCompile(his.ID + "|" + nobody)
	compared := 0
	for _, header := range []http.Header{bearer(secret), {"Authorization": {"Bearer " + secret}, "Content-Type": {"application/json"}, "Accept": {httpapi.TypeSSE}}} {
		walk(h.server, his.ID, func(pattern, method, path string) {
			if !strings.Contains(path, his.ID) {
				return
			}
			var replies [2]string
			for i, at := range []string{path, strings.Replace(path, his.ID, nobody, 1)} {
				body := io.Reader(nil)
				if header.Get("Content-Type") != "" {
					body = strings.NewReader("{}")
				}
				reply, text := h.knock(method, at, header, body)
				if reply.StatusCode != http.StatusNotFound {
					t.Errorf("%s %s of somebody else: %d %s", method, at, reply.StatusCode, text)
				}
				replies[i] = ids.ReplaceAllString(text, "ID")
			}
			if compared++; replies[0] != replies[1] {
				t.Errorf("%s %s tells his from nobody's:\n%s\n%s", method, path, replies[0], replies[1])
			}
		})
	}
	if compared < 60 {
		t.Errorf("only %d routes were compared", compared)
	}
	list, err := alice.List(t.Context(), client.Filter{})
	if err != nil || len(list) != 1 || list[0].ID != hers.ID {
		t.Errorf("she lists %d sandboxes, %v", len(list), err)
	}
	if _, err := alice.Get(t.Context(), hers.ID); err != nil {
		t.Errorf("she does not find hers: %v", err)
	}
	_, text := h.knock(http.MethodGet, "/v1/events?no_follow=true", bearer(secret), nil)
	if strings.Contains(text, his.ID) || !strings.Contains(text, hers.ID) {
		t.Errorf("her events are\n%s", text)
	}
	admin := h.holder("root", cove.ScopeAdmin)
	if list, err := admin.List(t.Context(), client.Filter{}); err != nil || len(list) != 2 {
		t.Errorf("an admin lists %d sandboxes, %v", len(list), err)
	}
	if _, err := h.client.Get(t.Context(), his.ID); err != nil {
		t.Errorf("who has the socket does not see his: %v", err)
	}
}

func TestTheKeyIsNowhereT81(t *testing.T) {
	h := newHouse(t, DoorOptions{})
	inside := http.NewServeMux()
	seen := make(chan http.Header, 4)
	inside.HandleFunc("/", func(_ http.ResponseWriter, r *http.Request) { seen <- r.Header.Clone() })
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	program := &http.Server{Handler: inside, ReadHeaderTimeout: time.Minute}
	go program.Serve(listener)
	t.Cleanup(func() { program.Close() })
	_, port, _ := net.SplitHostPort(listener.Addr().String())

	secret := h.key(cove.KeyInput{Name: "ci"})
	box := h.sandboxOf(h.caller(secret))
	path := "/v1/sandboxes/" + box.ID + "/ports/" + port + "/x"
	for _, header := range []http.Header{
		bearer(secret), {httpapi.HeaderAPIKey: {secret}}, {"Authorization": {"Bearer " + secret}, httpapi.HeaderAPIKey: {secret}},
	} {
		if reply, text := h.knock(http.MethodGet, path, header, nil); reply.StatusCode != http.StatusOK {
			t.Fatalf("%d %s", reply.StatusCode, text)
		}
		for name, values := range <-seen {
			if strings.Contains(strings.Join(values, " "), secret) {
				t.Errorf("what listens inside was sent the key, in %s", name)
			}
		}
	}
	if reply, _ := h.knock(http.MethodGet, path, http.Header{"Authorization": {"Bearer " + secret}, httpapi.HeaderAPIKey: {"theirs"}}, nil); reply.StatusCode != http.StatusOK {
		t.Fatalf("status %d", reply.StatusCode)
	}
	if got := (<-seen).Get(httpapi.HeaderAPIKey); got != "theirs" {
		t.Errorf("a program's own key came in as %q", got)
	}
	wrong := secret[:len(secret)-2] + "xx"
	for _, path := range []string{"/v1/keys", "/v1/keys/" + secret, "/v1/sandboxes/" + secret} {
		for _, header := range []http.Header{bearer(secret), bearer(wrong)} {
			if _, text := h.knock(http.MethodDelete, path, header, nil); strings.Contains(path, secret) {
				continue // it was sent in the path, where nobody can keep it from a log
			} else if strings.Contains(text, secret) || strings.Contains(text, wrong) {
				t.Errorf("%s: the reply has the key in it: %s", path, text)
			}
		}
	}
	for _, line := range h.log.lines() {
		if strings.Contains(line, wrong) || strings.Contains(line, secret) && !strings.Contains(line, "/v1/keys/"+secret) && !strings.Contains(line, "/v1/sandboxes/"+secret) {
			t.Errorf("the log has the key in it: %s", line)
		}
	}
}
