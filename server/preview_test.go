package server

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/client"
	"github.com/covehq/cove/internal/httpapi"
	"github.com/covehq/cove/server/preview"
)

// theatre is a world with a listener for previews, and a browser that finds it by any
// name.
type theatre struct {
	*world
	at      string // host:port of the listener
	options *PreviewOptions
	log     *lockedBuffer
}

// lockedBuffer is a log.
type lockedBuffer struct {
	mu  sync.Mutex
	all bytes.Buffer
}

// Write implements io.Writer.
func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.all.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.all.String()
}

func newTheatre(t *testing.T, change func(*PreviewOptions)) *theatre {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := &theatre{at: listener.Addr().String(), log: &lockedBuffer{}}
	g.options = &PreviewOptions{Key: preview.NewKey(), Domain: "localhost", Port: listener.Addr().(*net.TCPAddr).Port}
	if change != nil {
		change(g.options)
	}
	g.world = newWorld(t, Options{Previews: g.options, Logger: slog.New(slog.NewTextHandler(g.log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- g.server.ServePreviews(ctx, listener) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Errorf("serving previews ended with: %v", err)
		}
	})
	return g
}

// transport reaches the listener by any name.
func (g *theatre) transport() *http.Transport {
	t := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", g.at)
		},
		TLSClientConfig:    &tls.Config{InsecureSkipVerify: true}, // of this very test
		DisableCompression: true,
	}
	g.t.Cleanup(t.CloseIdleConnections)
	return t
}

// browse sends a request for an address with headers, and returns the reply with its body.
func (g *theatre) browse(method, at string, header http.Header, body io.Reader) (*http.Response, string) {
	g.t.Helper()
	request, err := http.NewRequestWithContext(g.t.Context(), method, at, body)
	if err != nil {
		g.t.Fatal(err)
	}
	for name, values := range header {
		request.Header[name] = values
	}
	reply, err := g.transport().RoundTrip(request)
	if err != nil {
		g.t.Fatalf("%s %s: %v", method, at, err)
	}
	defer reply.Body.Close()
	data, err := io.ReadAll(reply.Body)
	if err != nil {
		g.t.Fatalf("%s %s: %v", method, at, err)
	}
	return reply, string(data)
}

// preview makes a preview of a port, and returns also its address without the token.
func (g *theatre) preview(box *client.Sandbox, port int) (made cove.Preview, base string) {
	g.t.Helper()
	made, err := box.Preview(g.t.Context(), port, 0)
	if err != nil {
		g.t.Fatal(err)
	}
	base, _, _ = strings.Cut(made.URL, "?")
	return made, base
}

// enter exchanges the token of a preview for its cookie.
func (g *theatre) enter(made cove.Preview) (cookie string) {
	g.t.Helper()
	reply, _ := g.browse(http.MethodGet, made.URL, nil, nil)
	if reply.StatusCode != http.StatusTemporaryRedirect || len(reply.Cookies()) != 1 {
		g.t.Fatalf("the link gives %s and the cookies %v", reply.Status, reply.Cookies())
	}
	return reply.Cookies()[0].Name + "=" + reply.Cookies()[0].Value
}

// counted serves a port and counts the requests that get there.
func counted(t *testing.T) (port int, seen *atomic.Int64) {
	seen = new(atomic.Int64)
	return inside(t, func(w http.ResponseWriter, r *http.Request) {
		seen.Add(1)
		fmt.Fprint(w, "inside")
	}), seen
}

