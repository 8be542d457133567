package e2e

import (
	"encoding/json"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/covehq/cove"
	"github.com/covehq/cove/client"
)

// TestNobodyWritesTheLogButTheDaemon sends text that would be a line of the log, or an
// order to the terminal that shows it, wherever a caller can send text.
func TestNobodyWritesTheLogButTheDaemon(t *testing.T) {
	binaries(t)
	t.Parallel()
	const evil = "x\n{\"level\":\"ERROR\",\"msg\":\"forged\"}\n\x1b]0;owned\x07\u009b31m"
	w := newWorld(t, "")
	cmd := w.command(t, "serve", "--json", "--log-level", "debug", "--log-file", w.dirs.State+"/cove.log")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, soon, "the daemon answers", func() bool { return strings.Contains(w.output(t, "version"), "linux") && w.daemon() != 0 })
	c := w.client(t)
	eventually(t, soon, "the daemon answers", func() bool { return c.Healthy(t.Context()) == nil })
	spec := cove.Spec{
		Name: evil, Runtime: evil, Image: evil, User: evil, Workdir: evil,
		Env: map[string]string{evil: evil}, Labels: map[string]string{evil: evil},
	}
	if _, err := c.Create(t.Context(), spec, client.CreateOptions{}); err == nil {
		t.Error("such a sandbox was made")
	}
	if _, err := c.Get(t.Context(), evil); err == nil {
		t.Error("such a sandbox was found")
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, c.URL("/v1/sandboxes/x/files?path=%0a%1b"), nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("User-Agent", "x\x9b{}\"")
	request.Header.Set("X-Request-Id", `"}{`)
	if reply, err := c.HTTP().Do(request); err != nil {
		t.Error(err)
	} else {
		reply.Body.Close()
	}
	w.stop(t, 15)
	cmd.Wait()
	log, err := os.ReadFile(w.dirs.Log())
	if err != nil {
		t.Fatal(err)
	}
	lines := 0
	for line := range strings.Lines(string(log)) {
		var event struct{ Level, Msg string }
		if err := json.Unmarshal([]byte(line), &event); err != nil || event.Msg == "forged" || event.Msg == "" {
			t.Errorf("%v: %q", err, line)
		}
		if strings.ContainsAny(strings.TrimSuffix(line, "\n"), "\x1b\x07\u009b") {
			t.Errorf("a terminal would obey %q", line)
		}
		lines++
	}
	if lines < 4 {
		t.Errorf("%d lines, want one for each request", lines)
	}
}
