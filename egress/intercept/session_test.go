package intercept

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/covehq/cove"
	"github.com/covehq/cove/egress"
	"github.com/covehq/cove/guest/wire"
)

// TestT83SecretGoesThroughASessionToItsHostAlone is the whole way: an agent's stream, a
// policy, the opener, a server.
func TestT83SecretGoesThroughASessionToItsHostAlone(t *testing.T) {
	var auth []string
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		auth = append(auth, r.Host+" "+r.Header.Get("Authorization"))
		io.WriteString(w, r.Header.Get("Authorization"))
	}))
	upstream, err := OpenAuthority(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	server.TLS = &tls.Config{GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		return upstream.certificate(hello.ServerName)
	}}
	server.StartTLS()
	defer server.Close()
	ca, err := OpenAuthority(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	both := x509.NewCertPool() // what the guest trusts: Cove, and the world
	both.AppendCertsFromPEM(ca.PEM())
	both.AppendCertsFromPEM(upstream.PEM())
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(upstream.PEM())
	opener, err := New(Options{CA: ca, RootCAs: roots, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}

	policy := cove.Network{
		Mode: cove.NetworkAllow, Allow: []string{"other.example.org"},
		Requests: []cove.RequestRule{{Host: "ruled.example.org", Methods: []string{"GET"}}},
		Secrets:  []cove.SecretUse{{Name: "GITHUB_TOKEN", Hosts: []string{"api.example.org"}}},
	}
	rules, err := egress.Compile(policy, egress.CompileOptions{})
	if err != nil {
		t.Fatal(err)
	}
	gateway, err := egress.New(egress.Options{
		Logger: slog.New(slog.DiscardHandler),
		Lookup: func(context.Context, string) ([]netip.Addr, error) {
			return []netip.Addr{netip.MustParseAddr("8.8.4.4")}, nil
		},
		Dial: func(ctx context.Context, _ netip.AddrPort) (net.Conn, error) { // the address is never dialled
			return (&net.Dialer{}).DialContext(ctx, "tcp", server.Listener.Addr().String())
		},
		HostAddrs: func() []netip.Addr { return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer gateway.Close()
	streams := make(chan net.Conn, 64)
	session := gateway.Open(egress.SessionOptions{
		ID: "box", Rules: rules, Opener: opener,
		Spare: func(ctx context.Context) (net.Conn, error) {
			host, agent, err := pair(t)
			if err != nil {
				return nil, err
			}
			select {
			case streams <- agent:
				return host, nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		},
		Secrets: func() []egress.SecretValue { return []egress.SecretValue{github("api.example.org")} },
	})
	defer session.Close()
	client := &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: both},
		DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
			name, _, _ := net.SplitHostPort(address)
			stream := <-streams
			var reply wire.EgressReply
			err := errors.Join(wire.WriteFrame(stream, wire.EgressRequest{Kind: wire.EgressConnect, Name: name, Port: 443}), wire.ReadFrame(stream, &reply))
			if err == nil && reply.Code != wire.EgressOK {
				err = errors.New(reply.Code)
			}
			return stream, err
		},
	}}
	get := func(host string) (int, string) {
		t.Helper()
		r, _ := http.NewRequestWithContext(t.Context(), "GET", "https://"+host+"/", nil)
		r.Header.Set("Authorization", "Bearer "+placeholder)
		res, err := client.Do(r)
		if err != nil {
			return 0, err.Error()
		}
		defer res.Body.Close()
		content, _ := io.ReadAll(res.Body)
		return res.StatusCode, string(content)
	}
	if status, body := get("api.example.org"); status != 200 || body != "Bearer "+placeholder {
		t.Errorf("the bound host: %d %q", status, body)
	}
	if status, body := get("ruled.example.org"); status != 403 || !strings.Contains(body, "GITHUB_TOKEN") {
		t.Errorf("an opened host that it is not bound to: %d %q", status, body)
	}
	if status, body := get("other.example.org"); status != 200 || body != "Bearer "+placeholder {
		t.Errorf("a host that is not opened: %d %q", status, body)
	}
	if status, body := get("evil.example.org"); status != 0 {
		t.Errorf("a host that no rule allows: %d %q", status, body)
	}
	if want := []string{"api.example.org Bearer " + token, "other.example.org Bearer " + placeholder}; !slices.Equal(auth, want) {
		t.Errorf("the servers got %q, want %q", auth, want)
	}
	events, _, _ := session.Log(0)
	put := slices.ContainsFunc(events, func(e cove.NetworkEvent) bool {
		return e.Kind == cove.NetworkRequest && e.Allowed && slices.Equal(e.Secrets, []string{"GITHUB_TOKEN"})
	})
	told := slices.ContainsFunc(events, func(e cove.NetworkEvent) bool {
		return e.Kind == cove.NetworkRequest && !e.Allowed && e.Name == "ruled.example.org" && e.Status == 403
	})
	if !put || !told {
		t.Errorf("events = %+v", events)
	}
	client.CloseIdleConnections()
}

// pair returns two ends of a connection.
func pair(t *testing.T) (host, agent net.Conn, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	defer l.Close()
	if agent, err = net.Dial("tcp", l.Addr().String()); err != nil {
		return nil, nil, err
	}
	if host, err = l.Accept(); err != nil {
		return nil, nil, err
	}
	t.Cleanup(func() { agent.Close() })
	return host, agent, nil
}
