package intercept

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/egress"
)

const (
	token       = "ghp_Value0123456789abcdefghijABCDEFGHIJ99"
	placeholder = "ghp_Place9876543210zyxwvutsrqZYXWVUTSRQ11"
)

func github(hosts ...string) egress.SecretValue {
	return egress.SecretValue{Name: "GITHUB_TOKEN", Placeholder: placeholder, Value: token, Hosts: hosts}
}

// world is an opener between a guest's clients and a server.
type world struct {
	t       testing.TB
	ca      *Authority
	opened  egress.Opened // what a connection is opened with
	server  string        // address
	log     *syncBuffer
	gate    net.Listener // where the guest's connections go in
	mu      sync.Mutex
	events  []cove.NetworkEvent
	dialled int
	errs    []error
	changed chan struct{}
}

type options struct {
	name    string // default api.example.org
	port    int    // default 443
	rules   []cove.RequestRule
	secrets []egress.SecretValue
	plain   bool
	opener  Options
	raw     func(net.Conn) // the server, instead of a handler
	http1   bool           // the server speaks nothing newer
}

func newWorld(t testing.TB, handler http.HandlerFunc, o options) *world {
	t.Helper()
	w := &world{t: t, log: &syncBuffer{}, changed: make(chan struct{}, 1000)}
	ca, err := OpenAuthority(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	w.ca = ca
	if o.name == "" {
		o.name = "api.example.org"
	}
	if o.port == 0 {
		if o.port = 443; o.plain {
			o.port = 80
		}
	}
	switch {
	case o.raw != nil:
		w.server = listen(t, o.raw)
	default:
		server := httptest.NewUnstartedServer(handler)
		server.EnableHTTP2 = !o.http1
		server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
		if o.plain {
			server.Start()
		} else {
			upstream, err := OpenAuthority(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			cert, err := upstream.certificate(o.name)
			if err != nil {
				t.Fatal(err)
			}
			server.TLS = &tls.Config{Certificates: []tls.Certificate{*cert}}
			server.StartTLS()
			if o.opener.RootCAs == nil {
				o.opener.RootCAs = x509.NewCertPool()
				o.opener.RootCAs.AppendCertsFromPEM(upstream.PEM())
			}
		}
		t.Cleanup(server.Close)
		w.server = server.Listener.Addr().String()
	}
	o.opener.CA = ca
	o.opener.Logger = slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	opener, err := New(o.opener)
	if err != nil {
		t.Fatal(err)
	}
	w.opened = egress.Opened{
		Sandbox: "box", Name: o.name, Port: o.port, Rules: o.rules, Secrets: o.secrets,
		Dial: func(ctx context.Context) (net.Conn, error) {
			w.mu.Lock()
			w.dialled++
			w.mu.Unlock()
			return (&net.Dialer{}).DialContext(ctx, "tcp", w.server)
		},
		Event: func(e cove.NetworkEvent) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.events = append(w.events, e)
			w.changed <- struct{}{}
		},
	}
	w.serve(opener)
	return w
}

// serve lets connections into the opener, and waits at the end for all of them.
func (w *world) serve(opener *Opener) {
	gate, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	w.gate = gate
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	group.Go(func() {
		for {
			conn, err := gate.Accept()
			if err != nil {
				return
			}
			group.Go(func() {
				err := opener.Serve(ctx, conn, w.opened)
				conn.Close()
				w.mu.Lock()
				defer w.mu.Unlock()
				w.errs = append(w.errs, err)
			})
		}
	})
	w.t.Cleanup(func() {
		gate.Close()
		cancel()
		done := make(chan struct{})
		go func() { group.Wait(); close(done) }()
		select {
		case <-done:
		case <-time.After(20 * time.Second):
			w.t.Error("a connection was served for ever")
		}
	})
}

// listen serves each connection with f, and closes it after that.
func listen(t testing.TB, f func(net.Conn)) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	group.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			group.Go(func() {
				defer conn.Close()
				f(conn)
			})
		}
	})
	t.Cleanup(func() { l.Close(); group.Wait() })
	return l.Addr().String()
}

