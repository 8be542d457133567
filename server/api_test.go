package server

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/client"
	"github.com/covehq/cove/internal/httpapi"
	"github.com/covehq/cove/sandbox"
)

func filterAll() sandbox.Filter { return sandbox.Filter{} }

func TestTheLifeOfASandbox(t *testing.T) {
	w, ctx := newWorld(t, Options{}), t.Context()
	spec := w.spec()
	spec.Name, spec.Labels = "web", map[string]string{"team": "a=b", "x": "1"}
	made, err := w.client.Create(ctx, spec, client.CreateOptions{IdempotencyKey: "k1"})
	if err != nil {
		t.Fatal(err)
	}
	if made.State != cove.StateRunning || made.Name != "web" || made.Isolation != cove.IsolationVM || made.ExpiresAt == nil {
		t.Errorf("created %+v", made.Sandbox)
	}
	again, err := w.client.Create(ctx, spec, client.CreateOptions{IdempotencyKey: "k1"})
	if err != nil || again.ID != made.ID {
		t.Errorf("the same key gave %v, %v; want %s again", again, err, made.ID)
	}
	if _, err := w.client.Create(ctx, spec, client.CreateOptions{}); !errors.Is(err, cove.Conflict) {
		t.Errorf("a name that is taken: %v, want conflict", err)
	}
	byName, err := w.client.Get(ctx, "web")
	if err != nil || byName.ID != made.ID {
		t.Errorf("by name: %v, %v", byName, err)
	}
	for name, test := range map[string]struct {
		filter client.Filter
		want   int
	}{
		"all":           {client.Filter{}, 1},
		"both labels":   {client.Filter{Labels: map[string]string{"team": "a=b", "x": "1"}}, 1},
		"another label": {client.Filter{Labels: map[string]string{"team": "a"}}, 0},
		"running":       {client.Filter{State: cove.StateRunning}, 1},
		"failed":        {client.Filter{State: cove.StateFailed}, 0},
	} {
		if list, err := w.client.List(ctx, test.filter); err != nil || len(list) != test.want {
			t.Errorf("list %s: %d sandboxes, %v; want %d", name, len(list), err, test.want)
		}
	}
	never, labels := cove.Never, map[string]string{"new": "1"}
	if err := made.Update(ctx, cove.SandboxUpdate{TTL: &never, Labels: &labels}); err != nil {
		t.Fatal(err)
	}
	if made.ExpiresAt != nil || made.Spec.Labels["new"] != "1" {
		t.Errorf("updated to %+v", made.Sandbox)
	}
	if err := made.Remove(ctx); err != nil {
		t.Fatal(err)
	}
	if err := made.Remove(ctx); err != nil {
		t.Errorf("a second remove: %v", err)
	}
	if _, err := made.Exec(ctx, cove.ExecRequest{Command: cove.Command{Line: "true"}}); !errors.Is(err, cove.NotFound) && !errors.Is(err, cove.Gone) {
		t.Errorf("exec in a removed sandbox: %v", err)
	}
}

func TestCreateWithoutBody(t *testing.T) {
	w := newWorld(t, Options{})
	// The defaults name a user that this machine may lack; what matters is that the
	// request was understood.
	reply, text := w.request(http.MethodPost, "/v1/sandboxes", nil, nil)
	if reply.StatusCode == http.StatusCreated {
		if reply.Header.Get("Location") == "" {
			t.Error("the reply has no Location")
		}
		return
	}
	if strings.Contains(text, "body") {
		t.Errorf("got %d %s", reply.StatusCode, text)
	}
}

