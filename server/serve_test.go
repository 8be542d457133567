package server

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/client"
	"github.com/covehq/cove/internal/httpapi"
)

// logFile is a log that a test reads while it is written.
type logFile struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logFile) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logFile) lines() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Split(strings.TrimSuffix(l.buf.String(), "\n"), "\n")
}

func TestTheLogIsOneLineForEachRequestAndSaysNoSecrets(t *testing.T) {
	var log logFile
	w := newWorld(t, Options{Logger: slog.New(slog.NewJSONHandler(&log, nil))})
	box := w.sandbox()
	before := len(log.lines())
	header := jsonHeader()
	header.Set(httpapi.HeaderRequestID, "mine-1")
	header.Set("Authorization", "Bearer SECRET")
	header.Set("User-Agent", "SECRET")
	reply, _ := w.request(http.MethodPost, "/v1/sandboxes/"+box.ID+"/exec", header,
		strings.NewReader(`{"command":"true #SECRET","env":{"A":"SECRET"},"stdin":"SECRET"}`))
	if got := reply.Header.Get(httpapi.HeaderRequestID); got != "mine-1" {
		t.Errorf("the request id came back as %q", got)
	}
	w.request(http.MethodGet, "/v1/sandboxes/a%0Ab%1B%5B31m%22?x=SECRET", nil, nil)
	w.request(http.MethodGet, "/v1/sandboxes/"+box.ID+"/ports/1/SECRET?token=SECRET", nil, nil)
	reply, _ = w.request(http.MethodGet, "/v1/version", http.Header{httpapi.HeaderRequestID: {"not harmless"}}, nil)
	if got := reply.Header.Get(httpapi.HeaderRequestID); got == "not harmless" || got == "" {
		t.Errorf("the request id came back as %q", got)
	}
	eventually(t, "four lines are written", func() bool { return len(log.lines()) >= before+4 })
	lines := log.lines()[before:]
	if len(lines) != 4 {
		t.Errorf("%d lines for four requests", len(lines))
	}
	for _, line := range lines {
		var entry struct {
			Msg, Method, Path, Route, Client string
			RequestID                        string `json:"request_id"`
			Status                           int
		}
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			t.Fatalf("line %q: %v", line, err)
		}
		if entry.Msg != "request" || entry.RequestID == "" || entry.Method == "" || entry.Status == 0 {
			t.Errorf("line %s lacks something", line)
		}
		if strings.Contains(line, "SECRET") || strings.ContainsAny(line, "\x1b\x00\n") {
			t.Errorf("line %q says too much", line)
		}
	}
}

func TestInternalErrorsAreLoggedWholeAndShownShort(t *testing.T) {
	var log logFile
	w := newWorld(t, Options{Logger: slog.New(slog.NewJSONHandler(&log, nil))})
	if err := w.host.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	for name, handler := range map[string]http.HandlerFunc{
		"an error": func(rw http.ResponseWriter, r *http.Request) {
			w.server.fail(rw, r, errors.New("it is in /var/lib/secret"))
		},
		"a panic": func(http.ResponseWriter, *http.Request) { panic("it is in /var/lib/secret") },
	} {
		path := "/test/" + strings.ReplaceAll(name, " ", "-")
		w.server.mux.HandleFunc("GET "+path, handler)
		reply, text := w.request(http.MethodGet, path, http.Header{httpapi.HeaderRequestID: {"number-7"}}, nil)
		var got httpapi.ErrorReply
		if err := json.Unmarshal([]byte(text), &got); err != nil {
			t.Fatalf("%s: %s", name, text)
		}
		if reply.StatusCode != 500 || got.Error.Code != cove.Internal || got.Error.Message != "internal error" ||
			!strings.Contains(got.Error.Hint, "number-7") || strings.Contains(text, "secret") {
			t.Errorf("%s is shown as %d %s", name, reply.StatusCode, text)
		}
	}
	logged := strings.Join(log.lines(), "\n")
	if strings.Count(logged, "/var/lib/secret") < 2 || !strings.Contains(logged, "number-7") {
		t.Errorf("the log is %s", logged)
	}
}

