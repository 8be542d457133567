package client

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/covehq/cove"
	"github.com/covehq/cove/internal/httpapi"
)

func TestURLs(t *testing.T) {
	for text, want := range map[string]string{
		"unix:///run/cove/cove.sock":    "http://cove/v1/x",
		"http://localhost:8080":         "http://localhost:8080/v1/x",
		"https://example.com/cove/":     "https://example.com/cove/v1/x",
		"http://user@[::1]:80":          "http://user@[::1]:80/v1/x",
		"https://example.com/with%2Fit": "https://example.com/with%2Fit/v1/x",
	} {
		c, err := New(Options{URL: text})
		if err != nil {
			t.Errorf("%s: %v", text, err)
		} else if got := c.URL("/v1/x"); got != want {
			t.Errorf("%s leads to %s, want %s", text, got, want)
		}
	}
	for _, text := range []string{"localhost:8080", "/run/cove.sock", "unix://", "unix://run/x", "ftp://x", "http://", "http://a b", "://"} {
		if _, err := New(Options{URL: text}); !errors.Is(err, cove.Invalid) || cove.HintOf(err) == "" {
			t.Errorf("%q: %v, want invalid with a hint", text, err)
		}
	}
}

func TestWhereTheDaemonIs(t *testing.T) {
	for name, test := range map[string]struct {
		uid  int
		env  map[string]string
		want string
	}{
		"root":                     {0, nil, "/run/cove"},
		"a state directory":        {0, map[string]string{"COVE_STATE_DIR": "/s"}, "/s"},
		"a user of a session":      {1000, map[string]string{"XDG_RUNTIME_DIR": "/run/user/1000", "HOME": "/h"}, "/run/user/1000/cove"},
		"a user without":           {1000, map[string]string{"HOME": "/h"}, "/h/.local/share/cove/run"},
		"a user with a data home":  {1000, map[string]string{"HOME": "/h", "XDG_DATA_HOME": "/d"}, "/d/cove/run"},
		"a data directory":         {1000, map[string]string{"HOME": "/h", "COVE_DATA_DIR": "/mine"}, "/mine/run"},
		"relative ones don't hold": {1000, map[string]string{"HOME": "/h", "XDG_RUNTIME_DIR": "r", "XDG_DATA_HOME": "d"}, "/h/.local/share/cove/run"},
	} {
		if got := stateDir(test.uid, func(key string) string { return test.env[key] }); got != test.want {
			t.Errorf("%s: %s, want %s", name, got, test.want)
		}
	}
}

// against returns a client of a server that answers with handler.
func against(t *testing.T, handler http.HandlerFunc) *Client {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	c, err := New(Options{URL: server.URL, APIKey: "secret"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestNobodyAnswers(t *testing.T) {
	c, err := New(Options{URL: "unix://" + t.TempDir() + "/none"})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Healthy(t.Context()); !errors.Is(err, cove.Unavailable) || !strings.Contains(cove.HintOf(err), "cove serve") {
		t.Errorf("no socket: %v, hint %q", err, cove.HintOf(err))
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Healthy(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("an ended context: %v", err)
	}
}

func TestErrorsKeepTheirCodeAndHint(t *testing.T) {
	c := against(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer secret" {
			t.Errorf("the key is %q", r.Header.Get("Authorization"))
		}
		w.WriteHeader(http.StatusConflict)
		io.WriteString(w, `{"error":{"code":"conflict","message":"create web: the name is taken","hint":"choose another"}}`)
	})
	_, err := c.Create(t.Context(), cove.Spec{}, CreateOptions{})
	if !errors.Is(err, cove.Conflict) || err.Error() != "create web: the name is taken" || cove.HintOf(err) != "choose another" {
		t.Errorf("got %v, hint %q", err, cove.HintOf(err))
	}
}

func TestRepliesThatMakeNoSense(t *testing.T) {
	for name, handler := range map[string]http.HandlerFunc{
		"no JSON": func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "<html>") },
		"cut off": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "99")
			io.WriteString(w, "{")
		},
		"a redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://evil.example", http.StatusFound)
		},
	} {
		err := against(t, handler).Healthy(t.Context())
		if name == "no JSON" {
			_, err = against(t, handler).Version(t.Context())
		}
		if err == nil || cove.HintOf(err) == "" {
			t.Errorf("%s: %v, hint %q", name, err, cove.HintOf(err))
		}
	}
}

