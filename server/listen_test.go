package server

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/client"
	"github.com/covehq/cove/guest/wire"
)

// listening is what guests tell of their ports, in place of those of this machine.
type listening struct {
	mu    sync.Mutex
	ports []wire.ListeningPort
	asked int
}

func (l *listening) set(ports ...int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ports = nil
	for _, port := range ports {
		l.ports = append(l.ports, wire.ListeningPort{Port: port, Address: "0.0.0.0", PID: 7, Command: "python3"})
	}
}

func (l *listening) times() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.asked
}

// ServeHTTP answers as an agent does.
func (l *listening) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked++
	_ = json.NewEncoder(w).Encode(l.ports)
}

// before returns an address at which the agent behind dial is reached, but for its ports.
func (l *listening) before(t testing.TB, dial func(context.Context) (net.Conn, error)) string {
	t.Helper()
	mux := http.NewServeMux()
	mux.Handle("GET "+wire.PortsPath, l)
	mux.Handle("/", &httputil.ReverseProxy{
		FlushInterval: -1,
		Rewrite:       func(p *httputil.ProxyRequest) { p.Out.URL.Scheme, p.Out.URL.Host = "http", "agent" },
		Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
		},
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

// listeningWorld is a world whose sandboxes tell of the ports that the test says.
func listeningWorld(t *testing.T) (*world, *listening) {
	t.Helper()
	l := &listening{}
	w := newWorldOf(t, Options{}, &memory{t: t, front: l.before})
	return w, l
}

func TestPortsAreListed(t *testing.T) {
	w, inside := listeningWorld(t)
	box := w.sandbox()
	for name, test := range map[string]struct {
		listen []int
		want   string
	}{
		"none":           {nil, `{"ports":[]}`},
		"some, in order": {[]int{8000, 22}, `{"ports":[{"port":22,"address":"0.0.0.0","pid":7,"command":"python3"},{"port":8000,"address":"0.0.0.0","pid":7,"command":"python3"}]}`},
	} {
		inside.set(test.listen...)
		if reply, body := w.request(http.MethodGet, "/v1/sandboxes/"+box.ID+"/ports", nil, nil); reply.StatusCode != http.StatusOK || strings.TrimSpace(body) != test.want {
			t.Errorf("%s: %d %s", name, reply.StatusCode, body)
		}
		if ports, err := box.Ports(t.Context()); err != nil || len(ports) != len(test.listen) {
			t.Errorf("%s, by the client: %v, %v", name, ports, err)
		}
	}
}

func TestMistakesInWaitingForAPort(t *testing.T) {
	w, _ := listeningWorld(t)
	box := w.sandbox()
	for query, want := range map[string]string{
		"wait=080": "not a number from 1 to 65535", "wait=%2B80": "not a number", "wait=65536": "not a number", "wait=x": "not a number",
		"wait=80&timeout=never": "timeout is not a duration", "wait=80&timeout=2h": "timeout is not", "wait=80&timeout=x": "timeout is not",
	} {
		reply, body := w.request(http.MethodGet, "/v1/sandboxes/"+box.ID+"/ports?"+query, nil, nil)
		if reply.StatusCode != http.StatusBadRequest || !strings.Contains(body, want) {
			t.Errorf("%s: %d %s, want %q", query, reply.StatusCode, body, want)
		}
	}
}

func TestWaitingForAPort(t *testing.T) {
	w, inside := listeningWorld(t)
	box := w.sandbox()
	reply, body := w.request(http.MethodGet, "/v1/sandboxes/"+box.ID+"/ports?wait=8000&timeout=50ms", nil, nil)
	if reply.StatusCode != http.StatusGatewayTimeout || !strings.Contains(body, "nothing listened there in time") {
		t.Errorf("a port on which nothing listens: %d %s", reply.StatusCode, body)
	}
	done := make(chan error, 1)
	before := inside.times()
	go func() { done <- box.WaitPort(t.Context(), 8000) }()
	eventually(t, "it is looked for", func() bool { return inside.times() > before })
	inside.set(8000)
	if err := <-done; err != nil {
		t.Errorf("a port that listens later: %v", err)
	}
	go func() { done <- box.WaitPort(t.Context(), 9000) }()
	if err := box.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-done; cove.CodeOf(err) != cove.Gone && cove.CodeOf(err) != cove.NotFound {
		t.Errorf("a port of a sandbox that ends: %v", err)
	}
}

func TestPortsAreEventsToWhoFollowsThem(t *testing.T) {
	w, inside := listeningWorld(t)
	box := w.sandbox()
	for name, filter := range map[string]client.EventFilter{
		"all events":               {After: client.FromNow},
		"those of the sandbox":     {After: client.FromNow, Sandbox: box.ID},
		"those of ports that open": {After: client.FromNow, Types: []cove.EventType{cove.EventPortOpened}},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		before := inside.times()
		var opening sync.WaitGroup
		opening.Go(func() {
			for inside.times() == before && ctx.Err() == nil {
				time.Sleep(time.Millisecond)
			}
			inside.set(8000)
		})
		for event, err := range w.client.SelectEvents(ctx, filter) {
			if err != nil {
				t.Errorf("%s: %v", name, err)
				break
			}
			if event.Type == cove.EventPortOpened {
				if event.Sandbox.ID != box.ID || event.Port == nil || event.Port.Port != 8000 || event.Port.Command != "python3" {
					t.Errorf("%s: the event is %+v of %s", name, event.Port, event.Sandbox.ID)
				}
				break
			}
		}
		opening.Wait()
		inside.set()
		w.untilClosed(ctx, box.ID)
		cancel()
	}
}

// untilClosed follows events until a port has closed.
func (w *world) untilClosed(ctx context.Context, id string) {
	w.t.Helper()
	filter := client.EventFilter{After: client.FromNow, Sandbox: id, Types: []cove.EventType{cove.EventPortClosed}}
	for _, err := range w.client.SelectEvents(ctx, filter) {
		if err != nil {
			w.t.Errorf("waiting for a port to close: %v", err)
		}
		return
	}
}

func TestWhoDoesNotFollowPortsCausesNoLooks(t *testing.T) {
	w, inside := listeningWorld(t)
	box := w.sandbox()
	inside.set(8000)
	for range w.client.SelectEvents(t.Context(), client.EventFilter{NoFollow: true}) {
	}
	following := w.client.SelectEvents(t.Context(), client.EventFilter{Types: []cove.EventType{cove.EventRemoved}})
	removed := make(chan struct{})
	go func() {
		defer close(removed)
		for range following {
			return
		}
	}()
	if err := box.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	<-removed
	if n := inside.times(); n != 0 {
		t.Errorf("the guests were asked for their ports %d times", n)
	}
}