func TestTooManyRequests(t *testing.T) {
	w := newWorld(t, Options{MaxRequests: 2})
	first, second := w.open("/v1/events", nil), w.open("/v1/events", nil)
	defer second.Body.Close()
	reply, text := w.request(http.MethodGet, "/v1/version", nil, nil)
	if reply.StatusCode != 429 || reply.Header.Get("Retry-After") == "" || !strings.Contains(text, string(cove.Exhausted)) {
		t.Errorf("one too many gets %d %s", reply.StatusCode, text)
	}
	if reply, _ := w.request(http.MethodGet, "/healthz", nil, nil); reply.StatusCode != 200 {
		t.Errorf("the health check gets %d", reply.StatusCode)
	}
	first.Body.Close()
	eventually(t, "there is room again", func() bool {
		reply, _ := w.request(http.MethodGet, "/v1/version", nil, nil)
		return reply.StatusCode == 200
	})
}

func TestAStuckClientReleasesItsProcess(t *testing.T) {
	w := newWorld(t, Options{WriteTimeout: 300 * time.Millisecond})
	box := w.sandbox()
	for name, accept := range map[string]string{"frames": httpapi.TypeFrames, "events": httpapi.TypeSSE} {
		conn, err := net.Dial("unix", w.socket)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		body := `{"command":"yes"}`
		fmt.Fprintf(conn, "POST /v1/sandboxes/%s/exec HTTP/1.1\r\nHost: x\r\nAccept: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
			box.ID, accept, len(body), body)
		// Nothing is read from conn any more.
		eventually(t, name+": the command was started and is dead", func() bool {
			list, err := box.Processes(t.Context())
			return err == nil && len(list) > 0 && !list[len(list)-1].Running
		})
	}
}

func TestAnyHostIsGoodOnAUnixSocket(t *testing.T) {
	w := newWorld(t, Options{})
	for _, host := range []string{"cove", "localhost", "evil.example:80", "x"} {
		conn, err := net.Dial("unix", w.socket)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "GET /v1/version HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", host)
		text, err := io.ReadAll(conn)
		conn.Close()
		if err != nil || !strings.HasPrefix(string(text), "HTTP/1.1 200 ") {
			t.Errorf("Host %s gets %.60q, %v", host, text, err)
		}
	}
}

func TestShutdown(t *testing.T) {
	w := newWorld(t, Options{Grace: 30 * time.Second})
	box := w.sandbox()
	mark := filepath.Join(t.TempDir(), "runs")
	process, err := box.Start(t.Context(), cove.ProcessRequest{Command: cove.Command{Line: "sleep 300"}})
	if err != nil {
		t.Fatal(err)
	}
	output, err := process.Output(t.Context(), cove.FromStart(), true)
	if err != nil {
		t.Fatal(err)
	}
	defer output.Close()
	events := w.open("/v1/events", nil)
	defer events.Body.Close()
	short := box.Command("sh", "-c", "touch "+mark+"; sleep 0.3; echo finished")
	var out bytes.Buffer
	short.Stdout = &out
	if err := short.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the command runs", func() bool { return exists(mark) })
	stopped := make(chan error, 1)
	go func() { stopped <- w.stop() }()
	// What only reports ends at once, with a reason.
	if _, err := output.Next(); !errors.Is(err, cove.Unavailable) || !strings.Contains(err.Error(), "shutting down") {
		t.Errorf("the output ends with %v", err)
	}
	if rest, err := io.ReadAll(events.Body); err != nil || !strings.Contains(string(rest), "shutting down") {
		t.Errorf("the events end with %q, %v", rest, err)
	}
	// A command goes on to its end.
	if err := short.Wait(); err != nil || out.String() != "finished\n" {
		t.Errorf("the command: %q, %v", out.String(), err)
	}
	select {
	case err := <-stopped:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the server does not stop")
	}
	if err := w.client.Healthy(t.Context()); !errors.Is(err, cove.Unavailable) {
		t.Errorf("after the end: %v", err)
	}
}

