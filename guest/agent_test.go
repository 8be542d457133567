package guest_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/guest"
	"github.com/covehq/cove/guest/dial"
	"github.com/covehq/cove/guest/pair"
)

// patience is how long a test waits for something that must happen.
const patience = 20 * time.Second

// newAgent starts an agent in this process and returns a way to it.
func newAgent(t testing.TB, options guest.Options) dial.Dialer {
	t.Helper()
	agent := guest.New(options)
	served := make(chan error, 1)
	go func() { served <- agent.Serve() }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := agent.Close(ctx); err != nil {
			t.Errorf("closing the agent: %v", err)
		}
		if err := <-served; err != nil {
			t.Errorf("serving: %v", err)
		}
	})
	return func(context.Context) (net.Conn, error) {
		ours, theirs := socketPair(t)
		agent.ServeConn(theirs)
		return ours, nil
	}
}

// newClient starts an agent whose default user and working directory are those of the test.
func newClient(t testing.TB) *dial.Client {
	t.Helper()
	client := dial.New(newAgent(t, guest.Options{}))
	t.Cleanup(func() { _ = client.Close() })
	init := dial.Init{User: strconv.Itoa(os.Geteuid()), Workdir: t.TempDir(), Env: map[string]string{"FROM_INIT": "yes"}}
	if err := client.Init(t.Context(), init); err != nil {
		t.Fatal(err)
	}
	return client
}

// socketPair returns two connected unix sockets.
func socketPair(t testing.TB) (ours, theirs *net.UnixConn) {
	t.Helper()
	ours, theirs, err := pair.New()
	if err != nil {
		t.Fatal(err)
	}
	return ours, theirs
}

// result is how a command went.
type result struct {
	pid                 int
	stdout, stderr, tty string
	exit                cove.Exit
}

// drain reads a stream to its end.
func drain(t testing.TB, stream *dial.Stream) result {
	t.Helper()
	defer stream.Close()
	r := result{pid: stream.PID}
	var stdout, stderr, tty bytes.Buffer
	for {
		output, err := stream.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatalf("reading output: %v", err)
		}
		switch {
		case output.Exit != nil:
			r.exit = *output.Exit
		case output.Stream == cove.Stderr:
			stderr.Write(output.Data)
		case output.Stream == cove.PTY:
			tty.Write(output.Data)
		default:
			stdout.Write(output.Data)
		}
	}
	r.stdout, r.stderr, r.tty = stdout.String(), stderr.String(), tty.String()
	return r
}

// run runs a command to its end.
func run(t testing.TB, c *dial.Client, s dial.Start) result {
	t.Helper()
	stream, err := c.Start(t.Context(), s)
	if err != nil {
		t.Fatalf("starting %q: %v", s.Argv, err)
	}
	return drain(t, stream)
}

func shell(line string) dial.Start { return dial.Start{Argv: []string{"/bin/sh", "-c", line}} }

// eventually waits for a condition.
func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !is(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v in vain: %s", patience, what)
		}
	}
}

