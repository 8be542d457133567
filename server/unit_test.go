package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"net/http/httptest"
	"reflect"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/covehq/cove"
	"github.com/covehq/cove/internal/httpapi"
)

func TestNegotiate(t *testing.T) {
	offers := []string{httpapi.TypeJSON, httpapi.TypeSSE, httpapi.TypeFrames}
	for accept, want := range map[string]string{
		"":                                       httpapi.TypeJSON,
		"*/*":                                    httpapi.TypeJSON,
		"text/event-stream":                      httpapi.TypeSSE,
		"text/*":                                 httpapi.TypeSSE,
		"Text/Event-Stream; charset=utf-8":       httpapi.TypeSSE,
		"application/vnd.cove.stream":            httpapi.TypeFrames,
		"application/json, text/event-stream":    httpapi.TypeJSON,
		"application/json;q=0.1, text/*;q=0.5":   httpapi.TypeSSE,
		"*/*;q=0.9, application/vnd.cove.stream": httpapi.TypeFrames,
		"image/png":                              httpapi.TypeJSON,
		"text/event-stream;q=0, */*;q=0.1":       httpapi.TypeJSON,
		";;;,,/":                                 httpapi.TypeJSON,
	} {
		if got := negotiate(accept, offers...); got != want {
			t.Errorf("Accept %q gets %s, want %s", accept, got, want)
		}
	}
}

func TestPosition(t *testing.T) {
	at := position(cove.FromStart())
	for _, step := range []struct {
		output cove.Output
		want   string
	}{
		{cove.Output{PID: 4}, "0,0"},
		{cove.Output{Stream: cove.Stdout, Data: []byte("abc")}, "3,0"},
		{cove.Output{Stream: cove.Stderr, Offset: 10, Data: []byte("d")}, "3,11"},
		{cove.Output{Stream: cove.PTY, Offset: 7, Data: []byte("e")}, "8,11"},
		{cove.Output{Exit: &cove.Exit{}}, "8,11"},
	} {
		at = at.after(&step.output)
		if got := at.String(); got != step.want {
			t.Fatalf("after %+v the position is %s, want %s", step.output, got, step.want)
		}
		back, err := parsePosition(at.String())
		if err != nil || !reflect.DeepEqual(back, at) {
			t.Fatalf("position %s came back as %s, %v", at, back, err)
		}
	}
	if got := (position{}).String(); got != "end,end" {
		t.Errorf("the end is %q, want end,end", got)
	}
	for _, text := range []string{"", "1", "1,", ",1", "1,2,3", "-1,0", "a,b", "1,99999999999999999999"} {
		if _, err := parsePosition(text); !errors.Is(err, cove.Invalid) {
			t.Errorf("position %q: %v, want invalid", text, err)
		}
	}
}

