package server

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/client"
)

func TestStats(t *testing.T) {
	w := newWorld(t, Options{})
	box := w.sandbox()
	stats, err := box.Stats(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if stats.Limit != cove.DefaultMemory || stats.DiskLimit != cove.DefaultDisk || stats.Memory == nil || stats.CPUTime == nil || stats.Time.IsZero() {
		t.Errorf("stats = %+v, want the limits, and what the guest says", stats)
	}
	seen := 0
	for next, err := range box.WatchStats(t.Context(), cove.Duration(100*time.Millisecond)) {
		if err != nil {
			t.Fatal(err)
		}
		if next.Limit != cove.DefaultMemory {
			t.Errorf("stats of the stream = %+v", next)
		}
		if seen++; seen == 3 {
			break
		}
	}
	for _, err := range box.WatchStats(t.Context(), cove.Duration(time.Millisecond)) {
		if !errors.Is(err, cove.Invalid) {
			t.Errorf("an interval of a millisecond: %v, want an error that is invalid", err)
		}
	}
}

func TestAStreamOfStatsEndsWithTheSandbox(t *testing.T) {
	w := newWorld(t, Options{})
	box := w.sandbox()
	first := true
	var last error
	for _, err := range box.WatchStats(t.Context(), cove.Duration(100*time.Millisecond)) {
		if last = err; first {
			first = false
			if err := box.Remove(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	if !errors.Is(last, cove.Gone) {
		t.Errorf("the stream ended with %v, want an error that is gone", last)
	}
}

func TestANameStandsForTheSandboxThatHasIt(t *testing.T) {
	w := newWorld(t, Options{})
	spec := cove.Spec{Name: "box", User: user(), Workdir: t.TempDir()}
	first, err := w.client.Create(t.Context(), spec, client.CreateOptions{Reuse: true})
	if err != nil || first.Reused {
		t.Fatalf("the first: %+v, %v", first, err)
	}
	second, err := w.client.Create(t.Context(), spec, client.CreateOptions{Reuse: true})
	if err != nil || !second.Reused || second.ID != first.ID {
		t.Fatalf("the second: %+v, %v, want the first", second, err)
	}
	spec.Env = map[string]string{"A": "1"}
	_, err = w.client.Create(t.Context(), spec, client.CreateOptions{Reuse: true})
	if !errors.Is(err, cove.Conflict) || !strings.Contains(err.Error(), "env.A") {
		t.Errorf("another configuration: %v, want a conflict about env.A", err)
	}
	if _, err = w.client.Create(t.Context(), spec, client.CreateOptions{}); !errors.Is(err, cove.Conflict) {
		t.Errorf("without Reuse: %v, want a conflict", err)
	}
}

func TestEventsAreChosen(t *testing.T) {
	w := newWorld(t, Options{})
	one, other := w.sandbox(), w.sandbox()
	if err := other.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		filter client.EventFilter
		want   string
	}{
		"all that are kept": {client.EventFilter{}, "creating running creating running stopped removed"},
		"of one sandbox":    {client.EventFilter{Sandbox: one.ID}, "creating running"},
		"of two types":      {client.EventFilter{Types: []cove.EventType{cove.EventStopped, cove.EventRemoved}}, "stopped removed"},
		"after a number":    {client.EventFilter{After: 4}, "stopped removed"},
		"of nobody":         {client.EventFilter{Sandbox: "nobody"}, ""},
	} {
		var got []string
		test.filter.NoFollow = true
		for event, err := range w.client.SelectEvents(t.Context(), test.filter) {
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			got = append(got, strings.TrimPrefix(string(event.Type), "sandbox."))
		}
		if strings.Join(got, " ") != test.want {
			t.Errorf("%s: got %q, want %q", name, got, test.want)
		}
	}
}

// T08: whatever a caller writes into a body, what reaches the host is 403.
func TestT08WhatReachesTheHostIsForbidden(t *testing.T) {
	w := newWorld(t, Options{})
	for _, body := range []string{
		`{"options":{"privileged":true}}`, `{"options":{"cap_add":["SYS_ADMIN"]}}`, `{"options":{"cap_add":["all"]}}`,
		`{"options":{"devices":["/dev/mem"]}}`, `{"options":{"network_mode":"host"}}`, `{"options":{"network_mode":"container:x"}}`,
		`{"mounts":[{"type":"bind","source":"/etc","target":"/x"}]}`, `{"mounts":[{"type":"bind","source":"/var/run/docker.sock","target":"/x","read_only":true}]}`,
		`{"ports":[{"port":80,"address":"0.0.0.0"}]}`, `{"ports":[{"port":80,"address":"::"}],"best_effort":true}`,
	} {
		response, reply := w.request(http.MethodPost, "/v1/sandboxes", http.Header{"Content-Type": {"application/json"}}, strings.NewReader(body))
		if response.StatusCode != http.StatusForbidden || !strings.Contains(reply, "the operator allows it with") {
			t.Errorf("%s: %s %s, want 403 and the line that would allow it", body, response.Status, reply)
		}
	}
	if n := w.host.Len(); n != 0 {
		t.Errorf("%d sandboxes were made", n)
	}
}
