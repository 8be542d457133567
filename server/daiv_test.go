package server

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/server/daiv"
)

const daivKey = "notsosecret"

// daivWorld serves daiv-sandbox's API on TCP and returns its URL.
func daivWorld(t *testing.T, o daiv.Options) (*world, string) {
	t.Helper()
	w := newWorld(t, Options{})
	if o.Key == "" {
		o.Key = daivKey
	}
	o.Host = w.host
	if o.Spec.User == "" {
		o.Spec = w.spec()
	}
	api, err := daiv.New(o)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- api.Serve(t.Context(), listener) }() // ends before the cleanups
	t.Cleanup(func() {
		if err := <-served; err != nil {
			t.Errorf("the server ended with: %v", err)
		}
	})
	return w, "http://" + listener.Addr().String()
}

// call sends a request as JSON and returns status and reply.
func call(t *testing.T, method, url, key string, body any) (int, string) {
	t.Helper()
	var sent io.Reader
	switch body := body.(type) {
	case nil:
	case string:
		sent = strings.NewReader(body)
	default:
		data, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		sent = bytes.NewReader(data)
	}
	request, err := http.NewRequestWithContext(t.Context(), method, url, sent)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	if key != "" {
		request.Header.Set("X-API-KEY", key)
	}
	reply, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer reply.Body.Close()
	data, err := io.ReadAll(reply.Body)
	if err != nil {
		t.Fatal(err)
	}
	return reply.StatusCode, string(data)
}

// daivReply is what run/commands answers.
type daivReply struct {
	Results []struct {
		Command  string `json:"command"`
		Output   string `json:"output"`
		ExitCode int    `json:"exit_code"`
	} `json:"results"`
	Archive *string `json:"archive"`
}

const someRun = "550e8400-e29b-41d4-a716-446655440000"

func commandsOf(archive []byte, more map[string]any, commands ...string) map[string]any {
	body := map[string]any{
		"run_id": someRun, "base_image": "host", "archive": base64.StdEncoding.EncodeToString(archive), "commands": commands,
	}
	maps.Copy(body, more)
	return body
}

func TestDaivsCurlExampleWorksWithAnotherURL(t *testing.T) {
	w, url := daivWorld(t, daiv.Options{})
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "django-webhooks-master.tar.gz"), gzipped(t, pack(t, map[string]string{"django-webhooks-master/README": "x"}).Bytes()), 0o600); err != nil {
		t.Fatal(err)
	}
	const example = `curl -sS -X POST \
  -H "Content-Type: application/json" \
  -H "X-API-KEY: notsosecret" \
  -d "{\"run_id\": \"550e8400-e29b-41d4-a716-446655440000\", \"base_image\": \"host\", \"archive\": \"$(base64 -w 0 django-webhooks-master.tar.gz)\", \"commands\": [\"ls -la\"]}" \
  http://localhost:8888/api/v1/run/commands/`
	cmd := exec.CommandContext(t.Context(), "sh", "-c", strings.Replace(example, "http://localhost:8888", url, 1))
	cmd.Dir = dir
	output, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var got daivReply
	if err := json.Unmarshal(output, &got); err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	if len(got.Results) != 1 || got.Results[0].Command != "ls -la" || got.Results[0].ExitCode != 0 || !strings.Contains(got.Results[0].Output, "django-webhooks-master") {
		t.Errorf("got %s", output)
	}
	if got.Archive != nil || !strings.Contains(string(output), `"archive":null`) {
		t.Errorf("nothing changed, and the archive is not null: %s", output)
	}
	w.none()
}

