package server

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"github.com/covehq/cove/internal/httpapi"
)

func TestWhatPassesThroughAPreview(t *testing.T) {
	g := newTheatre(t, nil)
	box := g.sandbox()
	type request struct {
		Method, URI, Host, Body string
		Header                  http.Header
	}
	port := inside(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Add("Set-Cookie", "session=1; Path=/; Domain=localhost; HttpOnly")
		w.Header().Add("Set-Cookie", "cove_preview=stolen")
		w.Header().Add("Set-Cookie", "plain=2")
		w.Header().Set("Location", "http://"+r.Host+"/next?x=1")
		w.Header().Set("Content-Security-Policy", "default-src 'self'")
		w.WriteHeader(http.StatusTeapot)
		json.NewEncoder(w).Encode(request{r.Method, r.RequestURI, r.Host, string(body), r.Header})
	})
	made, base := g.preview(box, port)
	cookie := g.enter(made)
	at, _ := url.Parse(base)
	reply, body := g.browse("PATCH", base+"v1/sandboxes//x%2Fy?q=%zz&a;b", http.Header{
		"Cookie": {"a=1; " + cookie + ";b=\"2 3\"", "__Host-cove_preview=x; c=3"}, "Authorization": {"Bearer its-own"},
		"Origin": {"http://" + at.Host}, "Referer": {base + "page?x"}, "Proxy-Authorization": {"Basic secret"},
	}, strings.NewReader("hello"))
	var seen request
	if err := json.Unmarshal([]byte(body), &seen); err != nil || reply.StatusCode != http.StatusTeapot {
		t.Fatalf("%d %s", reply.StatusCode, body)
	}
	local := "localhost:" + strconv.Itoa(port)
	for what, got := range map[string][2]string{
		"method": {seen.Method, "PATCH"}, "uri": {seen.URI, "/v1/sandboxes//x%2Fy?q=%zz&a;b"}, "host": {seen.Host, local}, "body": {seen.Body, "hello"},
		"cookies":             {fmt.Sprint(seen.Header["Cookie"]), `[a=1; b="2 3"; c=3]`},
		"its authorization":   {seen.Header.Get("Authorization"), "Bearer its-own"},
		"ours":                {seen.Header.Get("Proxy-Authorization"), ""},
		"origin":              {seen.Header.Get("Origin"), "http://" + local},
		"referer":             {seen.Header.Get("Referer"), "http://" + local + "/page?x"},
		"forwarded host":      {seen.Header.Get("X-Forwarded-Host"), at.Host},
		"forwarded scheme":    {seen.Header.Get("X-Forwarded-Proto"), "http"},
		"a prefix":            {seen.Header.Get(httpapi.HeaderPrefix), ""},
		"the cookies outside": {fmt.Sprint(reply.Header["Set-Cookie"]), "[session=1; Path=/; HttpOnly plain=2]"},
		"the redirect":        {reply.Header.Get("Location"), "/next?x=1"},
		"the page's policy":   {reply.Header.Get("Content-Security-Policy"), "default-src 'self'"},
	} {
		if got[0] != got[1] {
			t.Errorf("%s: %q, want %q", what, got[0], got[1])
		}
	}
	value := cookie[strings.Index(cookie, "=")+1:]
	if strings.Contains(body, value) || strings.Contains(body, made.Token) {
		t.Errorf("what is ours got inside: %s", body)
	}
	for name, header := range map[string]http.Header{
		"the header": {httpapi.HeaderPreviewToken: {made.Token}}, "a referer with the token": {"Cookie": {cookie}, "Referer": {made.URL}},
	} {
		if _, body := g.browse(http.MethodGet, base, header, nil); strings.Contains(body, made.Token) || strings.Contains(body, httpapi.HeaderPreviewToken) {
			t.Errorf("%s got inside: %s", name, body)
		}
	}
}

func TestPreviewsStream(t *testing.T) {
	g := newTheatre(t, nil)
	box := g.sandbox()
	next := make(chan struct{})
	port := inside(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			check := &patternWriter{}
			n, err := io.Copy(check, r.Body)
			fmt.Fprint(w, n, check.bad, err)
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		for i := range 3 {
			fmt.Fprintf(w, "data: %d\n\n", i)
			w.(http.Flusher).Flush()
			select {
			case <-next:
			case <-r.Context().Done():
				return
			}
		}
	})
	made, base := g.preview(box, port)
	request, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, base, nil)
	request.Header.Set(httpapi.HeaderPreviewToken, made.Token)
	reply, err := g.transport().RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	defer reply.Body.Close()
	lines := bufio.NewScanner(reply.Body)
	for i := range 3 {
		if !lines.Scan() || lines.Text() != fmt.Sprint("data: ", i) || !lines.Scan() {
			t.Fatalf("piece %d is %q, %v", i, lines.Text(), lines.Err())
		}
		next <- struct{}{}
	}
	const size = 16 << 20
	if _, body := g.browse(http.MethodPost, base, request.Header, io.LimitReader(&pattern{}, size)); body != fmt.Sprint(size, false, nil) {
		t.Errorf("an upload arrived as %s", body)
	}
}

func TestWebSocketsOfAPreview(t *testing.T) {
	g, ctx := newTheatre(t, nil), t.Context()
	box := g.sandbox()
	port := inside(t, func(w http.ResponseWriter, r *http.Request) {
		conn, err := websocket.Accept(w, r, nil) // which looks at the origin
		if err != nil {
			return
		}
		defer conn.CloseNow()
		kind, data, err := conn.Read(r.Context())
		if err == nil {
			conn.Write(r.Context(), kind, append([]byte("echo "), data...))
		}
	})
	made, base := g.preview(box, port)
	cookie := g.enter(made)
	at, _ := url.Parse(base)
	sibling := "http://" + strings.Replace(at.Host, strconv.Itoa(port), "9999", 1)
	for name, test := range map[string]struct {
		header http.Header
		want   int
	}{
		"its own page":                      {http.Header{"Cookie": {cookie}, "Origin": {"http://" + at.Host}}, 101},
		"a program":                         {http.Header{httpapi.HeaderPreviewToken: {made.Token}}, 101},
		"another preview's page":            {http.Header{"Cookie": {cookie}, "Origin": {sibling}}, 403},
		"another page":                      {http.Header{"Cookie": {cookie}, "Origin": {"https://evil.test"}}, 403},
		"a page without an origin":          {http.Header{"Cookie": {cookie}, "Origin": {"null"}}, 403},
		"nobody":                            {http.Header{"Origin": {"http://" + at.Host}}, 401},
		"another page, as the browser says": {http.Header{"Cookie": {cookie}, "Sec-Fetch-Site": {"same-site"}, "Sec-Fetch-Mode": {"websocket"}}, 403},
	} {
		conn, reply, err := websocket.Dial(ctx, base, &websocket.DialOptions{HTTPClient: &http.Client{Transport: g.transport()}, HTTPHeader: test.header})
		if reply == nil || reply.StatusCode != test.want {
			t.Errorf("%s: %v, %v, want %d", name, reply, err, test.want)
		}
		if err != nil {
			continue
		}
		if err := conn.Write(ctx, websocket.MessageText, []byte("hello")); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if _, data, err := conn.Read(ctx); err != nil || string(data) != "echo hello" {
			t.Errorf("%s: got %q, %v", name, data, err)
		}
		conn.CloseNow()
	}
}
