package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/covehq/cove"
	"github.com/covehq/cove/sandbox"
	"github.com/covehq/cove/server/mcp"
	"github.com/covehq/cove/tools"
)

// talk is a session of the official client.
type talk struct {
	t *testing.T
	*sdk.ClientSession
	world    *world
	dir      string // working directory of the session's sandbox
	progress chan *sdk.ProgressNotificationClientRequest
}

// eachTransport runs a test over both transports, each in a world of its own.
func eachTransport(t *testing.T, test func(t *testing.T, open func() *talk)) {
	for name, connect := range map[string]func(*talk) sdk.Transport{"stdio": overPipes, "http": overHTTP} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, Options{})
			test(t, func() *talk { return newTalk(t, w, connect) })
		})
	}
}

func newTalk(t *testing.T, w *world, connect func(*talk) sdk.Transport) *talk {
	t.Helper()
	c := &talk{t: t, world: w, dir: t.TempDir(), progress: make(chan *sdk.ProgressNotificationClientRequest, 100)}
	client := sdk.NewClient(&sdk.Implementation{Name: "test", Version: "1"}, &sdk.ClientOptions{
		ProgressNotificationHandler: func(_ context.Context, r *sdk.ProgressNotificationClientRequest) { c.progress <- r },
	})
	session, err := client.Connect(t.Context(), connect(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	c.ClientSession = session
	t.Cleanup(func() { _ = session.Close() })
	return c
}

// overPipes serves what cove mcp does.
func overPipes(c *talk) sdk.Transport {
	in, toServer := io.Pipe()
	fromServer, out := io.Pipe()
	server := mcp.New(mcp.Options{Daemon: mcpDaemon{c.world.host}})
	served := make(chan error, 1)
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		served <- server.Serve(ctx, in, out, mcp.Session{Spec: cove.Spec{User: user(), Workdir: c.dir}})
		out.Close()
	}()
	c.t.Cleanup(func() {
		toServer.Close()
		cancel()
		if err := <-served; err != nil && !errors.Is(err, context.Canceled) {
			c.t.Errorf("the server ended with: %v", err)
		}
	})
	return &sdk.IOTransport{Reader: fromServer, Writer: toServer}
}

func overHTTP(c *talk) sdk.Transport {
	query := url.Values{"user": {user()}, "workdir": {c.dir}}
	return &sdk.StreamableClientTransport{Endpoint: "http://localhost/mcp?" + query.Encode(), HTTPClient: c.world.client.HTTP()}
}

// call calls a tool that is to succeed, and returns its structured content.
func (c *talk) call(name string, arguments map[string]any) map[string]any {
	c.t.Helper()
	result := c.try(name, arguments)
	if result.IsError {
		c.t.Fatalf("%s %v: %s", name, arguments, textOf(result))
	}
	structured, ok := result.StructuredContent.(map[string]any)
	if !ok {
		c.t.Fatalf("%s %v: structured content %v", name, arguments, result.StructuredContent)
	}
	return structured
}

func (c *talk) try(name string, arguments map[string]any) *sdk.CallToolResult {
	c.t.Helper()
	result, err := c.CallTool(c.t.Context(), &sdk.CallToolParams{Name: name, Arguments: arguments})
	if err != nil {
		c.t.Fatalf("%s %v: %v", name, arguments, err)
	}
	return result
}

func textOf(result *sdk.CallToolResult) string {
	var text strings.Builder
	for _, content := range result.Content {
		if piece, ok := content.(*sdk.TextContent); ok {
			text.WriteString(piece.Text)
		}
	}
	return text.String()
}

// living counts the sandboxes of a world.
func (w *world) living() int {
	list, err := w.host.List(context.Background(), sandbox.Filter{State: cove.StateRunning})
	if err != nil {
		w.t.Fatal(err)
	}
	return len(list)
}

func TestAClientOfMCPFindsAndCallsEveryTool(t *testing.T) {
	calls := map[string]map[string]any{
		"shell": {"command": "echo $0"}, "run_python": {"code": "print(6*7)"},
		"write_file": {"file_path": "a/b.txt", "content": "one\n"}, "read_file": {"filename": "seed.txt"}, "list_files": {},
		"patch_file": {"file_path": "seed.txt", "from_line": 1, "to_line": 1, "content": "uno"},
		"edit_file":  {"file_path": "edit.txt", "old_string": "two", "new_string": "deux"},
		"grep":       {"pattern": "t.o"}, "glob": {"pattern": "**/*.txt"},
		"create_sandbox": {}, "list_sandboxes": {}, "kill_sandbox": {},
	}
	eachTransport(t, func(t *testing.T, open func() *talk) {
		c := open()
		for _, name := range []string{"seed.txt", "edit.txt"} {
			if err := os.WriteFile(filepath.Join(c.dir, name), []byte("one\ntwo\n"), 0o666); err != nil {
				t.Fatal(err)
			}
		}
		listed, err := c.ListTools(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, tool := range listed.Tools {
			names = append(names, tool.Name)
			if calls[tool.Name] == nil || tool.Description == "" || tool.OutputSchema == nil || tool.Annotations == nil {
				t.Errorf("%+v is not as a tool should be", tool)
				continue
			}
			if tool.Name != "kill_sandbox" { // it goes last
				c.call(tool.Name, calls[tool.Name])
			}
		}
		c.call("kill_sandbox", nil)
		if len(names) != len(tools.All())+3 {
			t.Errorf("the tools are %v", names)
		}
	})
}

func TestAModelRepairsAProjectByMCP(t *testing.T) {
	eachTransport(t, func(t *testing.T, open func() *talk) {
		c := open()
		for name, content := range map[string]string{
			"calc.py": "def add(a, b):\n    return a - b\n",
			"test.py": "import unittest\nfrom calc import add\n\nclass T(unittest.TestCase):\n    def test_add(self):\n        self.assertEqual(add(2, 3), 5)\n\nunittest.main()\n",
		} {
			c.call("write_file", map[string]any{"file_path": name, "content": content})
		}
		if failing := c.call("shell", map[string]any{"command": "python3 -B test.py"}); failing["exit_code"] != 1.0 || !strings.Contains(failing["stderr"].(string), "-1 != 5") {
			t.Fatalf("the test before: %v", failing)
		}
		found := c.call("grep", map[string]any{"pattern": "def add", "glob": "*.py"})["matches"].([]any)
		where, _ := found[0].(map[string]any)
		if len(found) != 1 || where["path"] != "calc.py" {
			t.Fatalf("grep found %v", found)
		}
		if code := c.call("read_file", map[string]any{"filename": "calc.py"})["content"].(string); !strings.Contains(code, "a - b") {
			t.Fatalf("the file is %q", code)
		}
		c.call("edit_file", map[string]any{"file_path": "calc.py", "old_string": "a - b", "new_string": "a + b"})
		if repaired := c.call("shell", map[string]any{"command": "python3 -B test.py"}); repaired["exit_code"] != 0.0 {
			t.Fatalf("the test after: %v", repaired)
		}
	})
}

func TestTheSandboxesOfASessionGoWithIt(t *testing.T) {
	eachTransport(t, func(t *testing.T, open func() *talk) {
		c, other := open(), open()
		if n := c.world.living(); n != 0 {
			t.Errorf("%d sandboxes before the first use", n)
		}
		for range 2 {
			c.call("shell", map[string]any{"command": "true"})
		}
		c.call("create_sandbox", nil)
		other.call("shell", map[string]any{"command": "true"})
		if n := c.world.living(); n != 3 {
			t.Errorf("%d sandboxes, want 3", n)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		eventually(t, "the session's sandboxes are gone", func() bool { return c.world.living() == 1 })
		other.call("shell", map[string]any{"command": "true"})
	})
}

func TestASessionReachesItsOwnSandboxesAloneT82(t *testing.T) {
	eachTransport(t, func(t *testing.T, open func() *talk) {
		c := open()
		foreign := c.world.sandbox()
		for _, asked := range []string{foreign.ID, "none", "../" + foreign.ID} {
			result := c.try("shell", map[string]any{"command": "id", "sandbox": asked})
			if !result.IsError || !strings.Contains(textOf(result), "hint: see list_sandboxes") {
				t.Errorf("a command in %s: %s", asked, textOf(result))
			}
			if result := c.try("kill_sandbox", map[string]any{"sandbox": asked}); !result.IsError {
				t.Errorf("killing %s: %s", asked, textOf(result))
			}
			if _, err := c.ReadResource(t.Context(), &sdk.ReadResourceParams{URI: "cove://" + asked + "//etc/hostname"}); err == nil {
				t.Errorf("%s has resources", asked)
			}
		}
		if list := c.call("list_sandboxes", nil)["sandboxes"].([]any); len(list) != 0 {
			t.Errorf("the session sees %v", list)
		}
		for _, image := range []string{"rootfs:/", "docker-daemon:x", "oci:/tmp"} {
			if result := c.try("create_sandbox", map[string]any{"image": image}); !result.IsError {
				t.Errorf("a sandbox of %s: %s", image, textOf(result))
			}
		}
		if err := foreign.Refresh(t.Context()); err != nil || foreign.State != cove.StateRunning {
			t.Errorf("the other sandbox: %v, %v", foreign.State, err)
		}
	})
}

func TestASandboxThatEndedIsReplacedAndTheModelIsTold(t *testing.T) {
	eachTransport(t, func(t *testing.T, open func() *talk) {
		c := open()
		c.call("shell", map[string]any{"command": "true"})
		list, err := c.world.host.List(t.Context(), sandbox.Filter{})
		if err != nil || len(list) != 1 {
			t.Fatalf("%v, %v", list, err)
		}
		if err := (mcpDaemon{c.world.host}).Remove(t.Context(), list[0].ID); err != nil {
			t.Fatal(err)
		}
		if result := c.try("shell", map[string]any{"command": "true"}); !result.IsError || !strings.Contains(textOf(result), "the next call gets a new one") {
			t.Errorf("the call after its end: %s", textOf(result))
		}
		c.call("shell", map[string]any{"command": "true"})
	})
}

func TestACallThatIsCancelledIsKilledAndOneThatGoesOnSaysSo(t *testing.T) {
	eachTransport(t, func(t *testing.T, open func() *talk) {
		c := open()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		params := &sdk.CallToolParams{Name: "shell", Arguments: map[string]any{"command": "echo $$ > pid; exec sleep 1000"}}
		params.SetProgressToken("token")
		ended := make(chan error, 1)
		go func() {
			_, err := c.CallTool(ctx, params)
			ended <- err
		}()
		select {
		case told := <-c.progress:
			if told.Params.ProgressToken != "token" || told.Params.Progress <= 0 {
				t.Errorf("progress %+v", told.Params)
			}
		case <-time.After(30 * time.Second):
			t.Fatal("no progress")
		}
		pid, err := os.ReadFile(filepath.Join(c.dir, "pid"))
		if err != nil {
			t.Fatal(err)
		}
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("the call ended with %v", err)
		}
		eventually(t, "the command is gone", func() bool {
			_, err := os.Stat("/proc/" + strings.TrimSpace(string(pid)))
			return errors.Is(err, os.ErrNotExist)
		})
		c.call("shell", map[string]any{"command": "true"})
	})
}

func TestASessionThatEndsInTheMiddleOfACallEndsIt(t *testing.T) {
	w := newWorld(t, Options{})
	c := newTalk(t, w, overHTTP)
	ended := make(chan error, 1)
	go func() {
		_, err := c.CallTool(context.WithoutCancel(t.Context()), &sdk.CallToolParams{Name: "shell", Arguments: map[string]any{"command": "touch here; sleep 1000"}})
		ended <- err
	}()
	eventually(t, "the command runs", func() bool {
		_, err := os.Stat(filepath.Join(c.dir, "here"))
		return err == nil
	})
	if err := w.stop(); err != nil {
		t.Errorf("the server ended with: %v", err)
	}
	<-ended
	if n := w.living(); n != 0 {
		t.Errorf("%d sandboxes are left", n)
	}
}

func TestFilesAreResources(t *testing.T) {
	eachTransport(t, func(t *testing.T, open func() *talk) {
		c := open()
		if list, err := c.ListResources(t.Context(), nil); err != nil || len(list.Resources) != 0 {
			t.Errorf("before the first use: %v, %v", list, err)
		}
		c.call("write_file", map[string]any{"file_path": "a b.txt", "content": "täxt"})
		c.call("shell", map[string]any{"command": `printf '\377\000' > bytes; mkdir d; head -c 1048577 /dev/zero > large`})
		list, err := c.ListResources(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		var uris []string
		for _, r := range list.Resources {
			uris = append(uris, r.URI)
		}
		if want := []string{"cove://session/a%20b.txt", "cove://session/bytes", "cove://session/large"}; !slices.Equal(uris, want) {
			t.Errorf("resources %v, want %v", uris, want)
		}
		for uri, want := range map[string]string{
			"cove://session/a%20b.txt": "täxt", "cove://session/bytes": "\xff\x00", "cove://session/" + filepath.Join(c.dir, "bytes"): "\xff\x00",
		} {
			read, err := c.ReadResource(t.Context(), &sdk.ReadResourceParams{URI: uri})
			if err != nil || len(read.Contents) != 1 || read.Contents[0].Text+string(read.Contents[0].Blob) != want {
				t.Errorf("%s: %v, %v", uri, read, err)
			}
		}
		for uri, want := range map[string]string{"cove://session/none": "not found", "cove://session/large": "hint", "cove://session/d": "", "cove://session/": "", "file:///etc/passwd": ""} {
			if _, err := c.ReadResource(t.Context(), &sdk.ReadResourceParams{URI: uri}); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want an error with %q", uri, err, want)
			}
		}
		templates, err := c.ListResourceTemplates(t.Context(), nil)
		if err != nil || len(templates.ResourceTemplates) != 1 {
			t.Errorf("templates %v, %v", templates, err)
		}
	})
}

func TestWhatTheAddressOfASessionSays(t *testing.T) {
	w := newWorld(t, Options{})
	for query, want := range map[string]int{
		"":                                      http.StatusOK,
		"?image=host&memory=1g&cpus=2":          http.StatusOK,
		"?allow=pip,npm&allow=example.org":      http.StatusOK,
		"?image=host&imagine=x":                 http.StatusBadRequest,
		"?memory=lots":                          http.StatusBadRequest,
		"?cpus=lots":                            http.StatusBadRequest,
		"?all=maybe":                            http.StatusBadRequest,
		"?name=a&sandbox=b":                     http.StatusBadRequest,
		"?all=true&runtime=memory&network=none": http.StatusOK,
		"?network=some":                         http.StatusBadRequest,
	} {
		header := http.Header{"Content-Type": {"application/json"}, "Accept": {"application/json, text/event-stream"}}
		reply, body := w.request(http.MethodPost, "/mcp"+query, header, strings.NewReader(hello))
		if reply.StatusCode != want {
			t.Errorf("%s: %s: %s", query, reply.Status, body)
		}
		if want == http.StatusBadRequest {
			var envelope struct{ Error struct{ Hint string } }
			if err := json.Unmarshal([]byte(body), &envelope); err != nil || envelope.Error.Hint == "" {
				t.Errorf("%s: %s, %v", query, body, err)
			}
		}
	}
}

const hello = `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"name":"t","version":"1"}}}`

func TestASessionIsItsOwnersAloneT82(t *testing.T) {
	h := newHouse(t, DoorOptions{})
	his, hers := h.key(cove.KeyInput{Name: "his"}), h.key(cove.KeyInput{Name: "hers"})
	reads := h.key(cove.KeyInput{Name: "reads", Scope: cove.ScopeRead})
	header := func(secret, session string) http.Header {
		header := bearer(secret)
		header.Set("Content-Type", "application/json")
		header.Set("Accept", "application/json, text/event-stream")
		if session != "" {
			header.Set("Mcp-Session-Id", session)
		}
		return header
	}
	reply, body := h.knock(http.MethodPost, "/mcp", header(his, ""), strings.NewReader(hello))
	session := reply.Header.Get("Mcp-Session-Id")
	if reply.StatusCode != http.StatusOK || session == "" {
		t.Fatalf("%s: %s", reply.Status, body)
	}
	const list = `{"jsonrpc":"2.0","id":2,"method":"tools/list"}`
	for name, test := range map[string]struct {
		secret, method string
		want           int
	}{
		"its owner":                   {his, http.MethodPost, http.StatusOK},
		"somebody else":               {hers, http.MethodPost, http.StatusNotFound},
		"somebody else, listening":    {hers, http.MethodGet, http.StatusNotFound},
		"somebody else, who ends it":  {hers, http.MethodDelete, http.StatusNotFound},
		"who may only read":           {reads, http.MethodPost, http.StatusForbidden},
		"its owner, after all others": {his, http.MethodPost, http.StatusOK},
	} {
		if reply, body := h.knock(test.method, "/mcp", header(test.secret, session), strings.NewReader(list)); reply.StatusCode != test.want {
			t.Errorf("%s: %s: %s, want %d", name, reply.Status, body, test.want)
		}
	}
	if reply, body := h.knock(http.MethodPost, "/mcp", header(his, fmt.Sprint(session, "x")), strings.NewReader(list)); reply.StatusCode != http.StatusNotFound {
		t.Errorf("a session that is none: %s: %s", reply.Status, body)
	}
	for begun := 1; ; begun++ {
		reply, body := h.knock(http.MethodPost, "/mcp", header(his, ""), strings.NewReader(hello))
		if reply.StatusCode == http.StatusTooManyRequests {
			break
		}
		if reply.StatusCode != http.StatusOK || begun > 100 {
			t.Fatalf("session %d of one owner: %s: %s", begun, reply.Status, body)
		}
	}
	if reply, body := h.knock(http.MethodPost, "/mcp", header(hers, ""), strings.NewReader(hello)); reply.StatusCode != http.StatusOK {
		t.Errorf("a session of another owner: %s: %s", reply.Status, body)
	}
}
