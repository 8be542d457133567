package server

import (
	"encoding/json"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/covehq/cove"
	"github.com/covehq/cove/client"
)

func TestToolsAreCalled(t *testing.T) {
	w := newWorld(t, Options{})
	box, err := w.client.Create(t.Context(), cove.Spec{User: user(), Workdir: t.TempDir()}, client.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	call := func(name string, arguments any) client.ToolResult {
		t.Helper()
		result, err := box.CallTool(t.Context(), name, arguments)
		if err != nil {
			t.Fatal(err)
		}
		return result
	}

	if got := call("write_file", map[string]any{"file_path": "a.txt", "content": "<one>\n"}); got.IsError {
		t.Errorf("got %+v, want a file", got)
	}
	if got := call("read_file", json.RawMessage(`{"filename": "a.txt"}`)); got.IsError || !strings.Contains(got.Text, "<one>") {
		t.Errorf("got %+v, want what was written", got)
	}
	var shell struct {
		ExitCode int `json:"exit_code"`
	}
	if got := call("shell", map[string]any{"command": "exit 3"}); got.IsError || json.Unmarshal(got.Data, &shell) != nil || shell.ExitCode != 3 {
		t.Errorf("got %+v, want exit code 3", got)
	}

	var failure struct{ Code cove.Code }
	for what, test := range map[string]struct {
		tool      string
		arguments any
		code      cove.Code
	}{
		"a file that is not there":    {"read_file", map[string]any{"filename": "none"}, cove.NotFound},
		"an unknown parameter":        {"shell", map[string]any{"command": "true", "color": "red"}, cove.Invalid},
		"a parameter of another type": {"shell", map[string]any{"command": 7}, cove.Invalid},
		"a missing parameter":         {"shell", map[string]any{}, cove.Invalid},
		"a list":                      {"shell", []string{"ls"}, cove.Invalid},
		"nothing":                     {"shell", nil, cove.Invalid},
	} {
		got := call(test.tool, test.arguments)
		if !got.IsError || json.Unmarshal(got.Data, &failure) != nil || failure.Code != test.code || !strings.Contains(got.Text, "hint") && got.Text == "" {
			t.Errorf("%s: got %+v, want a result that says %s", what, got, test.code)
		}
	}
}

func TestCallsOfToolsThatCannotBeMade(t *testing.T) {
	w := newWorld(t, Options{})
	box, err := w.client.Create(t.Context(), cove.Spec{User: user()}, client.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	path := "/v1/sandboxes/" + box.ID + "/tools/"
	for what, test := range map[string]struct {
		path, body string
		status     int
		says       string
	}{
		"an unknown tool":    {path + "sudo", `{}`, http.StatusNotFound, "run_python"},
		"an unknown sandbox": {"/v1/sandboxes/none/tools/shell", `{"command": "true"}`, http.StatusNotFound, "none"},
		"no JSON":            {path + "shell", `{"command": `, http.StatusBadRequest, "JSON"},
		"no body":            {path + "shell", ``, http.StatusBadRequest, "body"},
		"a body of 17 MiB":   {path + "shell", `{"command": "` + strings.Repeat("x", 17<<20) + `"}`, http.StatusRequestEntityTooLarge, "hint"},
	} {
		reply, text := w.request(http.MethodPost, test.path, jsonHeader(), strings.NewReader(test.body))
		if reply.StatusCode != test.status || !strings.Contains(text, test.says) {
			t.Errorf("%s: got %d %.300s, want %d and a word of %s", what, reply.StatusCode, text, test.status, test.says)
		}
	}
}

func TestToolsAreListedAsTheyAreHandedOut(t *testing.T) {
	w := newWorld(t, Options{})
	var got struct{ Tools any }
	_, text := w.request(http.MethodGet, "/v1/tools", nil, nil)
	if err := json.Unmarshal([]byte(text), &got); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile("../api/tools.json")
	if err != nil {
		t.Fatal(err)
	}
	var want any
	if err := json.Unmarshal(data, &want); err != nil {
		t.Fatal(err)
	}
	if one, other := compact(t, got.Tools), compact(t, want); one != other {
		t.Errorf("got %s, want %s", one, other)
	}
	if _, text := w.request(http.MethodGet, "/v1/tools?format=anthropic", nil, nil); !strings.Contains(text, "input_schema") {
		t.Errorf("got %s, want the form of that API", text)
	}
	if reply, text := w.request(http.MethodGet, "/v1/tools?format=xml", nil, nil); reply.StatusCode != http.StatusBadRequest {
		t.Errorf("got %d %s, want 400", reply.StatusCode, text)
	}
}

// compact writes a value of JSON the one way.
func compact(t *testing.T, value any) string {
	t.Helper()
	data, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