func TestCommands(t *testing.T) {
	c := newClient(t)
	long := strings.Repeat("x", 100_000)
	for _, test := range []struct {
		name           string
		start          dial.Start
		stdout, stderr string
		exit           cove.Exit
	}{
		{name: "output and error are told apart", start: shell("echo out; echo err >&2"), stdout: "out\n", stderr: "err\n"},
		{name: "an exit code arrives", start: shell("exit 7"), exit: cove.Exit{Code: 7}},
		{name: "a program is found in PATH", start: dial.Start{Argv: []string{"echo", "a  b", "c"}}, stdout: "a  b c\n"},
		{name: "a signal ends a command with -1", start: shell("kill -TERM $$"), exit: cove.Exit{Code: -1, Signal: "SIGTERM"}},
		{name: "stdin is empty unless asked for", start: dial.Start{Argv: []string{"cat"}}},
		{name: "the sandbox's environment is a command's", start: shell("echo $FROM_INIT $ASKED"), stdout: "yes\n"},
		{
			name:  "what is asked for overrides the sandbox's environment",
			start: dial.Start{Argv: []string{"sh", "-c", "echo $FROM_INIT $ASKED"}, Env: map[string]string{"FROM_INIT": "no", "ASKED": "too"}}, stdout: "no too\n",
		},
		{name: "long arguments arrive whole", start: dial.Start{Argv: []string{"printf", "%s", long}}, stdout: long},
		{name: "the working directory is as asked", start: dial.Start{Argv: []string{"pwd"}, Cwd: "/usr/bin"}, stdout: "/usr/bin\n"},
		{name: "a late grandchild's output is not waited for", start: shell("echo first; (sleep 300; echo late) &"), stdout: "first\n"},
		{name: "a command leads a session and a group", start: shell(`set -- $(cat /proc/self/stat); test $6 = $$ && echo leads`), stdout: "leads\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := run(t, c, test.start)
			if got.stdout != test.stdout || got.stderr != test.stderr {
				t.Errorf("got stdout %.200q, stderr %.200q; want %.200q, %.200q", got.stdout, got.stderr, test.stdout, test.stderr)
			}
			if got.exit.DurationMS <= 0 {
				t.Errorf("got duration %v, want some", got.exit.DurationMS)
			}
			got.exit.DurationMS = 0
			if got.exit != test.exit {
				t.Errorf("got exit %+v, want %+v", got.exit, test.exit)
			}
		})
	}
}

func TestCommandsThatCannotStart(t *testing.T) {
	c := newClient(t)
	script := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(script, []byte("echo no first line\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name  string
		start dial.Start
		code  cove.Code
		text  string
	}{
		{"an empty vector", dial.Start{}, cove.Invalid, "command is empty"},
		{"an empty name", dial.Start{Argv: []string{""}}, cove.Invalid, "command is empty"},
		{"an unknown program", dial.Start{Argv: []string{"no-such-program"}}, cove.Invalid, `no program "no-such-program" in PATH`},
		{"a missing path", dial.Start{Argv: []string{"/no/such"}}, cove.Invalid, "/no/such: no such file"},
		{"a directory", dial.Start{Argv: []string{"/tmp"}}, cove.Invalid, "/tmp: permission denied"},
		{"a script without an interpreter", dial.Start{Argv: []string{script}}, cove.Invalid, "exec format error"},
		{"a missing working directory", dial.Start{Argv: []string{"true"}, Cwd: "/no/such"}, cove.Invalid, `"/no/such" is no directory`},
		{"a working directory with a zero byte", dial.Start{Argv: []string{"true"}, Cwd: "/\x00"}, cove.Invalid, "zero byte"},
		{"an argument with a zero byte", dial.Start{Argv: []string{"echo", "a\x00b"}}, cove.Invalid, "zero byte"},
		{"a variable with a strange name", dial.Start{Argv: []string{"true"}, Env: map[string]string{"a=b": "c"}}, cove.Invalid, `"a=b"`},
		{"an argument that is not UTF-8", dial.Start{Argv: []string{"echo", "\xff"}}, cove.Invalid, "not UTF-8"},
		{"an unknown user", dial.Start{Argv: []string{"true"}, User: "nosuchuser"}, cove.Invalid, `user "nosuchuser" is unknown`},
		{"too many arguments", dial.Start{Argv: []string{"true", strings.Repeat("x", 1<<20)}}, cove.Invalid, "argument list too long"},
		{"an immense terminal", dial.Start{Argv: []string{"true"}, TTY: &cove.TerminalSize{Cols: 60000, Rows: 1}}, cove.Invalid, "too large"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := c.Start(t.Context(), test.start)
			if !errors.Is(err, test.code) || !strings.Contains(fmt.Sprint(err), test.text) {
				t.Errorf("got error %v (%s), want %s with %q", err, cove.CodeOf(err), test.code, test.text)
			}
			if cove.HintOf(err) == "" {
				t.Errorf("error %v has no hint", err)
			}
		})
	}
}