func TestExec(t *testing.T) {
	w, ctx := newWorld(t, Options{}), t.Context()
	box := w.sandbox()
	binary := string([]byte{0, 1, 0xff, 0xfe, '\n'})
	for name, test := range map[string]struct {
		request cove.ExecRequest
		want    client.Result
	}{
		"a line":             {cove.ExecRequest{Command: cove.Command{Line: "echo a; echo b >&2; exit 3"}}, client.Result{ExitCode: 3, Stdout: []byte("a\n"), Stderr: []byte("b\n")}},
		"a vector":           {cove.ExecRequest{Command: cove.Command{Argv: []string{"echo", "a b", "$HOME"}}}, client.Result{Stdout: []byte("a b $HOME\n")}},
		"bytes in and out":   {cove.ExecRequest{Command: cove.Command{Argv: []string{"cat"}}, Stdin: binary}, client.Result{Stdout: []byte(binary)}},
		"without input":      {cove.ExecRequest{Command: cove.Command{Argv: []string{"cat"}}}, client.Result{}},
		"an environment":     {cove.ExecRequest{Command: cove.Command{Line: "echo $A"}, Env: map[string]string{"A": "1"}}, client.Result{Stdout: []byte("1\n")}},
		"another directory":  {cove.ExecRequest{Command: cove.Command{Line: "pwd"}, Cwd: "/"}, client.Result{Stdout: []byte("/\n")}},
		"a signal":           {cove.ExecRequest{Command: cove.Command{Line: "kill -TERM $$"}}, client.Result{ExitCode: -1, Signal: "SIGTERM"}},
		"too much of output": {cove.ExecRequest{Command: cove.Command{Line: "head -c 100000 /dev/zero"}, MaxOutput: 1000}, client.Result{Truncated: true}},
		"too long":           {cove.ExecRequest{Command: cove.Command{Line: "echo a; sleep 60"}, Timeout: cove.Duration(200 * time.Millisecond)}, client.Result{ExitCode: -1, Signal: "SIGKILL", TimedOut: true, Stdout: []byte("a\n")}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := box.Exec(ctx, test.request)
			if err != nil {
				t.Fatal(err)
			}
			if got.PID == 0 || got.Duration <= 0 {
				t.Errorf("pid %d, duration %v", got.PID, got.Duration)
			}
			if got.Truncated != test.want.Truncated {
				t.Errorf("truncated is %v, want %v", got.Truncated, test.want.Truncated)
			}
			if test.want.Truncated {
				return
			}
			if got.ExitCode != test.want.ExitCode || got.Signal != test.want.Signal || got.TimedOut != test.want.TimedOut ||
				!bytes.Equal(got.Stdout, test.want.Stdout) || !bytes.Equal(got.Stderr, test.want.Stderr) {
				t.Errorf("got  %+v\nwant %+v", *got, test.want)
			}
		})
	}
}

func TestExecAsPlainJSON(t *testing.T) {
	w := newWorld(t, Options{})
	box := w.sandbox()
	reply, text := w.request(http.MethodPost, "/v1/sandboxes/"+box.ID+"/exec", jsonHeader(),
		strings.NewReader(`{"command":["sh","-c","printf '<%s>' \"$1\"","sh","é"],"timeout":"1m"}`))
	var got cove.ExecResult
	if err := json.Unmarshal([]byte(text), &got); err != nil || reply.StatusCode != http.StatusOK {
		t.Fatalf("%d %s", reply.StatusCode, text)
	}
	if got.Stdout != "<é>" || got.ExitCode != 0 || got.Encoding != cove.EncodingUTF8 {
		t.Errorf("got %+v", got)
	}
}

// event is a server-sent event.
type event struct{ name, id, data string }

// readEvents reads server-sent events until the reader ends or stop says so.
func readEvents(t *testing.T, r io.Reader, stop func(event) bool) []event {
	t.Helper()
	var all []event
	var next event
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		field, value, _ := strings.Cut(lines.Text(), ": ")
		switch field {
		case "event":
			next.name = value
		case "id":
			next.id = value
		case "data":
			next.data = value
		case "":
			if lines.Text() == "" && next.name != "" {
				all = append(all, next)
				if stop != nil && stop(next) {
					return all
				}
				next = event{}
			}
		}
	}
	return all
}

func names(events []event) string {
	var list []string
	for _, e := range events {
		list = append(list, e.name)
	}
	return strings.Join(list, " ")
}