// client is a program inside that speaks HTTP/1.1, or HTTP/2.
func (w *world) client(h2 bool) *http.Client {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(!h2)
	protocols.SetHTTP2(h2)
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", w.gate.Addr().String())
		},
		TLSClientConfig:       &tls.Config{RootCAs: w.roots()},
		Protocols:             protocols,
		ExpectContinueTimeout: 20 * time.Second,
	}
	w.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

func (w *world) roots() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(w.ca.PEM())
	return pool
}

func (w *world) url(path string) string {
	scheme, usual := "https", 443
	if w.opened.Port == 80 {
		scheme, usual = "http", 80
	}
	if w.opened.Port == usual {
		return scheme + "://" + w.opened.Name + path
	}
	return scheme + "://" + net.JoinHostPort(w.opened.Name, strconv.Itoa(w.opened.Port)) + path
}

// dial opens a connection to the opener, with TLS where name is not "".
func (w *world) dial(name string) net.Conn {
	w.t.Helper()
	conn, err := net.Dial("tcp", w.gate.Addr().String())
	if err != nil {
		w.t.Fatal(err)
	}
	if name != "" {
		conn = tls.Client(conn, &tls.Config{RootCAs: w.roots(), ServerName: name})
	}
	w.t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		w.t.Fatal(err)
	}
	return conn
}

// said sends text on a connection of its own, and returns all that comes back.
func (w *world) said(text string) string {
	w.t.Helper()
	name := w.opened.Name
	if w.opened.Port == 80 {
		name = ""
	}
	conn := w.dial(name)
	if _, err := io.WriteString(conn, text); err != nil {
		w.t.Fatal(err)
	}
	answer, err := io.ReadAll(conn)
	if err != nil && len(answer) == 0 {
		w.t.Logf("read the answer: %v", err)
	}
	return string(answer)
}

func (w *world) do(c *http.Client, method, path string, body io.Reader, header http.Header) (*http.Response, string) {
	w.t.Helper()
	r, err := http.NewRequestWithContext(w.t.Context(), method, w.url(path), body)
	if err != nil {
		w.t.Fatal(err)
	}
	for name, values := range header {
		r.Header[name] = values
	}
	res, err := c.Do(r)
	if err != nil {
		w.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer res.Body.Close()
	content, err := io.ReadAll(res.Body)
	if err != nil {
		w.t.Fatalf("%s %s: read the reply: %v", method, path, err)
	}
	return res, string(content)
}

// event waits for one that fits.
func (w *world) event(fits func(cove.NetworkEvent) bool) cove.NetworkEvent {
	w.t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		for _, e := range w.told() {
			if fits(e) {
				return e
			}
		}
		select {
		case <-w.changed:
		case <-deadline:
			w.t.Fatalf("there is no such event in %+v", w.told())
		}
	}
}

func (w *world) told() []cove.NetworkEvent {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]cove.NetworkEvent(nil), w.events...)
}

func (w *world) dials() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.dialled
}

func refused(e cove.NetworkEvent) bool { return !e.Allowed }

// holds returns an error where a value is in what Cove said of its own.
func (w *world) hasNo(value string) {
	w.t.Helper()
	for _, e := range w.told() {
		for _, text := range append([]string{e.Reason, e.Path, e.Rule, e.Method}, e.Secrets...) {
			if strings.Contains(text, value) {
				w.t.Errorf("an event has the value: %+v", e)
			}
		}
	}
	if strings.Contains(w.log.String(), value) {
		w.t.Errorf("the log has the value: %s", w.log)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := errors.Join(w.errs...); err != nil && strings.Contains(err.Error(), value) {
		w.t.Errorf("an error has the value: %v", err)
	}
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
