package server

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/covehq/cove"
	"github.com/covehq/cove/internal/httpapi"
)

// endlessBody is a body that only its reader ends.
type endlessBody struct{}

func (endlessBody) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}

func TestBadInput(t *testing.T) {
	w := newWorld(t, Options{})
	box := w.sandbox()
	at := "/v1/sandboxes/" + box.ID
	const create = "POST /v1/sandboxes"
	for name, test := range map[string]struct {
		request string
		body    string
		header  http.Header
		status  int
		code    cove.Code
		says    []string // in the message
		hint    string   // in the hint
	}{
		"no such route":                    {request: "GET /v1/nothing", status: 404, code: cove.NotFound, says: []string{"there is no GET /v1/nothing"}, hint: "/docs"},
		"the root":                         {request: "GET /", status: 404, code: cove.NotFound, hint: "/docs"},
		"a path that is not clean":         {request: "GET /v1//sandboxes", status: 404, code: cove.NotFound},
		"a path that goes up":              {request: "GET /v1/x/../sandboxes", status: 404, code: cove.NotFound},
		"a slash too many":                 {request: "GET /v1/sandboxes/", status: 404, code: cove.NotFound},
		"a method that is not there":       {request: "PUT /v1/sandboxes", status: 405, code: cove.Invalid, says: []string{"PUT /v1/sandboxes"}, hint: "GET, HEAD, POST"},
		"a method that nobody has":         {request: "BREW /v1/sandboxes", status: 405, code: cove.Invalid, hint: "GET"},
		"an unknown sandbox":               {request: "GET /v1/sandboxes/nobody", status: 404, code: cove.NotFound, says: []string{"nobody"}},
		"exec in an unknown sandbox":       {request: "POST /v1/sandboxes/nobody/exec", body: `{"command":"true"}`, status: 404, code: cove.NotFound},
		"a stream in an unknown sandbox":   {request: "POST /v1/sandboxes/nobody/exec", body: `{"command":"true"}`, header: http.Header{"Accept": {httpapi.TypeSSE}}, status: 404, code: cove.NotFound},
		"no JSON":                          {request: create, body: `{"name":`, status: 400, code: cove.Invalid, says: []string{"body", "unexpected end"}, hint: "/docs"},
		"JSON that is no object":           {request: create, body: `[1]`, status: 400, code: cove.Invalid, says: []string{"must be object"}},
		"a body that says it is a form":    {request: create, body: `{}`, header: http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}, status: 415, code: cove.Invalid, hint: "Content-Type: application/json"},
		"a body that says it is text":      {request: create, body: `{}`, header: http.Header{"Content-Type": {"text/plain"}}, status: 415, code: cove.Invalid, hint: "Content-Type: application/json"},
		"a body that says nothing":         {request: create, body: `{}`, header: http.Header{"Content-Type": nil}, status: 415, code: cove.Invalid, hint: "Content-Type: application/json"},
		"an unknown field":                 {request: create, body: `{"nmae":"x"}`, status: 400, code: cove.Invalid, says: []string{"nmae", "unexpected property"}},
		"a wrong type":                     {request: create, body: `{"name":7}`, status: 400, code: cove.Invalid, says: []string{"name: must be string"}},
		"a size without sense":             {request: create, body: `{"limits":{"memory":"12x"}}`, status: 400, code: cove.Invalid, says: []string{"limits.memory", `"12x" has an unknown unit`, "512m"}},
		"a negative size":                  {request: create, body: `{"limits":{"memory":-1}}`, status: 400, code: cove.Invalid, says: []string{"limits.memory: must be a number of bytes"}},
		"a size that is a list":            {request: create, body: `{"limits":{"memory":[]}}`, status: 400, code: cove.Invalid, says: []string{"limits.memory"}},
		"a duration without sense":         {request: create, body: `{"ttl":"soon"}`, status: 400, code: cove.Invalid, says: []string{"ttl", `"soon"`, "never"}},
		"many problems at once":            {request: create, body: `{"name":7,"ttl":"soon","limits":{"memory":"12x","disk":"-3"},"lables":{}}`, status: 400, code: cove.Invalid, says: []string{"name", "soon", "12x", "-3", "lables"}},
		"an unknown runtime":               {request: create, body: `{"runtime":"nope"}`, status: 400, code: cove.Invalid, says: []string{"nope"}},
		"no processors":                    {request: create, body: `{"limits":{"cpus":-1}}`, status: 400, code: cove.Invalid, says: []string{"cpus"}},
		"an idempotency key with a space":  {request: create, body: `{}`, header: http.Header{"Idempotency-Key": {"a b"}}, status: 400, code: cove.Invalid, says: []string{"Idempotency-Key"}},
		"an idempotency key of a kilobyte": {request: create, body: `{}`, header: http.Header{"Idempotency-Key": {strings.Repeat("k", 1024)}}, status: 400, code: cove.Invalid, says: []string{"Idempotency-Key"}},
		"a label without value":            {request: "GET /v1/sandboxes?label=team", status: 400, code: cove.Invalid, says: []string{"team"}, hint: "?label=key=value"},
		"a state that is none":             {request: "GET /v1/sandboxes?state=happy", status: 400, code: cove.Invalid, says: []string{"query parameter state", "running"}},
		"a parameter that is none":         {request: "GET /v1/sandboxes?stat=running", status: 400, code: cove.Invalid, says: []string{"stat", "unknown query parameter"}},
		"no command":                       {request: "POST " + at + "/exec", body: `{}`, status: 400, code: cove.Invalid, says: []string{"lacks command"}},
		"an empty command":                 {request: "POST " + at + "/exec", body: `{"command":""}`, status: 400, code: cove.Invalid, says: []string{"command: must be a string that is not empty"}},
		"an empty vector":                  {request: "POST " + at + "/exec", body: `{"command":[]}`, status: 400, code: cove.Invalid, says: []string{"command"}},
		"a command of numbers":             {request: "POST " + at + "/exec", body: `{"command":[1]}`, status: 400, code: cove.Invalid, says: []string{"command"}},
		"no body":                          {request: "POST " + at + "/exec", status: 400, code: cove.Invalid, says: []string{"body is required"}},
		"stdin kept open without a stream": {request: "POST " + at + "/exec?stdin=true", body: `{"command":"cat"}`, status: 400, code: cove.Invalid, hint: "text/event-stream"},
		"stdin twice":                      {request: "POST " + at + "/exec?stdin=true", body: `{"command":"cat","stdin":"x"}`, header: http.Header{"Accept": {httpapi.TypeSSE}}, status: 400, code: cove.Invalid, says: []string{"stdin"}},
		"stdin that is not base64":         {request: "POST " + at + "/exec", body: `{"command":"cat","stdin":"!","encoding":"base64"}`, header: http.Header{"Accept": {httpapi.TypeSSE}}, status: 400, code: cove.Invalid, says: []string{"base64"}},
		"an encoding that is none":         {request: "POST " + at + "/exec", body: `{"command":"cat","encoding":"hex"}`, status: 400, code: cove.Invalid, says: []string{"encoding", "utf-8"}},
		"a pid that is none":               {request: "GET " + at + "/processes/first", status: 400, code: cove.Invalid, says: []string{"path parameter pid"}},
		"pid 0":                            {request: "GET " + at + "/processes/0", status: 400, code: cove.Invalid, says: []string{"pid"}},
		"an unknown process":               {request: "GET " + at + "/processes/999999", status: 404, code: cove.NotFound},
		"output of an unknown process":     {request: "GET " + at + "/processes/999999/output", status: 404, code: cove.NotFound},
		"a signal for an unknown process":  {request: "POST " + at + "/processes/999999/signal", body: `{"signal":"TERM"}`, status: 404, code: cove.NotFound},
		"a signal that is none":            {request: "POST " + at + "/processes/1/signal", body: `{"signal":"SIGNOPE"}`, status: 400, code: cove.Invalid, says: []string{"SIGNOPE"}},
		"a terminal of no width":           {request: "POST " + at + "/processes/1/resize", body: `{"cols":0,"rows":24}`, status: 400, code: cove.Invalid, says: []string{"cols"}},
		"an offset that is none":           {request: "GET " + at + "/processes/1/output?stdout_offset=-1", status: 400, code: cove.Invalid, says: []string{"offset"}},
		"an event id that is none":         {request: "GET " + at + "/processes/1/output", header: http.Header{"Last-Event-Id": {"x"}}, status: 400, code: cove.Invalid, says: []string{"Last-Event-ID"}},
		"a terminal without WebSocket":     {request: "GET " + at + "/processes/1/tty", status: 400, code: cove.Invalid, hint: "WebSocket"},
		"a file without path":              {request: "GET " + at + "/files", status: 400, code: cove.Invalid, says: []string{"query parameter path"}},
		"a file that is not there":         {request: "GET " + at + "/files?path=/no/such", status: 404, code: cove.NotFound},
		"a path with NUL":                  {request: "GET " + at + "/files?path=/a%00b", status: 400, code: cove.Invalid, says: []string{"NUL"}},
		"a new directory with NUL":         {request: "POST " + at + "/files/mkdir", body: `{"path":"/a\u0000b"}`, status: 400, code: cove.Invalid},
		"a path of 5000 bytes":             {request: "GET " + at + "/files?path=/" + strings.Repeat("a", 5000), status: 400, code: cove.Invalid, says: []string{"path"}},
		"a mode that is none":              {request: "PUT " + at + "/files?path=/tmp/x&mode=rwx", body: "x", status: 400, code: cove.Invalid, says: []string{"mode", "octal"}},
		"a mode with set-user-id":          {request: "PUT " + at + "/files?path=/tmp/x&mode=4755", body: "x", status: 400, code: cove.Invalid, says: []string{"mode"}},
		"a depth that is none":             {request: "GET " + at + "/files/list?path=/&depth=-1", status: 400, code: cove.Invalid, says: []string{"depth"}},
		"a port in another spelling":       {request: "GET " + at + "/ports/02280/", status: 400, code: cove.Invalid, says: []string{"02280"}, hint: "/ports/8080/"},
		"a port with a sign":               {request: "GET " + at + "/ports/+2280/", status: 400, code: cove.Invalid, says: []string{"+2280"}},
		"a port that is encoded":           {request: "GET " + at + "/ports/%38080/", status: 400, code: cove.Invalid},
		"port 0":                           {request: "GET " + at + "/ports/0/", status: 400, code: cove.Invalid},
		"port 65536":                       {request: "GET " + at + "/ports/65536/x", status: 400, code: cove.Invalid},
		"a tunnel to port 080":             {request: "GET " + at + "/ports/080", status: 400, code: cove.Invalid},
		"a port of an unknown sandbox":     {request: "GET /v1/sandboxes/nobody/ports/80/", status: 404, code: cove.NotFound},
		"an event number that is none":     {request: "GET /v1/events?after=x", status: 400, code: cove.Invalid, says: []string{"after"}},
		"an update without sense":          {request: "PATCH " + at, body: `{"ttl":"x"}`, status: 400, code: cove.Invalid, says: []string{"ttl"}},
		"a write from another origin":      {request: create, body: `{}`, header: http.Header{"Origin": {"https://example.com"}}, status: 403, code: cove.Forbidden},
		"a write from a foreign page":      {request: create, body: `{}`, header: http.Header{"Sec-Fetch-Site": {"cross-site"}}, status: 403, code: cove.Forbidden},
		"a part of the docs that is none":  {request: "GET /docs/secret.js", status: 404, code: cove.NotFound},
	} {
		t.Run(name, func(t *testing.T) {
			method, path, _ := strings.Cut(test.request, " ")
			header := jsonHeader()
			for key, values := range test.header {
				header[key] = values
			}
			var body io.Reader
			if test.body != "" {
				body = strings.NewReader(test.body)
			}
			reply, text := w.request(method, path, header, body)
			var got httpapi.ErrorReply
			if err := json.Unmarshal([]byte(text), &got); err != nil {
				t.Fatalf("status %d with %q: %v", reply.StatusCode, text, err)
			}
			if reply.StatusCode != test.status || got.Error.Code != test.code {
				t.Errorf("got %d %s, want %d %s (%s)", reply.StatusCode, got.Error.Code, test.status, test.code, got.Error.Message)
			}
			for _, part := range test.says {
				if !strings.Contains(got.Error.Message, part) {
					t.Errorf("message %q lacks %q", got.Error.Message, part)
				}
			}
			if !strings.Contains(got.Error.Hint, test.hint) {
				t.Errorf("hint %q lacks %q", got.Error.Hint, test.hint)
			}
			if kind := reply.Header.Get("Content-Type"); kind != httpapi.TypeJSON {
				t.Errorf("the content type is %q", kind)
			}
			if reply.Header.Get(httpapi.HeaderRequestID) == "" {
				t.Error("the reply has no request id")
			}
		})
	}
	if list, err := w.host.List(t.Context(), filterAll()); err != nil || len(list) != 1 {
		t.Errorf("%d sandboxes are left, %v; want the one", len(list), err)
	}
}