func TestExecAsEvents(t *testing.T) {
	w := newWorld(t, Options{})
	box := w.sandbox()
	header := jsonHeader()
	header.Set("Accept", httpapi.TypeSSE)
	reply, text := w.request(http.MethodPost, "/v1/sandboxes/"+box.ID+"/exec", header,
		strings.NewReader(`{"command":"cat; sleep 0.05; echo b >&2; exit 3","stdin":"aGk=","encoding":"base64"}`))
	if reply.StatusCode != http.StatusOK || reply.Header.Get("Content-Type") != httpapi.TypeSSE {
		t.Fatalf("%d %s", reply.StatusCode, text)
	}
	events := readEvents(t, strings.NewReader(text), nil)
	if names(events) != "start stdout stderr exit" {
		t.Fatalf("the events are %s", names(events))
	}
	if events[1].id != "2,0" || events[2].id != "2,2" {
		t.Errorf("the ids are %q and %q, want 2,0 and 2,2", events[1].id, events[2].id)
	}
	var outputs [4]cove.Output
	for i := range events {
		if err := json.Unmarshal([]byte(events[i].data), &outputs[i]); err != nil {
			t.Fatal(err)
		}
	}
	if outputs[0].PID == 0 || string(outputs[1].Data) != "hi" || string(outputs[2].Data) != "b\n" || outputs[3].Exit == nil || outputs[3].Exit.Code != 3 {
		t.Errorf("got %+v", outputs)
	}
}

func TestACommandDiesWithItsRequest(t *testing.T) {
	for name, accept := range map[string]string{"JSON": httpapi.TypeJSON, "events": httpapi.TypeSSE, "frames": httpapi.TypeFrames} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, Options{})
			box := w.sandbox()
			mark := filepath.Join(t.TempDir(), "alive")
			header := jsonHeader()
			header.Set("Accept", accept)
			ctx, cancel := context.WithCancel(t.Context())
			body, err := json.Marshal(cove.ExecRequest{Command: cove.Command{Line: "(setsid sleep 300 >/dev/null 2>&1 &) ; echo $$ > " + mark + "; sleep 300"}})
			if err != nil {
				t.Fatal(err)
			}
			request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://cove/v1/sandboxes/"+box.ID+"/exec", bytes.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			request.Header = header
			done := make(chan struct{})
			go func() {
				defer close(done)
				if reply, err := w.client.HTTP().Do(request); err == nil {
					io.Copy(io.Discard, reply.Body)
					reply.Body.Close()
				}
			}()
			eventually(t, "the command runs", func() bool { return exists(mark) })
			cancel()
			<-done
			eventually(t, "the command is dead", func() bool {
				list, err := box.Processes(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				for _, process := range list {
					if process.Running {
						return false
					}
				}
				return true
			})
		})
	}
}