func TestStreamsThatBreak(t *testing.T) {
	start := httpapi.AppendOutput(nil, &cove.Output{PID: 5})
	data := httpapi.AppendOutput(nil, &cove.Output{Stream: cove.Stdout, Data: []byte("abc")})
	exit := httpapi.AppendOutput(nil, &cove.Output{PID: 5, Exit: &cove.Exit{}})
	gone := httpapi.AppendError(nil, httpapi.Describe(cove.Errorf(cove.Gone, "exec", "web", "the sandbox ended", "make another")))
	join := func(parts ...[]byte) []byte {
		var all []byte
		for _, part := range parts {
			all = append(all, part...)
		}
		return all
	}
	for name, test := range map[string]struct {
		wire []byte
		want error // of Run
	}{
		"whole":                   {join(start, data, exit), nil},
		"nothing":                 {nil, cove.Unavailable},
		"no start":                {join(data, exit), cove.Unavailable},
		"no exit":                 {join(start, data), cove.Unavailable},
		"half a frame":            {join(start, data[:5]), cove.Unavailable},
		"an error":                {join(start, data, gone), cove.Gone},
		"an error at once":        {gone, cove.Gone},
		"a length of a gigabyte":  {join(start, []byte{1, 0, 0, 0, 0, 0, 0, 0, 0, 0x40, 0, 0, 0}), cove.Unavailable},
		"a start that is no JSON": {httpapi.AppendFrame(nil, httpapi.FrameStart, 0, []byte("{")), cove.Unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			c := against(t, func(w http.ResponseWriter, _ *http.Request) { w.Write(test.wire) })
			if err := c.Handle("web").Command("true").Run(); !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
		})
	}
}

func TestEventStreams(t *testing.T) {
	wire := ": open\n\nevent: sandbox.running\nid: 1\ndata: {\"seq\":1,\ndata: \"type\":\"sandbox.running\"}\n\n: keepalive\n\nretry: 5\n\ndata:{\"seq\":2}\n\n"
	c := against(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, wire) })
	var seen []uint64
	for event, err := range c.Events(t.Context(), 0) {
		if err != nil {
			if !errors.Is(err, cove.Unavailable) {
				t.Errorf("the end is %v, want unavailable", err)
			}
			break
		}
		seen = append(seen, event.Seq)
	}
	if len(seen) != 2 || seen[0] != 1 || seen[1] != 2 {
		t.Errorf("the events are %v", seen)
	}
	c = against(t, func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "event: error\ndata: {\"code\":\"exhausted\",\"message\":\"too slow\"}\n\n")
	})
	for _, err := range c.Events(t.Context(), 0) {
		if !errors.Is(err, cove.Exhausted) || err.Error() != "too slow" {
			t.Errorf("the error is %v", err)
		}
	}
	c = against(t, func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "data: "+strings.Repeat("x", 2*maxEvent))
	})
	for _, err := range c.Events(t.Context(), 0) {
		if err == nil {
			t.Error("an endless event is accepted")
		}
	}
}

func TestSandboxNamesInPaths(t *testing.T) {
	for name, want := range map[string]string{
		"web": "/v1/sandboxes/web", "a/b": "/v1/sandboxes/a%2Fb", "../x": "/v1/sandboxes/..%2Fx", "ä?": "/v1/sandboxes/%C3%A4%3F",
	} {
		if got := sandboxPath(name); got != want {
			t.Errorf("%q is at %s, want %s", name, got, want)
		}
	}
	for _, name := range []string{"", ".", ".."} {
		if got := sandboxPath(name); got == "/v1/sandboxes/"+name {
			t.Errorf("%q is at %s, which is something else", name, got)
		}
	}
}

func TestTheKeyIsTheEnvironmentsUnlessGivenAndNeverForASocket(t *testing.T) {
	t.Setenv("COVE_API_KEY", "ambient")
	for name, test := range map[string]struct {
		options Options
		want    string
	}{
		"the environment's":          {Options{URL: "https://cove.example.org"}, "Bearer ambient"},
		"one that is given":          {Options{URL: "https://cove.example.org", APIKey: "given"}, "Bearer given"},
		"none through a socket":      {Options{URL: "unix:///run/cove/cove.sock"}, ""},
		"none, even if one is given": {Options{URL: "unix:///run/cove/cove.sock", APIKey: "given"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := New(test.options)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			header := http.Header{}
			c.authorize(header)
			if got := header.Get("Authorization"); got != test.want {
				t.Errorf("sent %q, want %q", got, test.want)
			}
		})
	}
}