func TestConnectionsAreReused(t *testing.T) {
	d := newAgent(t, guest.Options{})
	var dialled atomic.Int64
	c := dial.New(func(ctx context.Context) (net.Conn, error) {
		dialled.Add(1)
		return d(ctx)
	})
	if err := c.Init(t.Context(), dial.Init{User: strconv.Itoa(os.Geteuid())}); err != nil {
		t.Fatal(err)
	}
	for range 100 {
		run(t, c, shell("echo x"))
		if _, err := c.List(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if got := dialled.Load(); got > 10 {
		t.Errorf("got %d connections for 200 calls, want a few", got)
	}
}

func TestDefaultWorkingDirectory(t *testing.T) {
	for _, test := range []struct{ name, workdir, want string }{
		{"is the sandbox's", "/usr", "/usr\n"},
		{"is the root where the sandbox's is missing", "/no/such", "/\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := newClient(t)
			if err := c.Init(t.Context(), dial.Init{Workdir: test.workdir}); err != nil {
				t.Fatal(err)
			}
			if got := run(t, c, dial.Start{Argv: []string{"pwd"}}).stdout; got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestHTTPEndpoints(t *testing.T) {
	c := newClient(t)
	if err := c.Health(t.Context()); err != nil {
		t.Errorf("health: %v", err)
	}
	metrics, err := c.Metrics(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if metrics.MemTotal == 0 || metrics.CPUs == 0 || metrics.DiskTotal == 0 || metrics.Processes == 0 || metrics.Timestamp == 0 {
		t.Errorf("got metrics %+v, want something in each field", metrics)
	}
	if err := c.Init(t.Context(), dial.Init{User: "nosuchuser"}); !errors.Is(err, cove.Invalid) {
		t.Errorf("init with an unknown user: got %v, want invalid", err)
	}
	if err := c.Init(t.Context(), dial.Init{Env: map[string]string{"a=b": ""}}); !errors.Is(err, cove.Invalid) {
		t.Errorf("init with a strange environment: got %v, want invalid", err)
	}
}

func TestEnvs(t *testing.T) {
	d := newAgent(t, guest.Options{})
	c := dial.New(d)
	if err := c.Init(t.Context(), dial.Init{Env: map[string]string{"A": "1"}}); err != nil {
		t.Fatal(err)
	}
	status, body := get(t, d, "/envs")
	if status != http.StatusOK || body != `{"A":"1"}` {
		t.Errorf("got %d %s", status, body)
	}
}

// get makes a plain request.
func get(t testing.TB, d dial.Dialer, path string) (status int, body string) {
	t.Helper()
	client := httpClient(d, false)
	response, err := client.Get("http://guest" + path)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(text)
}

// httpClient returns a client over HTTP/1.1 or HTTP/2 without TLS.
func httpClient(d dial.Dialer, http2 bool) *http.Client {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(!http2)
	protocols.SetUnencryptedHTTP2(http2)
	return &http.Client{Transport: &http.Transport{
		DialContext:        func(ctx context.Context, _, _ string) (net.Conn, error) { return d(ctx) },
		Protocols:          protocols,
		DisableCompression: true,
	}}
}

// TestAccountsAreCompletedWhereThatIsAsked also tells that nothing else is touched.
func TestAccountsAreCompletedWhereThatIsAsked(t *testing.T) {
	for _, asked := range []bool{false, true} {
		dir := t.TempDir()
		passwd, group := filepath.Join(dir, "passwd"), filepath.Join(dir, "group")
		c := dial.New(newAgent(t, guest.Options{Passwd: passwd, Group: group}))
		t.Cleanup(func() { _ = c.Close() })
		if err := c.Init(t.Context(), dial.Init{Accounts: asked}); err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{passwd, group} {
			if text, _ := os.ReadFile(path); strings.Contains(string(text), "user:x:1000:") != asked {
				t.Errorf("%s: got %q, asked for accounts: %v", path, text, asked)
			}
		}
	}
}