func TestShutdownCutsWhatDoesNotEnd(t *testing.T) {
	w := newWorld(t, Options{Grace: 50 * time.Millisecond})
	box := w.sandbox()
	forever := box.Command("sleep", "300")
	if err := forever.Start(); err != nil {
		t.Fatal(err)
	}
	terminal, err := shell(t, box).Terminal(t.Context(), client.TerminalOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer terminal.Close()
	tunnel, err := box.DialPort(t.Context(), echo(t))
	if err != nil {
		t.Fatal(err)
	}
	defer tunnel.Close()
	if err := w.stop(); err != nil {
		t.Error(err)
	}
	if err := forever.Wait(); err == nil {
		t.Error("the command ended well")
	}
	if _, err := io.Copy(io.Discard, terminal); err == nil {
		t.Error("the terminal ended well")
	}
	if _, err := io.Copy(io.Discard, tunnel); err != nil && !strings.Contains(err.Error(), "reset") {
		t.Errorf("the tunnel: %v", err)
	}
	// The sandbox is still there for the next daemon.
	if _, err := w.host.Sandbox(t.Context(), box.ID); err != nil {
		t.Error(err)
	}
}

func TestHammer(t *testing.T) {
	w := newWorld(t, Options{})
	box := w.sandbox()
	var group sync.WaitGroup
	for worker := range 8 {
		group.Go(func() {
			for i := range 10 {
				text := fmt.Sprint("worker ", worker, " round ", i)
				switch i % 3 {
				case 0:
					if out, err := box.Command("echo", text).Output(); err != nil || string(out) != text+"\n" {
						t.Errorf("command: %q, %v", out, err)
					}
				case 1:
					result, err := box.Exec(t.Context(), cove.ExecRequest{Command: cove.Command{Argv: []string{"echo", text}}})
					if err != nil || string(result.Stdout) != text+"\n" {
						t.Errorf("exec: %+v, %v", result, err)
					}
				case 2:
					path := fmt.Sprintf("%s/%d-%d", box.Spec.Workdir, worker, i)
					if _, err := box.Files().WriteFile(t.Context(), path, strings.NewReader(text), 0); err != nil {
						t.Errorf("write: %v", err)
					}
					if data, err := box.Files().ReadFile(t.Context(), path); err != nil || string(data) != text {
						t.Errorf("read: %q, %v", data, err)
					}
				}
			}
		})
	}
	group.Wait()
	eventually(t, "no request is left", func() bool { return w.server.active.count() == 0 })
}

func TestABodyThatDawdles(t *testing.T) {
	w := newWorld(t, Options{BodyTimeout: 200 * time.Millisecond})
	body, writing := io.Pipe()
	defer writing.Close()
	go io.WriteString(writing, `{"name":`)
	reply, text := w.request(http.MethodPost, "/v1/sandboxes", jsonHeader(), body)
	if reply.StatusCode != 504 || !strings.Contains(text, "did not arrive in time") {
		t.Errorf("got %d %s", reply.StatusCode, text)
	}
	// A command may take longer than that: the deadline is for the body alone.
	box := w.sandbox()
	result, err := box.Exec(t.Context(), cove.ExecRequest{Command: cove.Command{Line: "sleep 0.6; echo done"}})
	if err != nil || string(result.Stdout) != "done\n" {
		t.Errorf("got %+v, %v", result, err)
	}
}

func TestNobodyElsesPagesMayRead(t *testing.T) {
	w := newWorld(t, Options{})
	for _, method := range []string{http.MethodGet, http.MethodOptions} {
		reply, _ := w.request(method, "/v1/sandboxes", http.Header{
			"Origin": {"https://evil.example"}, "Access-Control-Request-Method": {"POST"}, "Access-Control-Request-Headers": {"content-type"},
		}, nil)
		for name := range reply.Header {
			if strings.HasPrefix(name, "Access-Control-") {
				t.Errorf("%s is answered with %s: %s", method, name, reply.Header.Get(name))
			}
		}
	}
}
