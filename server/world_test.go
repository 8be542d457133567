package server

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/client"
	"github.com/covehq/cove/guest"
	"github.com/covehq/cove/guest/pair"
	"github.com/covehq/cove/key"
	"github.com/covehq/cove/sandbox"
	"github.com/covehq/cove/sandbox/driver"
	"github.com/covehq/cove/store/sqlite"
)

// world is a daemon in this process: a real Host and Server on a unix socket, over a
// driver whose sandboxes are guest agents in this process too. What runs "inside" runs on
// this machine, as the user of the test.
type world struct {
	t      testing.TB
	host   *sandbox.Host
	server *Server
	keys   *key.Ring
	socket string
	client *client.Client
	stop   func() error // ends the server; called by the test's cleanup too
}

// user is who commands run as.
func user() string { return strconv.Itoa(os.Geteuid()) + ":" + strconv.Itoa(os.Getegid()) }

func newWorld(t testing.TB, o Options) *world {
	t.Helper()
	return newWorldOf(t, o, &memory{t: t})
}

// newWorldOf is a world of the sandboxes that a driver makes.
func newWorldOf(t testing.TB, o Options, on *memory) *world {
	t.Helper()
	dir := t.TempDir()
	records, err := sqlite.Open(t.Context(), filepath.Join(dir, "data"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { records.Close() })
	host, err := sandbox.Open(context.WithoutCancel(t.Context()), sandbox.Options{
		Store: records, Default: "memory", Logger: slog.New(slog.DiscardHandler), Network: on.network,
		Drivers: map[string]driver.Opener{"memory": func(string) (driver.Driver, error) { return on, nil }},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { host.Close(context.Background()) })
	ring, err := key.Open(t.Context(), records)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(ring.Close)
	o.Host, o.Keys = host, ring
	w := &world{t: t, host: host, server: New(o), keys: ring, socket: filepath.Join(dir, "s")}
	listener, err := net.Listen("unix", w.socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- w.server.Serve(ctx, listener) }()
	w.stop = sync.OnceValue(func() error {
		cancel()
		return <-served
	})
	t.Cleanup(func() {
		if err := w.stop(); err != nil {
			t.Errorf("the server ended with: %v", err)
		}
	})
	if w.client, err = client.New(client.Options{URL: "unix://" + w.socket}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.client.Close() })
	return w
}

// sandbox creates a sandbox whose commands start in a directory of the test.
func (w *world) sandbox() *client.Sandbox {
	w.t.Helper()
	made, err := w.client.Create(w.t.Context(), w.spec(), client.CreateOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		// By the host: the server may be gone, and the sandbox too.
		if box, err := w.host.Sandbox(context.Background(), made.ID); err == nil {
			if err := box.Destroy(context.Background()); err != nil {
				w.t.Errorf("destroy: %v", err)
			}
		}
	})
	return made
}

func (w *world) spec() cove.Spec {
	return cove.Spec{User: user(), Workdir: w.t.TempDir()}
}

// request sends a request to the socket and returns the reply with its body.
func (w *world) request(method, path string, header http.Header, body io.Reader) (*http.Response, string) {
	w.t.Helper()
	request, err := http.NewRequestWithContext(w.t.Context(), method, "http://cove"+path, body)
	if err != nil {
		w.t.Fatal(err)
	}
	for name, values := range header {
		request.Header[name] = values
	}
	reply, err := w.client.HTTP().Do(request)
	if err != nil {
		w.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer reply.Body.Close()
	data, err := io.ReadAll(reply.Body)
	if err != nil {
		w.t.Fatalf("%s %s: %v", method, path, err)
	}
	return reply, string(data)
}

// jsonHeader declares a body as JSON.
func jsonHeader() http.Header { return http.Header{"Content-Type": {"application/json"}} }

// eventually waits for a condition.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !condition(); {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// memory is the driver.
type memory struct {
	t testing.TB
	// front returns an address to dial instead of an agent, which is behind dial; nil for
	// agents themselves.
	front func(t testing.TB, dial func(context.Context) (net.Conn, error)) string
	// network is how its sandboxes reach out.
	network sandbox.NetworkOptions
}

func (*memory) Probe(context.Context) (driver.Info, error) {
	controls := map[cove.Control]cove.Enforcement{}
	for _, control := range cove.Controls {
		controls[control] = cove.Enforced
	}
	// A class that lets root run commands, since tests may run as root.
	return driver.Info{Isolation: cove.IsolationVM, Version: "1", Controls: controls}, nil
}

func (d *memory) Create(context.Context, string, *cove.Spec) (driver.Machine, error) {
	m := &machine{agent: guest.New(guest.Options{}), gone: make(chan struct{}), served: make(chan struct{})}
	if d.front != nil {
		m.front = d.front(d.t, m.dial)
	}
	go func() {
		defer close(m.served)
		_ = m.agent.Serve()
	}()
	return m, nil
}

func (*memory) Attach(context.Context, string, []byte) (driver.Machine, error) {
	return nil, cove.NotFound
}

// machine is a sandbox of memory.
type machine struct {
	agent  *guest.Agent
	front  string // an address to dial instead of the agent
	once   sync.Once
	gone   chan struct{}
	served chan struct{}
}

func (*machine) Handle() []byte { return []byte("1") }

func (m *machine) Dial(ctx context.Context) (net.Conn, error) {
	if m.front != "" {
		return new(net.Dialer).DialContext(ctx, "tcp", m.front)
	}
	return m.dial(ctx)
}

func (m *machine) dial(context.Context) (net.Conn, error) {
	select {
	case <-m.gone:
		return nil, cove.Gone
	default:
	}
	// A socket pair, as with a real sandbox.
	ours, theirs, err := pair.New()
	if err != nil {
		return nil, err
	}
	m.agent.ServeConn(theirs)
	return ours, nil
}

func (m *machine) Wait(ctx context.Context) (driver.Exit, error) {
	select {
	case <-m.gone:
		return driver.Exit{Reason: cove.ReasonKilled, Message: "killed"}, nil
	case <-ctx.Done():
		return driver.Exit{}, ctx.Err()
	}
}

func (m *machine) Destroy(ctx context.Context) error {
	m.once.Do(func() {
		close(m.gone)
		_ = m.agent.Close(ctx)
		<-m.served
	})
	return nil
}
