package server

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/covehq/cove"
	"github.com/covehq/cove/internal/httpapi"
)

// inside serves HTTP on a port of the loopback, which is that of every sandbox here.
func inside(t *testing.T, handler http.HandlerFunc) int {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server.Listener.Addr().(*net.TCPAddr).Port
}

func TestPortsAreProxied(t *testing.T) {
	w := newWorld(t, Options{})
	box := w.sandbox()
	port := inside(t, func(out http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		out.Header().Set("Set-Cookie", "a=b")
		out.Header().Set("X-Inside", "yes")
		out.WriteHeader(http.StatusTeapot)
		seen := map[string]any{
			"method": r.Method, "uri": r.RequestURI, "host": r.Host, "body": string(body), "header": r.Header,
		}
		json.NewEncoder(out).Encode(seen)
	})
	prefix := "/v1/sandboxes/" + box.ID + "/ports/" + strconv.Itoa(port)
	for name, test := range map[string]struct{ method, path, body string }{
		"the root":                        {"GET", "/", ""},
		"a query as it is":                {"GET", "/a?x=1&y=%zz;&z", ""},
		"a path that is not clean":        {"GET", "/a//b/../c/", ""},
		"a path with escapes":             {"GET", "/a%2Fb%20c/%C3%A9", ""},
		"a body":                          {"POST", "/submit", "hello"},
		"a method that nobody heard of":   {"BREW", "/pot", ""},
		"DELETE":                          {"DELETE", "/x", ""},
		"a path like one of ours":         {"PUT", "/v1/sandboxes", "{}"},
		"a path that looks like a prefix": {"GET", "/ports/80/", ""},
	} {
		t.Run(name, func(t *testing.T) {
			reply, text := w.request(test.method, prefix+test.path, http.Header{
				"Authorization": {"Bearer secret"}, "Cookie": {"session=secret"}, "X-Outside": {"yes"},
			}, strings.NewReader(test.body))
			var seen struct {
				Method, URI, Host, Body string
				Header                  http.Header
			}
			if err := json.Unmarshal([]byte(text), &seen); err != nil || reply.StatusCode != http.StatusTeapot {
				t.Fatalf("%d %s", reply.StatusCode, text)
			}
			if seen.Method != test.method || seen.URI != test.path || seen.Body != test.body || seen.Host != "localhost:"+strconv.Itoa(port) {
				t.Errorf("inside it is %+v", seen)
			}
			if strings.Contains(fmt.Sprint(seen.Header), "secret") {
				t.Errorf("what is ours got inside: %v", seen.Header)
			}
			if seen.Header.Get(httpapi.HeaderPrefix) != prefix || seen.Header.Get("X-Outside") != "yes" || seen.Header.Get("X-Forwarded-Host") != "cove" {
				t.Errorf("the headers inside are %v", seen.Header)
			}
			if reply.Header.Get("X-Inside") != "yes" || reply.Header.Get("Set-Cookie") != "" || !strings.HasPrefix(reply.Header.Get("Content-Security-Policy"), "sandbox") {
				t.Errorf("the headers outside are %v", reply.Header)
			}
		})
	}
}

func TestNothingListens(t *testing.T) {
	w := newWorld(t, Options{})
	box := w.sandbox()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := listener.Addr().(*net.TCPAddr).Port
	listener.Close()
	reply, text := w.request(http.MethodGet, "/v1/sandboxes/"+box.ID+"/ports/"+strconv.Itoa(port)+"/", nil, nil)
	var got httpapi.ErrorReply
	if err := json.Unmarshal([]byte(text), &got); err != nil {
		t.Fatal(text)
	}
	if reply.StatusCode != 503 || got.Error.Code != cove.Unavailable || got.Error.Hint == "" || reply.Header.Get("Retry-After") == "" {
		t.Errorf("got %d %+v", reply.StatusCode, got.Error)
	}
	if _, err := box.DialPort(t.Context(), port); !errors.Is(err, cove.Unavailable) || cove.HintOf(err) == "" {
		t.Errorf("a tunnel: %v, hint %q", err, cove.HintOf(err))
	}
}

func TestSomethingElseThanHTTPListens(t *testing.T) {
	w := newWorld(t, Options{})
	box := w.sandbox()
	port := echo(t)
	reply, text := w.request(http.MethodGet, "/v1/sandboxes/"+box.ID+"/ports/"+strconv.Itoa(port)+"/", nil, nil)
	if reply.StatusCode != 503 || !strings.Contains(text, "speaks HTTP") {
		t.Errorf("got %d %s", reply.StatusCode, text)
	}
}

// echo serves a port that sends back what it gets, and ends when its client has.
func echo(t *testing.T) int {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				io.Copy(conn, conn)
			}()
		}
	}()
	return listener.Addr().(*net.TCPAddr).Port
}