func TestDaivReturnsWhatAllCommandsChanged(t *testing.T) {
	w, url := daivWorld(t, daiv.Options{})
	archive := gzipped(t, pack(t, map[string]string{"a": "1\n", "src/b": "2\n", "src/same": "3\n"}).Bytes())
	for name, test := range map[string]struct {
		more     map[string]any
		commands []string
		want     []string // exit code and output of each
		changed  map[string]string
	}{
		"by every command": {
			nil,
			[]string{"echo out; echo err >&2; echo more >>a", "exit 3", "mkdir -p .github d __pycache__; echo x >.github/w; echo x >__pycache__/c; : >d/empty; ln -s a l; rm src/b"},
			[]string{"0 out\nerr\n", "3 ", "0 "},
			map[string]string{"a": "1\nmore\n", ".github/w": "x\n", "d/empty": ""},
		},
		"below the workdir": {
			map[string]any{"workdir": "src"}, []string{"ls", "echo n >new; echo y >../outside"}, []string{"0 b\nsame\n", "0 "}, map[string]string{"new": "n\n"},
		},
		"up to the first failure": {
			map[string]any{"fail_fast": true, "workdir": nil}, []string{"false", "echo never >a"}, []string{"1 "}, nil,
		},
		"one that is killed": {nil, []string{"kill -9 $$"}, []string{"137 "}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			status, text := call(t, http.MethodPost, url+"/api/v1/run/commands/", daivKey, commandsOf(archive, test.more, test.commands...))
			var got daivReply
			if err := json.Unmarshal([]byte(text), &got); err != nil || status != http.StatusOK {
				t.Fatalf("status %d, %v: %s", status, err, text)
			}
			var results []string
			for i, r := range got.Results {
				results = append(results, fmt.Sprintf("%d %s", r.ExitCode, r.Output))
				if r.Command != test.commands[i] {
					t.Errorf("command %q is called %q", test.commands[i], r.Command)
				}
			}
			if fmt.Sprint(results) != fmt.Sprint(test.want) {
				t.Errorf("results %q, want %q", results, test.want)
			}
			if (got.Archive == nil) != (len(test.changed) == 0) {
				t.Fatalf("archive %v, want %v", got.Archive, test.changed)
			}
			if got.Archive == nil {
				return
			}
			packed, err := base64.StdEncoding.DecodeString(*got.Archive)
			if err != nil {
				t.Fatal(err)
			}
			if files := contents(t, packed); !maps.Equal(files, test.changed) {
				t.Errorf("changed %q, want %q", files, test.changed)
			}
		})
		w.none()
	}
}

func TestDaivRunsCode(t *testing.T) {
	w, url := daivWorld(t, daiv.Options{CodeImage: "host"})
	for name, test := range map[string]struct {
		code   string
		status int
		want   string
	}{
		"its example":       {"print('Hello, World!')", http.StatusOK, `{"output":"Hello, World!\n"}`},
		"what fails":        {"print('so far')\nraise SystemExit(3)", http.StatusBadRequest, `{"detail":"so far\n"}`},
		"without a newline": {"import sys; sys.stderr.write('e')", http.StatusOK, `{"output":"e"}`},
	} {
		status, text := call(t, http.MethodPost, url+"/api/v1/run/code/", daivKey, map[string]any{"run_id": someRun, "language": "python", "code": test.code})
		if status != test.status || strings.TrimSpace(text) != test.want {
			t.Errorf("%s: status %d, want %d with %s: %s", name, status, test.status, test.want, text)
		}
	}
	w.none()
}