func TestPortSpellings(t *testing.T) {
	for text, want := range map[string]int{"1": 1, "80": 80, "8080": 8080, "65535": 65535} {
		if got, err := parsePort(text); err != nil || got != want {
			t.Errorf("port %q is %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{
		"", "0", "-1", "65536", "99999999999999999999", "080", "02280", "+2280", " 80", "80 ", "8 0", "0x50", "8e1",
		"80.0", "1_000", "%38%30", "８０", "٨٠", "80/", "80:80", "a", "80\x00", "80,443", "-0",
	} {
		if got, err := parsePort(text); !errors.Is(err, cove.Invalid) || cove.HintOf(err) == "" {
			t.Errorf("port %q is %d, %v; want invalid with a hint", text, got, err)
		}
	}
}

func TestPortPaths(t *testing.T) {
	for path, want := range map[string]portTarget{
		"/v1/sandboxes/web/ports/80/":            {"web", "80", "/v1/sandboxes/web/ports/80", "/"},
		"/v1/sandboxes/web/ports/80/a//b/../c":   {"web", "80", "/v1/sandboxes/web/ports/80", "/a//b/../c"},
		"/v1/sandboxes/web/ports/80/a%2Fb":       {"web", "80", "/v1/sandboxes/web/ports/80", "/a%2Fb"},
		"/v1/sandboxes/a%20b/ports/080/x":        {"a b", "080", "/v1/sandboxes/a%20b/ports/080", "/x"},
		"/v1/sandboxes/web/ports//x":             {"web", "", "/v1/sandboxes/web/ports/", "/x"},
		"/v1/sandboxes/web/ports/80/ports/80/up": {"web", "80", "/v1/sandboxes/web/ports/80", "/ports/80/up"},
	} {
		if got, ok := parsePortPath(path); !ok || got != want {
			t.Errorf("%s is %+v, %v; want %+v", path, got, ok, want)
		}
	}
	for _, path := range []string{"", "/", "/v1/sandboxes/web", "/v1/sandboxes/web/ports", "/v1/sandboxes/web/ports/80", "/v1/sandboxes/web/port/80/", "/v2/sandboxes/web/ports/80/"} {
		if got, ok := parsePortPath(path); ok {
			t.Errorf("%s is %+v, want no port", path, got)
		}
	}
}

func TestRedirectsAsSeenFromOutside(t *testing.T) {
	hop := &portHop{portTarget: portTarget{prefix: "/v1/sandboxes/web/ports/80"}, host: "id:80"}
	for location, want := range map[string]string{
		"/login":                           "/v1/sandboxes/web/ports/80/login",
		"/login?next=/a#b":                 "/v1/sandboxes/web/ports/80/login?next=/a#b",
		"http://localhost:80/x":            "/v1/sandboxes/web/ports/80/x",
		"http://127.0.0.1:80/x":            "/v1/sandboxes/web/ports/80/x",
		"login":                            "login",
		"../up":                            "../up",
		"https://example.com/x":            "https://example.com/x",
		"http://localhost:81/x":            "http://localhost:81/x",
		"//example.com/x":                  "//example.com/x",
		"/v1/sandboxes/web/ports/80/x":     "/v1/sandboxes/web/ports/80/x",
		"http://[::1":                      "http://[::1",
		"/v1/sandboxes/web/ports/8000/x":   "/v1/sandboxes/web/ports/80/v1/sandboxes/web/ports/8000/x",
		"http://localhost:80":              "/v1/sandboxes/web/ports/80",
		"mailto:somebody@example.com":      "mailto:somebody@example.com",
		"/v1/sandboxes/web/ports/80/%2F/x": "/v1/sandboxes/web/ports/80/%2F/x",
	} {
		if got := hop.outside(location); got != want {
			t.Errorf("Location %s becomes %s, want %s", location, got, want)
		}
	}
}

// What the schema refuses is not parsed, so it must let through all that the types read.
func TestPatternsLetThroughWhatTheTypesRead(t *testing.T) {
	bytesRe := regexp.MustCompile(bytesSchema{}.Schema(nil).OneOf[1].Pattern)
	durationRe := regexp.MustCompile(durationSchema{}.Schema(nil).OneOf[1].Pattern)
	alphabet := []rune("0123456789.+-eEkKmMgGtTiIbBhsunµμ nevrNEVR_x\t")
	random := rand.New(rand.NewPCG(1, 2))
	texts := []string{"512MiB", "1.5g", "7", "90s", "1h30m", "never", "NEVER", " 5 m", "1e3", "0.5", ".5", "5.", "1m0.5s", "3US"}
	for range 50_000 {
		text := make([]rune, 1+random.IntN(7))
		for i := range text {
			text[i] = alphabet[random.IntN(len(alphabet))]
		}
		texts = append(texts, string(text))
	}
	for _, text := range texts {
		if strings.Contains(text, "_") || strings.HasPrefix(strings.TrimSpace(text), "-") {
			continue // 1_000 and -0 are accidents of the parsers
		}
		if _, err := cove.ParseBytes(text); err == nil && !bytesRe.MatchString(text) {
			t.Errorf("size %q is valid, but the schema refuses it", text)
		}
		if _, err := cove.ParseDuration(text); err == nil && !durationRe.MatchString(text) {
			t.Errorf("duration %q is valid, but the schema refuses it", text)
		}
	}
}

func TestOutputEvent(t *testing.T) {
	at := position(cove.FromStart())
	for _, output := range []cove.Output{
		{PID: 3},
		{Stream: cove.Stdout, Offset: 5, Data: []byte("a\nb\x00\xff")},
		{Exit: &cove.Exit{Code: 1, Error: "a\nb"}},
	} {
		event := string(appendOutputEvent(nil, &output, at))
		if strings.Count(event, "\n\n") != 1 || !strings.HasSuffix(event, "\n\n") {
			t.Errorf("event %q does not end where it should", event)
		}
		_, data, _ := strings.Cut(event, "\ndata: ")
		var back cove.Output
		if err := json.Unmarshal([]byte(data), &back); err != nil {
			t.Fatalf("data of %q: %v", event, err)
		}
		if !reflect.DeepEqual(back, output) {
			t.Errorf("%+v came back as %+v", output, back)
		}
	}
}

func TestOutboxKeepsOrderAndBounds(t *testing.T) {
	box := newOutbox()
	piece := bytes.Repeat([]byte("x"), 10_000)
	const pieces = 500
	var most int
	var group sync.WaitGroup
	group.Go(func() {
		for range pieces {
			if err := box.put(context.Background(), func(b []byte) []byte { return append(b, piece...) }); err != nil {
				t.Error(err)
			}
		}
		box.close()
	})
	total := 0
	for more := true; more; {
		<-box.ready
		var batch []byte
		batch, more = box.take()
		most = max(most, len(batch))
		total += len(batch)
		signal(box.room)
	}
	group.Wait()
	if total != pieces*len(piece) {
		t.Errorf("%d bytes arrived, want %d", total, pieces*len(piece))
	}
	if limit := maxPending + len(piece); most > limit {
		t.Errorf("%d bytes were pending, want at most %d", most, limit)
	}
}

func TestOutboxPutEndsWithItsContext(t *testing.T) {
	box := newOutbox()
	full := func(b []byte) []byte { return append(b, make([]byte, maxPending)...) }
	if err := box.put(context.Background(), full); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	failed := make(chan error)
	go func() { failed <- box.put(ctx, full) }()
	cancel()
	if err := <-failed; !errors.Is(err, context.Canceled) {
		t.Errorf("put into a full outbox: %v, want the context's error", err)
	}
}

func TestRequestID(t *testing.T) {
	for id, keep := range map[string]bool{
		"abc-1_2.3": true, strings.Repeat("a", 64): true,
		"": false, strings.Repeat("a", 65): false, "a b": false, "a\nb": false, "ä": false, `"`: false, "a;b": false,
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header[httpapi.HeaderRequestID] = []string{id}
		if got := requestID(r); (got == id) != keep || got == "" {
			t.Errorf("id %q became %q, kept should be %v", id, got, keep)
		}
	}
	r := httptest.NewRequest("GET", "/", nil)
	if a, b := requestID(r), requestID(r); a == b {
		t.Errorf("two requests have the id %s", a)
	}
}

func TestSameOrigin(t *testing.T) {
	for name, test := range map[string]struct {
		origin, site string
		want         bool
	}{
		"a program":                {"", "", true},
		"a page of this server":    {"http://cove:8080", "same-origin", true},
		"another port":             {"http://cove:8081", "", false},
		"a page elsewhere":         {"https://example.com", "cross-site", false},
		"a sandboxed page":         {"null", "cross-site", false},
		"a prefix of our name":     {"http://cove:80801", "", false},
		"our name as user":         {"http://cove:8080@example.com", "", false},
		"no origin, but elsewhere": {"", "cross-site", false},
		"another scheme":           {"chrome-extension://cove:8080", "", false},
	} {
		t.Run(name, func(t *testing.T) {
			r := httptest.NewRequest("GET", "http://cove:8080/", nil)
			if test.origin != "" {
				r.Header.Set("Origin", test.origin)
			}
			if test.site != "" {
				r.Header.Set("Sec-Fetch-Site", test.site)
			}
			if got := sameOrigin(r); got != test.want {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}

func TestActiveWaitsForTheLast(t *testing.T) {
	var a active
	select {
	case <-a.idle():
	default:
		t.Fatal("nothing is in progress, but idle waits")
	}
	a.enter()
	a.enter()
	idle := a.idle()
	a.leave()
	select {
	case <-idle:
		t.Fatal("idle before the last request has ended")
	default:
	}
	a.leave()
	select {
	case <-idle:
	case <-time.After(10 * time.Second):
		t.Fatal("not idle after the last request")
	}
}

func TestExplainNeverQuotesValues(t *testing.T) {
	const secret = "hunter2"
	detail := &huma.ErrorDetail{Message: "expected string", Location: "body.env.TOKEN", Value: secret}
	if text := explain(&huma.Operation{}, detail); strings.Contains(text, secret) || text != "env.TOKEN: must be string" {
		t.Errorf("got %q", text)
	}
}