func TestT72APreviewNeedsItsToken(t *testing.T) {
	g := newTheatre(t, nil)
	box, other := g.sandbox(), g.sandbox()
	port, seen := counted(t)
	second, secondSeen := counted(t)
	made, base := g.preview(box, port)
	elsewhere, _ := g.preview(box, second)
	others, _ := g.preview(other, port)
	cookie := g.enter(made)
	name := preview.Name{Port: port, ID: box.ID}
	past := g.options.Key.Sign(preview.Grant{Use: preview.ForLink, Name: name, Expires: time.Now().Add(-time.Second)})
	pastCookie := g.options.Key.Sign(preview.Grant{Use: preview.ForCookie, Name: name, Expires: time.Now().Add(-time.Second)})
	forged := preview.NewKey().Sign(preview.Grant{Use: preview.ForLink, Name: name, Expires: time.Now().Add(time.Hour)})
	link := func(token string) string { return base + "?" + httpapi.QueryPreviewToken + "=" + token }
	header := func(token string) http.Header { return http.Header{httpapi.HeaderPreviewToken: {token}} }
	cookies := func(text string) http.Header { return http.Header{"Cookie": {text}} }
	_, value, _ := strings.Cut(cookie, "=")
	for name, test := range map[string]struct {
		at     string
		header http.Header
	}{
		"none":                             {base, nil},
		"an empty one":                     {link(""), nil},
		"a wrong one":                      {link("x"), nil},
		"a wrong one beside the cookie":    {link("x"), cookies(cookie)},
		"the right one twice":              {link(made.Token) + "&" + httpapi.QueryPreviewToken + "=" + made.Token, nil},
		"another port's":                   {link(elsewhere.Token), nil},
		"another sandbox's":                {link(others.Token), nil},
		"one that is over":                 {link(past), nil},
		"another daemon's":                 {link(forged), nil},
		"a cookie's value in the link":     {link(value), nil},
		"a wrong header":                   {base, header("x")},
		"an empty header":                  {base, header("")},
		"another port's header":            {base, header(elsewhere.Token)},
		"a cookie's value in the header":   {base, header(value)},
		"two headers":                      {base, http.Header{httpapi.HeaderPreviewToken: {made.Token, made.Token}}},
		"a wrong cookie":                   {base, cookies("cove_preview=x")},
		"a link's token in the cookie":     {base, cookies("cove_preview=" + made.Token)},
		"a cookie that is over":            {base, cookies("cove_preview=" + pastCookie)},
		"a cookie of another name":         {base, cookies("xcove_preview=" + value)},
		"another port's cookie":            {base, cookies(g.enter(elsewhere))},
		"the token as a bearer":            {base, http.Header{"Authorization": {"Bearer " + made.Token}}},
		"the token in the path":            {base + made.Token, nil},
		"a sandbox that is not there":      {strings.Replace(link(made.Token), box.ID, "abcdefghijabcdefghij", 1), nil},
		"a sandbox's name":                 {strings.Replace(base, box.ID, "web", 1), nil},
		"a preflight":                      {base, http.Header{"Origin": {"http://evil.test"}, "Access-Control-Request-Method": {"GET"}}},
		"one whose sandbox is another one": {strings.Replace(link(made.Token), box.ID, other.ID, 1), nil},
	} {
		for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodOptions, "BREW"} {
			reply, body := g.browse(method, test.at, test.header, nil)
			var got httpapi.ErrorReply
			if err := json.Unmarshal([]byte(body), &got); err != nil || reply.StatusCode != http.StatusUnauthorized ||
				got.Error.Code != cove.Unauthenticated || got.Error.Hint == "" || reply.Header.Get("Www-Authenticate") == "" || len(reply.Cookies()) != 0 {
				t.Errorf("%s, %s: %s %s", name, method, reply.Status, body)
			}
		}
	}
	if seen.Load() != 0 || secondSeen.Load() != 0 {
		t.Errorf("%d and %d requests got inside", seen.Load(), secondSeen.Load())
	}
	for name, header := range map[string]http.Header{
		"the header": header(made.Token), "the cookie": cookies(cookie), "the cookie among others of its name": cookies("cove_preview=x; a=b; " + cookie),
		"both": {httpapi.HeaderPreviewToken: {"x"}, "Cookie": {cookie}},
	} {
		if reply, body := g.browse(http.MethodGet, base, header, nil); reply.StatusCode != http.StatusOK || body != "inside" {
			t.Errorf("%s: %s %s", name, reply.Status, body)
		}
	}
	for _, secret := range []string{made.Token, value} {
		if strings.Contains(g.log.String(), secret) {
			t.Errorf("a token is in the log:\n%s", g.log)
		}
	}
}

