package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/covehq/cove"
)

// TestAModelRepairsAProject lets a client of MCP, its official Go SDK, do what a model
// would with cove mcp: find what is wrong with a project, and repair it.
func TestAModelRepairsAProject(t *testing.T) {
	eachRuntime(t, func(t *testing.T, runtime string) {
		w := newWorld(t, runtime)
		client := sdk.NewClient(&sdk.Implementation{Name: "test", Version: "1"}, nil)
		session, err := client.Connect(t.Context(), &sdk.CommandTransport{Command: w.command(t, "mcp")}, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer session.Close()
		call := func(tool string, arguments map[string]any) string {
			t.Helper()
			result, err := session.CallTool(t.Context(), &sdk.CallToolParams{Name: tool, Arguments: arguments})
			if err != nil {
				t.Fatalf("%s: %v", tool, err)
			}
			text := result.Content[0].(*sdk.TextContent).Text
			if result.IsError {
				t.Fatalf("%s: %s", tool, text)
			}
			return text
		}
		call("write_file", map[string]any{"file_path": "calc.sh", "content": "expr $1 - $2\n"})
		call("write_file", map[string]any{"file_path": "test.sh", "content": "test \"$(sh calc.sh 2 3)\" = 5 && echo passed\n", "mode": "0755"})
		if text := call("shell", map[string]any{"command": "./test.sh"}); strings.Contains(text, "passed") {
			// A file without an interpreter's name is one for the shell that runs it.
			t.Fatalf("the test before: %s", text)
		}
		if text := call("grep", map[string]any{"pattern": `expr .* -`}); !strings.HasPrefix(text, "calc.sh:1:") {
			t.Fatalf("grep: %s", text)
		}
		call("edit_file", map[string]any{"file_path": "calc.sh", "old_string": " - ", "new_string": " + "})
		if text := call("shell", map[string]any{"command": "./test.sh"}); text != "passed" {
			t.Fatalf("the test after: %s", text)
		}
		if n := len(strings.Fields(w.output(t, "ls", "-q"))); n != 1 {
			t.Errorf("%d sandboxes, want 1", n)
		}
		if err := session.Close(); err != nil {
			t.Error(err)
		}
		if left := w.output(t, "ls", "-q"); left != "" {
			t.Errorf("left behind: %s", left)
		}
	})
}

// TestAClientThatIsKilledLeavesNoSandbox kills cove mcp, which can't clean up then: its
// sandbox is on a lease.
func TestAClientThatIsKilledLeavesNoSandbox(t *testing.T) {
	eachRuntime(t, func(t *testing.T, runtime string) {
		w := newWorld(t, runtime)
		cmd := w.command(t, "mcp")
		session, err := sdk.NewClient(&sdk.Implementation{Name: "test", Version: "1"}, nil).Connect(t.Context(), &sdk.CommandTransport{Command: cmd}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := session.CallTool(t.Context(), &sdk.CallToolParams{Name: "shell", Arguments: map[string]any{"command": "true"}}); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		_ = session.Close()
		eventually(t, time.Minute, "the sandbox has ended", func() bool { return !strings.Contains(w.output(t, "ls"), "running") })
	})
}

// TestTheInspectorCallsEveryTool has the command line of MCP's Inspector list and call
// every tool, over both transports.
func TestTheInspectorCallsEveryTool(t *testing.T) {
	inspector, err := exec.LookPath("mcp-inspector")
	if err != nil && required("inspector") {
		t.Fatalf("inspector is required: %v", err)
	}
	if err != nil {
		t.Skip("there is no mcp-inspector: npm install -g @modelcontextprotocol/inspector, and add its directory to PATH")
	}
	onRuntimes(t, tested[:1], func(t *testing.T, runtime string) {
		w := newWorld(t, runtime)
		at := freeAddress(t)
		serve := exec.CommandContext(t.Context(), bin+"/cove", "serve", "--listen", at)
		serve.Env, serve.WaitDelay = w.command(t).Env, 30*time.Second
		serve.Cancel = func() error { return serve.Process.Signal(syscall.SIGTERM) }
		if err := serve.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = serve.Wait() }) // before the world ends
		eventually(t, soon, "the daemon answers", func() bool {
			conn, err := net.Dial("tcp", at)
			if err == nil {
				conn.Close()
			}
			return err == nil
		})
		var key cove.NewKey
		if err := json.Unmarshal([]byte(w.output(t, "key", "create", "inspector", "--json")), &key); err != nil {
			t.Fatal(err)
		}
		for name, target := range map[string][]string{
			"stdio": {bin + "/cove", "mcp", "--name", "stdio"},
			"http":  {"http://" + at + "/mcp?name=http", "--transport", "http", "--header", "Authorization: Bearer " + key.Secret},
		} {
			t.Run(name, func(t *testing.T) {
				inspect(t, func(ctx context.Context, args ...string) (string, error) {
					cmd := exec.CommandContext(ctx, inspector, slices.Concat([]string{"--cli"}, target, args)...)
					cmd.Env, cmd.WaitDelay = w.command(t).Env, 5*time.Second
					var stderr bytes.Buffer
					cmd.Stderr = &stderr
					output, err := cmd.Output()
					if err != nil {
						err = errors.Join(err, errors.New(stderr.String()))
					}
					return string(output), err
				})
			})
		}
	})
}