func TestProxiedRepliesAreStreamed(t *testing.T) {
	w := newWorld(t, Options{})
	box := w.sandbox()
	next := make(chan struct{})
	port := inside(t, func(out http.ResponseWriter, r *http.Request) {
		out.Header().Set("Content-Type", "text/event-stream")
		for i := range 3 {
			fmt.Fprintf(out, "data: %d\n\n", i)
			out.(http.Flusher).Flush()
			select {
			case <-next:
			case <-r.Context().Done():
				return
			}
		}
	})
	reply := w.open("/v1/sandboxes/"+box.ID+"/ports/"+strconv.Itoa(port)+"/events", nil)
	defer reply.Body.Close()
	lines := bufio.NewScanner(reply.Body)
	for i := range 3 {
		// Each one arrives before the next is sent.
		if !lines.Scan() || lines.Text() != fmt.Sprint("data: ", i) || !lines.Scan() {
			t.Fatalf("piece %d is %q, %v", i, lines.Text(), lines.Err())
		}
		next <- struct{}{}
	}
	if lines.Scan() {
		t.Errorf("more came: %q", lines.Text())
	}
}

func TestWebSocketsAreProxied(t *testing.T) {
	w, ctx := newWorld(t, Options{}), t.Context()
	box := w.sandbox()
	port := inside(t, func(out http.ResponseWriter, r *http.Request) {
		conn, err := websocket.Accept(out, r, nil)
		if err != nil {
			return
		}
		defer conn.CloseNow()
		for {
			kind, data, err := conn.Read(r.Context())
			if err != nil || conn.Write(r.Context(), kind, append([]byte("echo "), data...)) != nil {
				return
			}
		}
	})
	at := box.PortURL(port) + "socket"
	conn, _, err := websocket.Dial(ctx, at, &websocket.DialOptions{HTTPClient: w.client.HTTP()})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.CloseNow()
	for _, text := range []string{"a", strings.Repeat("b", 20_000)} {
		if err := conn.Write(ctx, websocket.MessageText, []byte(text)); err != nil {
			t.Fatal(err)
		}
		if _, data, err := conn.Read(ctx); err != nil || string(data) != "echo "+text {
			t.Errorf("got %d bytes, %v", len(data), err)
		}
	}
	if _, reply, err := websocket.Dial(ctx, at, &websocket.DialOptions{
		HTTPClient: w.client.HTTP(), HTTPHeader: http.Header{"Origin": {"https://evil.example"}},
	}); err == nil || reply.StatusCode != http.StatusForbidden {
		t.Errorf("a foreign page: %v", err)
	}
}

func TestPagesFromInsideAreSandboxed(t *testing.T) {
	w := newWorld(t, Options{})
	box := w.sandbox()
	port := inside(t, func(out http.ResponseWriter, _ *http.Request) {
		out.Header().Set("Content-Security-Policy", "default-src *")
		out.Header().Set("Location", "/next")
		out.WriteHeader(http.StatusFound)
	})
	prefix := "/v1/sandboxes/" + box.ID + "/ports/" + strconv.Itoa(port)
	reply, _ := w.request(http.MethodGet, prefix+"/", nil, nil)
	policies := reply.Header.Values("Content-Security-Policy")
	if len(policies) != 2 || !strings.HasPrefix(policies[1], "sandbox") || strings.Contains(policies[1], "allow-same-origin") {
		t.Errorf("the policies are %q", policies)
	}
	if got := reply.Header.Get("Location"); got != prefix+"/next" {
		t.Errorf("it leads to %s", got)
	}
	reply, _ = w.request(http.MethodGet, prefix+"?q=1", nil, nil)
	if reply.StatusCode != http.StatusPermanentRedirect || reply.Header.Get("Location") != prefix+"/?q=1" {
		t.Errorf("without a slash: %d to %s", reply.StatusCode, reply.Header.Get("Location"))
	}
}

func TestTunnel(t *testing.T) {
	w, ctx := newWorld(t, Options{}), t.Context()
	box := w.sandbox()
	dialing, cancel := context.WithCancel(ctx)
	conn, err := box.DialPort(dialing, echo(t))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	cancel() // bounds the dialling alone
	const size = 8 << 20
	sent := make(chan error, 1)
	go func() {
		_, err := io.Copy(conn, io.LimitReader(&pattern{}, size))
		sent <- errors.Join(err, conn.(interface{ CloseWrite() error }).CloseWrite())
	}()
	check := &patternWriter{}
	if _, err := io.Copy(check, conn); err != nil || check.n != size || check.bad {
		t.Errorf("%d of %d bytes came back, altered: %v; %v", check.n, size, check.bad, err)
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
	if got := conn.RemoteAddr().String(); !strings.HasPrefix(got, box.ID+":") {
		t.Errorf("the address is %s", got)
	}
	if err := conn.SetDeadline(time.Now()); !errors.Is(err, http.ErrNotSupported) {
		t.Errorf("a deadline: %v", err)
	}
}

func TestATunnelEndsWithItsClient(t *testing.T) {
	w := newWorld(t, Options{})
	box := w.sandbox()
	ended := make(chan struct{})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		defer close(ended)
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		io.Copy(io.Discard, conn)
	}()
	conn, err := box.DialPort(t.Context(), listener.Addr().(*net.TCPAddr).Port)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	select {
	case <-ended:
	case <-time.After(20 * time.Second):
		t.Error("the connection inside is still open")
	}
}