func TestALinkBecomesACookie(t *testing.T) {
	for name, secure := range map[string]bool{"by TLS": true, "without": false} {
		t.Run(name, func(t *testing.T) {
			g := newTheatre(t, func(o *PreviewOptions) {
				if secure {
					o.TLS = certificate(t)
				}
			})
			box := g.sandbox()
			port, seen := counted(t)
			made, base := g.preview(box, port)
			for at, want := range map[string]string{
				made.URL: base,
				strings.Replace(made.URL, "/?", "/a%2Fb//c/?x=1&y=%zz;&", 1): base + "a%2Fb//c/?x=1&y=%zz;",
				strings.Replace(made.URL, "/?", "//evil.test/?", 1):          base + "/evil.test/",
				strings.Replace(made.URL, "/?", "/\\evil.test/?", 1):         base + "%5Cevil.test/",
				made.URL + "&z": base + "?z",
			} {
				reply, body := g.browse(http.MethodGet, at, nil, nil)
				from, _ := url.Parse(base)
				to, err := from.Parse(reply.Header.Get("Location"))
				if err != nil || reply.StatusCode != http.StatusTemporaryRedirect || to.String() != want || body != "" {
					t.Errorf("%s leads by %s to %s, want %s", at, reply.Status, to, want)
				}
				if reply.Header.Get("Cache-Control") != "no-store" || reply.Header.Get("Referrer-Policy") != "no-referrer" {
					t.Errorf("its headers are %v", reply.Header)
				}
				cookie := reply.Cookies()[0]
				if !cookie.HttpOnly || cookie.SameSite != http.SameSiteLaxMode || cookie.Domain != "" || cookie.Path != "/" || cookie.Secure != secure ||
					strings.HasPrefix(cookie.Name, "__Host-") != secure || !cookie.Expires.Equal(made.ExpiresAt) {
					t.Errorf("the cookie is %v", cookie)
				}
				if strings.Contains(reply.Header.Get("Set-Cookie")+reply.Header.Get("Location"), made.Token) {
					t.Errorf("the token is in %v", reply.Header)
				}
				if reply, body := g.browse(http.MethodGet, want, http.Header{"Cookie": {cookie.Name + "=" + cookie.Value}}, nil); reply.StatusCode != http.StatusOK || body != "inside" {
					t.Errorf("with the cookie: %s %s", reply.Status, body)
				}
			}
			if got := seen.Load(); got != 5 {
				t.Errorf("%d requests got inside, want 5", got)
			}
		})
	}
}

// certificate is one for tests.
func certificate(t *testing.T) *tls.Config {
	t.Helper()
	server := httptest.NewTLSServer(nil)
	defer server.Close()
	return &tls.Config{Certificates: server.TLS.Certificates}
}