// inspect lists and calls the tools. Each call is a session of its own; the sandbox has a
// name, and so is the same in all of them.
func inspect(t *testing.T, inspector func(ctx context.Context, args ...string) (string, error)) {
	run := func(args ...string) string {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		output, err := inspector(ctx, args...)
		if err != nil {
			t.Fatalf("%v: %v\n%s", args, err, output)
		}
		return output
	}
	var listed struct{ Tools []struct{ Name string } }
	if err := json.Unmarshal([]byte(run("--method", "tools/list")), &listed); err != nil {
		t.Fatal(err)
	}
	uncalled := map[string]bool{}
	for _, tool := range listed.Tools {
		uncalled[tool.Name] = true
	}
	for _, call := range []struct {
		tool      string
		arguments []string
		want      string
	}{
		{"write_file", []string{"file_path=a.txt", "content=one"}, "Wrote 3 bytes"},
		{"read_file", []string{"filename=a.txt"}, "one"},
		{"edit_file", []string{"file_path=a.txt", "old_string=one", "new_string=two"}, "Replaced it once"},
		{"patch_file", []string{"file_path=a.txt", "from_line=1", "to_line=1", "content=three"}, "which has 1 lines"},
		{"list_files", nil, "a.txt"},
		{"grep", []string{"pattern=thr"}, "a.txt:1:three"},
		{"glob", []string{"pattern=*.txt"}, "a.txt"},
		{"shell", []string{"command=cat a.txt; exit 3"}, "[exit code: 3]"},
		{"run_python", []string{"code=print(6*7)"}, "42"},
		{"create_sandbox", nil, "runtime"},
		{"list_sandboxes", nil, "sandboxes"},
		{"kill_sandbox", nil, "error"}, // in a session that has none yet
	} {
		args := []string{"--method", "tools/call", "--tool-name", call.tool}
		for _, argument := range call.arguments {
			args = append(args, "--tool-arg", argument)
		}
		if output := run(args...); !strings.Contains(output, call.want) {
			t.Errorf("%s: no %q in %s", call.tool, call.want, output)
		}
		delete(uncalled, call.tool)
	}
	if len(listed.Tools) == 0 || len(uncalled) > 0 {
		t.Errorf("%d tools, not called: %v", len(listed.Tools), uncalled)
	}
	if output := run("--method", "resources/templates/list"); !strings.Contains(output, "cove://") {
		t.Errorf("resource templates: %s", output)
	}
}

// freeAddress returns an address of loopback on which nobody listens.
func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	return listener.Addr().String()
}