func TestBodiesAreBounded(t *testing.T) {
	w := newWorld(t, Options{})
	box := w.sandbox()
	for path, limit := range map[string]int64{
		"/v1/sandboxes":                     maxBody,
		"/v1/sandboxes/" + box.ID + "/exec": maxExecBody,
	} {
		t.Run(path, func(t *testing.T) {
			counted := &countedReader{r: io.LimitReader(endlessBody{}, 1<<30)}
			reply, text := w.request(http.MethodPost, path, jsonHeader(), counted)
			if reply.StatusCode != http.StatusRequestEntityTooLarge || !strings.Contains(text, string(cove.TooLarge)) {
				t.Errorf("a gigabyte gets %d %s", reply.StatusCode, text)
			}
			if n := counted.n.Load(); n > limit+8<<20 {
				t.Errorf("%d bytes were taken, the limit is %d", n, limit)
			}
			exact := `{"command":"true","env":{"PAD":"` + strings.Repeat("x", int(limit)-len(`{"command":"true","env":{"PAD":""}}`)) + `"}}`
			if reply, text := w.request(http.MethodPost, path, jsonHeader(), strings.NewReader(exact)); reply.StatusCode == http.StatusRequestEntityTooLarge {
				t.Errorf("a body of exactly the limit gets %d %s", reply.StatusCode, text)
			}
		})
	}
}

type countedReader struct {
	r io.Reader
	n atomic.Int64
}

func (c *countedReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n.Add(int64(n))
	return n, err
}

func TestHeadersAreBounded(t *testing.T) {
	w := newWorld(t, Options{})
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://cove/healthz", nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 40 {
		request.Header.Set(fmt.Sprintf("X-Pad-%d", i), strings.Repeat("x", 4<<10))
	}
	reply, err := w.client.HTTP().Do(request)
	if err == nil {
		defer reply.Body.Close()
		if reply.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
			t.Errorf("160 KiB of headers get %d, want 431", reply.StatusCode)
		}
	}
}