func TestT72AHostNamesOnePreviewOrNothing(t *testing.T) {
	g := newTheatre(t, nil)
	box := g.sandbox()
	port, seen := counted(t)
	made, base := g.preview(box, port)
	at, _ := url.Parse(base)
	good := at.Host
	second := strings.Replace(good, box.ID, g.sandbox().ID, 1)
	for name, test := range map[string]struct {
		line  string
		hosts []string
		want  int
	}{
		"as it is":                          {"GET / HTTP/1.1", []string{good}, 200},
		"in upper case":                     {"GET / HTTP/1.1", []string{strings.ToUpper(good)}, 200},
		"without a port":                    {"GET / HTTP/1.1", []string{at.Hostname()}, 200},
		"with another port":                 {"GET / HTTP/1.1", []string{at.Hostname() + ":1"}, 200},
		"the daemon's own name":             {"GET /v1/sandboxes HTTP/1.1", []string{"localhost"}, 404},
		"an address":                        {"GET /v1/sandboxes HTTP/1.1", []string{"127.0.0.1"}, 404},
		"an IPv6 address":                   {"GET / HTTP/1.1", []string{"[::1]:80"}, 404},
		"no name":                           {"GET / HTTP/1.1", []string{""}, 404},
		"a rebound name":                    {"GET / HTTP/1.1", []string{"evil.test"}, 404},
		"a port with a zero before":         {"GET / HTTP/1.1", []string{"0" + good}, 404},
		"a port with a plus":                {"GET / HTTP/1.1", []string{"+" + good}, 404},
		"a trailing dot":                    {"GET / HTTP/1.1", []string{at.Hostname() + "."}, 404},
		"user information":                  {"GET / HTTP/1.1", []string{"user@" + good}, 400},
		"a space":                           {"GET / HTTP/1.1", []string{good + " x"}, 400},
		"two hosts":                         {"GET / HTTP/1.1", []string{good, good}, 400},
		"two different hosts":               {"GET / HTTP/1.1", []string{good, second}, 400},
		"two hosts in one":                  {"GET / HTTP/1.1", []string{good + "," + second}, 404},
		"an absolute target":                {"GET http://" + good + "/ HTTP/1.1", []string{good}, 400},
		"an absolute target of another one": {"GET http://" + second + "/ HTTP/1.1", []string{good}, 400},
		"an absolute target elsewhere":      {"GET http://127.0.0.1:22/ HTTP/1.1", []string{good}, 400},
		"an absolute target without a host": {"GET http:/// HTTP/1.1", []string{good}, 400},
		"a tunnel":                          {"CONNECT " + good + " HTTP/1.1", []string{good}, 400},
		"a tunnel elsewhere":                {"CONNECT 127.0.0.1:22 HTTP/1.1", []string{good}, 400},
		"the server itself":                 {"OPTIONS * HTTP/1.1", []string{good}, 400},
	} {
		before := seen.Load()
		conn, err := net.Dial("tcp", g.at)
		if err != nil {
			t.Fatal(err)
		}
		text := test.line + "\r\n" + httpapi.HeaderPreviewToken + ": " + made.Token + "\r\nConnection: close\r\n"
		for _, host := range test.hosts {
			text += "Host: " + host + "\r\n"
		}
		io.WriteString(conn, text+"\r\n")
		reply, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if got := seen.Load() - before; reply.StatusCode != test.want || (got == 1) != (test.want == 200) {
			t.Errorf("%s: status %d, want %d; %d requests got inside", name, reply.StatusCode, test.want, got)
		}
		conn.Close()
	}
}

func TestT72AuthorityAndHostAgree(t *testing.T) {
	g := newTheatre(t, nil)
	box := g.sandbox()
	port, seen := counted(t)
	made, base := g.preview(box, port)
	at, _ := url.Parse(base)
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: protocols, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", g.at)
	}}
	defer transport.CloseIdleConnections()
	for name, test := range map[string]struct {
		authority, host string
		want            int
	}{
		"one of them":       {at.Host, "", 200},
		"both the same":     {at.Host, at.Host, 200},
		"another host":      {at.Host, "evil.test", 400},
		"another authority": {"evil.test", at.Host, 400},
	} {
		before := seen.Load()
		framer, status := rawHTTP2(t, g.at, test.authority, test.host, made.Token)
		framer.Close()
		if got := seen.Load() - before; status != strconv.Itoa(test.want) || (got == 1) != (test.want == 200) {
			t.Errorf("%s: status %s, want %d; %d requests got inside", name, status, test.want, got)
		}
	}
	request, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, base, strings.NewReader("x"))
	request.Header.Set(httpapi.HeaderPreviewToken, made.Token)
	reply, err := transport.RoundTrip(request)
	if err != nil || reply.StatusCode != http.StatusOK || reply.ProtoMajor != 2 {
		t.Fatalf("by HTTP/2: %v, %v", reply, err)
	}
	reply.Body.Close()
}

func TestOtherPagesDontUseAPreviewsCookie(t *testing.T) {
	g := newTheatre(t, nil)
	box := g.sandbox()
	port, seen := counted(t)
	made, base := g.preview(box, port)
	cookie := g.enter(made)
	for name, test := range map[string]struct {
		method     string
		site, mode string
		want       int
	}{
		"its own page":                {"POST", "same-origin", "cors", 200},
		"typed by the user":           {"GET", "none", "navigate", 200},
		"a link elsewhere":            {"GET", "cross-site", "navigate", 200},
		"a link in another preview":   {"GET", "same-site", "navigate", 200},
		"a form in another preview":   {"POST", "same-site", "navigate", 403},
		"a script of another preview": {"GET", "same-site", "no-cors", 403},
		"a fetch of another preview":  {"GET", "same-site", "cors", 403},
		"a fetch of another site":     {"DELETE", "cross-site", "cors", 403},
	} {
		before := seen.Load()
		header := http.Header{"Cookie": {cookie}, "Sec-Fetch-Site": {test.site}, "Sec-Fetch-Mode": {test.mode}}
		reply, _ := g.browse(test.method, base, header, nil)
		if got := seen.Load() - before; reply.StatusCode != test.want || (got == 1) != (test.want == 200) {
			t.Errorf("%s: %s, want %d; %d requests got inside", name, reply.Status, test.want, got)
		}
	}
}