func TestDaivRefusesAsDaivDoes(t *testing.T) {
	w, url := daivWorld(t, daiv.Options{})
	archive := pack(t, map[string]string{"a": "1"}).Bytes()
	for name, test := range map[string]struct {
		path, key string
		body      any
		status    int
		want      string
	}{
		"no key":                   {"commands", "", commandsOf(archive, nil, "true"), 403, `{"detail":"API Key header is missing"}`},
		"a wrong key":              {"commands", "notsosecre", commandsOf(archive, nil, "true"), 403, `{"detail":"Invalid API Key"}`},
		"no key for code":          {"code", "", "{}", 403, "missing"},
		"no JSON":                  {"commands", daivKey, "{", 422, "json_invalid"},
		"no object":                {"commands", daivKey, "null", 422, "json_invalid"},
		"nothing":                  {"commands", daivKey, "{}", 422, `"loc":["body","run_id"],"msg":"Field required"`},
		"no commands":              {"commands", daivKey, commandsOf(archive, map[string]any{"commands": []string{}}), 422, "at least 1"},
		"commands of numbers":      {"commands", daivKey, commandsOf(archive, map[string]any{"commands": []int{1}}), 422, "list_type"},
		"a run that is no UUID":    {"commands", daivKey, commandsOf(archive, map[string]any{"run_id": "x"}, "true"), 422, "uuid_parsing"},
		"a UUID of version 1":      {"commands", daivKey, commandsOf(archive, map[string]any{"run_id": "550e8400-e29b-11d4-a716-446655440000"}, "true"), 422, "uuid_parsing"},
		"no base64":                {"commands", daivKey, commandsOf(archive, map[string]any{"archive": "%"}, "true"), 422, "base64"},
		"no tar":                   {"commands", daivKey, commandsOf([]byte(strings.Repeat("x", 2000)), nil, "true"), 400, "detail"},
		"an empty archive":         {"commands", daivKey, commandsOf(nil, nil, "true"), 400, "empty"},
		"a workdir that leads out": {"commands", daivKey, commandsOf(archive, map[string]any{"workdir": "../.."}, "true"), 400, "cwd"},
		"a directory of the host":  {"commands", daivKey, commandsOf(archive, map[string]any{"base_image": "rootfs:/"}, "true"), 403, "detail"},
		"another language":         {"code", daivKey, map[string]any{"run_id": someRun, "language": "cobol", "code": ""}, 422, "Input should be 'python'"},
		"an option of pip":         {"code", daivKey, map[string]any{"run_id": someRun, "language": "python", "code": "", "dependencies": []string{"--index-url=x"}}, 422, "requirement"},
	} {
		status, text := call(t, http.MethodPost, url+"/api/v1/run/"+test.path+"/", test.key, test.body)
		if status != test.status || !strings.Contains(text, test.want) {
			t.Errorf("%s: status %d, want %d with %s: %s", name, status, test.status, test.want, text)
		}
	}
	for path, want := range map[string]string{"/-/health/": `{"status":"ok"}`, "/api/v1/-/health/": `{"status":"ok"}`, "/-/version/": `{"version":"` + cove.Version + `"}`} {
		if status, text := call(t, http.MethodGet, url+path, "", nil); status != http.StatusOK || strings.TrimSpace(text) != want {
			t.Errorf("%s: status %d: %s, want %s", path, status, text, want)
		}
	}
	if status, text := call(t, http.MethodGet, url+"/api/v1/run/commands/", daivKey, nil); status != http.StatusMethodNotAllowed {
		t.Errorf("GET: status %d: %s", status, text)
	}
	if status, text := call(t, http.MethodGet, url+"/v1/sandboxes", daivKey, nil); status != http.StatusNotFound {
		t.Errorf("the API of cove answers with status %d: %s", status, text)
	}
	w.none()
}

func TestDaivEndsWhatTakesTooLong(t *testing.T) {
	w, url := daivWorld(t, daiv.Options{MaxTime: 300 * time.Millisecond})
	status, text := call(t, http.MethodPost, url+"/api/v1/run/commands/", daivKey, commandsOf(pack(t, map[string]string{"a": "1"}).Bytes(), nil, "echo so far; echo x >a; sleep 600", "echo never"))
	var got daivReply
	if err := json.Unmarshal([]byte(text), &got); err != nil || status != http.StatusOK {
		t.Fatalf("status %d, %v: %s", status, err, text)
	}
	if len(got.Results) != 1 || got.Results[0].ExitCode != 124 || !strings.HasPrefix(got.Results[0].Output, "so far\n") || got.Archive == nil {
		t.Errorf("got %s", text)
	}
	w.none()
}