func TestProcess(t *testing.T) {
	w, ctx := newWorld(t, Options{}), t.Context()
	box := w.sandbox()
	process, err := box.Start(ctx, cove.ProcessRequest{
		Command: cove.Command{Line: "while read line; do echo \"got $line\"; done; echo end >&2; exit 5"}, Stdin: true, Tag: "reader",
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := box.StartUnique(ctx, cove.ProcessRequest{Command: cove.Command{Line: "true"}, Tag: "reader"}); !errors.Is(err, cove.Conflict) {
		t.Errorf("a second process with the tag: %v, want conflict", err)
	}
	if err := process.Write(ctx, strings.NewReader("one\ntwo\n")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "both lines are answered", func() bool {
		info, err := process.Info(ctx)
		return err == nil && info.StdoutBytes == uint64(len("got one\ngot two\n"))
	})
	// Without follow, what is there; from the middle of it.
	from := uint64(len("got one\n"))
	if got := collect(t, process, cove.Offsets{Stdout: &from}, false); got != "got two\n" {
		t.Errorf("from %d without follow: %q", from, got)
	}
	if err := process.CloseStdin(ctx); err != nil {
		t.Fatal(err)
	}
	if got := collect(t, process, cove.FromStart(), true); got != "got one\ngot two\nend\n" {
		t.Errorf("all of it: %q", got)
	}
	info, err := process.Info(ctx)
	if err != nil || info.Running || info.Exit == nil || info.Exit.Code != 5 || info.Tag != "reader" {
		t.Errorf("at the end: %+v, %v", info, err)
	}
	list, err := box.Processes(ctx)
	if err != nil || len(list) != 1 || list[0].PID != process.PID {
		t.Errorf("the list is %+v, %v", list, err)
	}
}

// collect reads output as one string.
func collect(t *testing.T, process *client.Process, from cove.Offsets, follow bool) string {
	t.Helper()
	output, err := process.Output(t.Context(), from, follow)
	if err != nil {
		t.Fatal(err)
	}
	defer output.Close()
	var all strings.Builder
	for {
		next, err := output.Next()
		if err == io.EOF {
			return all.String()
		}
		if err != nil {
			t.Fatal(err)
		}
		all.Write(next.Data)
	}
}

func TestOutputResumesAfterTheLastEvent(t *testing.T) {
	w, ctx := newWorld(t, Options{}), t.Context()
	box := w.sandbox()
	process, err := box.Start(ctx, cove.ProcessRequest{Command: cove.Command{Line: "for i in 1 2 3 4 5; do echo line $i; sleep 0.02; done; echo err >&2"}})
	if err != nil {
		t.Fatal(err)
	}
	path := "http://cove/v1/sandboxes/" + box.ID + "/processes/" + strconv.Itoa(process.PID) + "/output"
	var all strings.Builder
	last := ""
	for connections := 0; ; connections++ {
		if connections > 20 {
			t.Fatal("the stream never ends")
		}
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if last != "" {
			request.Header.Set("Last-Event-ID", last)
		}
		reply, err := w.client.HTTP().Do(request)
		if err != nil {
			t.Fatal(err)
		}
		// One piece of output on each connection.
		events := readEvents(t, reply.Body, func(e event) bool { return e.name != "start" })
		reply.Body.Close()
		for _, e := range events {
			var output cove.Output
			if err := json.Unmarshal([]byte(e.data), &output); err != nil {
				t.Fatal(err)
			}
			all.Write(output.Data)
			last = e.id
		}
		if events[len(events)-1].name == "exit" {
			break
		}
	}
	got := all.String()
	for _, line := range []string{"line 1\n", "line 2\n", "line 3\n", "line 4\n", "line 5\n", "err\n"} {
		if strings.Count(got, line) != 1 {
			t.Errorf("%q is there %d times in %q", line, strings.Count(got, line), got)
		}
	}
}

func TestOutputAsBytes(t *testing.T) {
	w, ctx := newWorld(t, Options{}), t.Context()
	box := w.sandbox()
	process, err := box.Start(ctx, cove.ProcessRequest{Command: cove.Command{Line: "echo out; echo err >&2"}})
	if err != nil {
		t.Fatal(err)
	}
	at := "/v1/sandboxes/" + box.ID + "/processes/" + strconv.Itoa(process.PID) + "/output"
	for query, want := range map[string]string{
		"?stream=stdout": "out\n", "?stream=stderr": "err\n", "?stream=pty": "",
		"?stream=stdout&stdout_offset=1": "ut\n", "?stream=stdout&stdout_offset=end&follow=false": "",
	} {
		if reply, got := w.request(http.MethodGet, at+query, nil, nil); got != want || reply.Header.Get("Content-Type") != httpapi.TypeBytes {
			t.Errorf("%s gives %q of type %s, want %q", query, got, reply.Header.Get("Content-Type"), want)
		}
	}
}

func TestSignalsAndKills(t *testing.T) {
	w, ctx := newWorld(t, Options{}), t.Context()
	box := w.sandbox()
	for name, test := range map[string]struct {
		end  func(*client.Process) error
		want string
	}{
		"TERM":    {func(p *client.Process) error { return p.Signal(ctx, "TERM") }, "SIGTERM"},
		"SIGINT":  {func(p *client.Process) error { return p.Signal(ctx, "SIGINT") }, "SIGINT"},
		"a digit": {func(p *client.Process) error { return p.Signal(ctx, "9") }, "SIGKILL"},
		"kill":    {func(p *client.Process) error { return p.Kill(ctx) }, "SIGKILL"},
	} {
		t.Run(name, func(t *testing.T) {
			process, err := box.Start(ctx, cove.ProcessRequest{Command: cove.Command{Argv: []string{"sleep", "300"}}})
			if err != nil {
				t.Fatal(err)
			}
			if err := test.end(process); err != nil {
				t.Fatal(err)
			}
			collect(t, process, cove.FromStart(), true) // until it has ended
			info, err := process.Info(ctx)
			if err != nil || info.Exit == nil || info.Exit.Signal != test.want {
				t.Errorf("it ended as %+v, %v; want %s", info.Exit, err, test.want)
			}
		})
	}
}

func TestEvents(t *testing.T) {
	w := newWorld(t, Options{})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	box := w.sandbox()
	var seen []cove.EventType
	for event, err := range w.client.Events(ctx, 0) {
		if err != nil {
			t.Fatal(err)
		}
		if event.Sandbox.ID != box.ID {
			t.Errorf("event %d is about %q", event.Seq, event.Sandbox.ID)
		}
		seen = append(seen, event.Type)
		if event.Type == cove.EventRunning {
			if err := box.Remove(ctx); err != nil {
				t.Fatal(err)
			}
		}
		if event.Type == cove.EventRemoved {
			break
		}
	}
	if seen[0] != cove.EventCreating {
		t.Errorf("the events are %v", seen)
	}
	// From the middle, by the id of an event.
	reply := w.open("/v1/events", http.Header{"Last-Event-Id": {"1"}})
	events := readEvents(t, reply.Body, func(e event) bool { return e.name == string(cove.EventRemoved) })
	reply.Body.Close()
	if events[0].id != "2" || events[len(events)-1].id != strconv.Itoa(len(seen)) {
		t.Errorf("after event 1 came %+v", events)
	}
}

func TestEventsFromNowOnMissNothing(t *testing.T) {
	w := newWorld(t, Options{})
	w.sandbox()
	reply := w.open("/v1/events", nil)
	defer reply.Body.Close()
	opening := make([]byte, len(opened))
	if _, err := io.ReadFull(reply.Body, opening); err != nil || string(opening) != opened {
		t.Fatalf("the stream begins with %q, %v", opening, err)
	}
	second := w.sandbox()
	events := readEvents(t, reply.Body, func(e event) bool { return e.name == string(cove.EventRunning) })
	if names(events) != "sandbox.creating sandbox.running" || !strings.Contains(events[0].data, second.ID) {
		t.Errorf("the events are %s", names(events))
	}
}

// open sends a GET and returns the reply with its body unread.
func (w *world) open(path string, header http.Header) *http.Response {
	w.t.Helper()
	request, err := http.NewRequestWithContext(w.t.Context(), http.MethodGet, "http://cove"+path, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	for name, values := range header {
		request.Header[name] = values
	}
	reply, err := w.client.HTTP().Do(request)
	if err != nil {
		w.t.Fatal(err)
	}
	if reply.StatusCode != http.StatusOK {
		w.t.Fatalf("%s gets %s", path, reply.Status)
	}
	return reply
}

func TestRuntimesVersionAndHealth(t *testing.T) {
	w, ctx := newWorld(t, Options{}), t.Context()
	runtimes, err := w.client.Runtimes(ctx)
	if err != nil || len(runtimes) != 1 || runtimes[0].Name != "memory" || !runtimes[0].Default || !runtimes[0].Available {
		t.Errorf("the runtimes are %+v, %v", runtimes, err)
	}
	build, err := w.client.Version(ctx)
	if err != nil || build.Version != cove.Version || build.API != "v1" {
		t.Errorf("the version is %+v, %v", build, err)
	}
	if err := w.client.Healthy(ctx); err != nil {
		t.Error(err)
	}
}

func TestMetrics(t *testing.T) {
	w := newWorld(t, Options{})
	box := w.sandbox()
	w.request(http.MethodGet, "/v1/sandboxes/"+box.ID, nil, nil)
	w.request(http.MethodGet, "/v1/sandboxes/nobody", nil, nil)
	w.request("BREW", "/v1/none/such", nil, nil)
	_, text := w.request(http.MethodGet, "/metrics", nil, nil)
	for _, line := range []string{
		`cove_http_requests_total{code="200",method="GET",route="GET /v1/sandboxes/{id}"} 1`,
		`cove_http_requests_total{code="404",method="GET",route="GET /v1/sandboxes/{id}"} 1`,
		`cove_http_requests_total{code="404",method="other",route="none"} 1`,
		`cove_http_request_seconds_count{method="POST",route="POST /v1/sandboxes"} 1`,
		`cove_http_requests_in_progress 1`,
		`cove_sandboxes{runtime="memory",state="running"} 1`,
		`go_goroutines `, `process_open_fds `,
	} {
		if !strings.Contains(text, "\n"+line) {
			t.Errorf("the metrics lack %s", line)
		}
	}
}