func TestT72APreviewEndsWhenItIsRevokedOrItsSandboxEnds(t *testing.T) {
	g := newTheatre(t, nil)
	box := g.sandbox()
	port, seen := counted(t)
	other, _ := counted(t)
	made, base := g.preview(box, port)
	kept, keptBase := g.preview(box, other)
	cookie := g.enter(made)
	status := func(base, token string) int {
		reply, _ := g.browse(http.MethodGet, base, http.Header{httpapi.HeaderPreviewToken: {token}}, nil)
		return reply.StatusCode
	}
	if status(base, made.Token) != 200 || status(keptBase, kept.Token) != 200 {
		t.Fatal("they do not work")
	}
	if err := box.RevokePreviews(t.Context(), port); err != nil {
		t.Fatal(err)
	}
	before := seen.Load()
	withCookie, _ := g.browse(http.MethodGet, base, http.Header{"Cookie": {cookie}}, nil)
	withLink, _ := g.browse(http.MethodGet, made.URL, nil, nil)
	if status(base, made.Token) != 401 || withCookie.StatusCode != 401 || withLink.StatusCode != 401 || seen.Load() != before {
		t.Errorf("after its revocation: %s, %s", withCookie.Status, withLink.Status)
	}
	if got := status(keptBase, kept.Token); got != 200 {
		t.Errorf("the preview of another port: %d", got)
	}
	again, _ := g.preview(box, port)
	if got := status(base, again.Token); got != 200 {
		t.Errorf("a new one: %d", got)
	}
	if err := box.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := status(base, again.Token); got != 401 {
		t.Errorf("after the sandbox's end: %d", got)
	}
	if _, err := box.Preview(t.Context(), port, 0); !errors.Is(err, cove.Gone) {
		t.Errorf("a preview of what is gone: %v", err)
	}
}

func TestAskingForAPreview(t *testing.T) {
	g := newTheatre(t, func(o *PreviewOptions) { o.Domain, o.Port, o.BehindProxy = "p.example.org", 0, true })
	box := g.sandbox()
	made, err := box.Preview(t.Context(), 8000, cove.Duration(time.Hour))
	if err != nil || made.URL != "https://8000-"+box.ID+".p.example.org/?cove_preview_token="+made.Token || made.Port != 8000 ||
		time.Until(made.ExpiresAt) > time.Hour || time.Until(made.ExpiresAt) < 50*time.Minute {
		t.Errorf("behind a proxy it is %+v, %v", made, err)
	}
	for name, body := range map[string]string{
		"no port": `{}`, "port 0": `{"port":0}`, "a port that is none": `{"port":65536}`, "a text": `{"port":"8000"}`,
		"no time": `{"port":80,"ttl":"0.5s"}`, "too long": `{"port":80,"ttl":"31d"}`, "for ever": `{"port":80,"ttl":"never"}`, "720h1s": `{"port":80,"ttl":"720h1s"}`,
	} {
		if reply, text := g.request(http.MethodPost, "/v1/sandboxes/"+box.ID+"/previews", jsonHeader(), strings.NewReader(body)); reply.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: %s %s", name, reply.Status, text)
		}
	}
	for _, port := range []string{"0", "080", "+80", "65536", "x"} {
		if reply, text := g.request(http.MethodDelete, "/v1/sandboxes/"+box.ID+"/previews/"+port, nil, nil); reply.StatusCode != http.StatusBadRequest {
			t.Errorf("revoking %s: %s %s", port, reply.Status, text)
		}
	}
	w := newWorld(t, Options{})
	if _, err := w.sandbox().Preview(t.Context(), 80, 0); !errors.Is(err, cove.NotSupported) || !strings.Contains(cove.HintOf(err), "COVE_PREVIEW_LISTEN") {
		t.Errorf("without a listener: %v, hint %q", err, cove.HintOf(err))
	}
}
