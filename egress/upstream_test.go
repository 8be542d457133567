package egress_test

import (
	"bufio"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/covehq/cove"
	"github.com/covehq/cove/egress"
	"github.com/covehq/cove/guest/wire"
)

// listen serves each connection to a listener on loopback until the test ends.
func listen(t *testing.T, serve func(net.Conn)) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer conn.Close()
				serve(conn)
			})
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		serving.Wait()
	})
	return listener.Addr().String()
}

// asks collects what a proxy is asked for.
type asks struct {
	mu   sync.Mutex
	list []string
}

func (a *asks) add(text string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.list = append(a.list, text)
}

// serveConnect is an HTTP proxy that greets, as a server that speaks first would, and
// echoes.
func (a *asks) serveConnect(conn net.Conn) {
	request, err := http.ReadRequest(bufio.NewReader(conn))
	if err != nil {
		return
	}
	a.add(request.Method + " " + request.Host + " " + request.Header.Get("Proxy-Authorization"))
	if strings.HasPrefix(request.Host, "refused.") {
		_, _ = io.WriteString(conn, "HTTP/1.1 403 Not\x1b[31m here\r\nContent-Length: 0\r\n\r\n")
		return
	}
	_, _ = io.WriteString(conn, "HTTP/1.1 200 Connection established\r\n\r\nwelcome")
	_, _ = io.Copy(conn, conn)
}

// serveSOCKS is as much of a SOCKS5 proxy, RFC 1928, as is needed to see what it is asked.
func (a *asks) serveSOCKS(conn net.Conn) {
	var head [2]byte
	if _, err := io.ReadFull(conn, head[:]); err != nil {
		return
	}
	_, _ = io.CopyN(io.Discard, conn, int64(head[1]))
	_, _ = conn.Write([]byte{5, 0})
	var request [5]byte
	if _, err := io.ReadFull(conn, request[:]); err != nil || request[3] != 3 {
		a.add("not a name")
		return
	}
	rest := make([]byte, int(request[4])+2)
	_, _ = io.ReadFull(conn, rest)
	a.add(string(rest[:request[4]]))
	_, _ = conn.Write([]byte{5, 0, 0, 1, 0, 0, 0, 0, 0, 0})
	_, _ = io.WriteString(conn, "welcome")
	_, _ = io.Copy(conn, conn)
}

func TestNamesGoToAnUpstreamProxyAsTheyAre(t *testing.T) {
	var plain, socks asks
	for title, test := range map[string]struct {
		url  string
		asks *asks
		want string
	}{
		"http": {
			"http://me:p%40ss@" + listen(t, plain.serveConnect), &plain,
			"CONNECT a.example:443 Basic " + base64.StdEncoding.EncodeToString([]byte("me:p@ss")),
		},
		"socks5": {"socks5://" + listen(t, socks.serveSOCKS), &socks, "a.example"},
	} {
		t.Run(title, func(t *testing.T) {
			w := newWorld(t, nil)
			g, _ := open(t, w, compile(t, allow("a.example")), func(o *egress.Options, _ *egress.SessionOptions) { o.Proxy = test.url })
			if code := g.lookup("a.example"); code != wire.EgressOK {
				t.Errorf("lookup: %s", code)
			}
			conn := g.must("a.example", 443)
			greeting := make([]byte, len("welcome"))
			if _, err := io.ReadFull(conn, greeting); err != nil || string(greeting) != "welcome" {
				t.Errorf("greeting %q, %v", greeting, err)
			}
			exchange(t, conn, "hello")
			if code := g.lookup("evil.example"); code != wire.EgressForbidden {
				t.Errorf("lookup of another: %s", code)
			}
			if _, reply := g.connect(wire.EgressRequest{Name: "evil.example", Port: 443}); reply.Code != wire.EgressForbidden {
				t.Errorf("connect to another: %+v", reply)
			}
			if !slices.Equal(test.asks.list, []string{test.want}) {
				t.Errorf("the proxy was asked %q, want %q", test.asks.list, test.want)
			}
			if queries, dialled := w.seen(); len(queries)+len(dialled) > 0 {
				t.Errorf("beside the proxy: %v, %v", queries, dialled)
			}
		})
	}
}

func TestAnUpstreamProxyBehindTLSIsVerified(t *testing.T) {
	var seen asks
	certificates := httptest.NewUnstartedServer(nil)
	certificates.StartTLS()
	defer certificates.Close()
	addr := listen(t, func(conn net.Conn) { seen.serveConnect(tls.Server(conn, certificates.TLS)) })
	g, _ := open(t, newWorld(t, nil), compile(t, allow("a.example")), func(o *egress.Options, _ *egress.SessionOptions) { o.Proxy = "https://" + addr })
	_, reply := g.connect(wire.EgressRequest{Name: "a.example", Port: 443})
	if reply.Code != wire.EgressUnavailable || !strings.Contains(reply.Message, "certificate") || len(seen.list) > 0 {
		t.Errorf("got %+v, and the proxy was asked %v", reply, seen.list)
	}
}

func TestT64AddressesAreGuardedBeforeAnUpstreamProxy(t *testing.T) {
	var seen asks
	addr := listen(t, seen.serveConnect)
	g, _ := open(t, newWorld(t, nil), compile(t, cove.Network{Mode: cove.NetworkOpen}), func(o *egress.Options, _ *egress.SessionOptions) {
		o.Proxy = "http://" + addr
		o.HostAddrs = func() []netip.Addr { return []netip.Addr{netip.MustParseAddr(hostAddr)} }
	})
	for _, text := range forbidden {
		if _, reply := g.connect(wire.EgressRequest{Address: text, Port: 443}); reply.Code != wire.EgressForbidden {
			t.Errorf("%s: %+v", text, reply)
		}
	}
	if len(seen.list) > 0 {
		t.Errorf("the proxy was asked %v", seen.list)
	}
}

func TestAHostileUpstreamProxyIsBounded(t *testing.T) {
	for title, test := range map[string]struct {
		serve func(net.Conn)
		want  string
	}{
		"it refuses": {new(asks).serveConnect, "the upstream proxy refuses refused.example:443: 403 Not[31m here"},
		"a header without end": {func(conn net.Conn) {
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nX: ")
			_, _ = io.Copy(conn, endless{})
		}, "did not answer"},
		"no HTTP":   {func(conn net.Conn) { _, _ = io.WriteString(conn, "SSH-2.0-x\r\n\r\n") }, "did not answer"},
		"it leaves": {func(net.Conn) {}, "did not answer"},
	} {
		t.Run(title, func(t *testing.T) {
			addr := listen(t, test.serve)
			g, _ := open(t, newWorld(t, nil), compile(t, allow("refused.example")), func(o *egress.Options, _ *egress.SessionOptions) { o.Proxy = "http://" + addr })
			_, reply := g.connect(wire.EgressRequest{Name: "refused.example", Port: 443})
			if reply.Code != wire.EgressUnavailable || !strings.Contains(reply.Message, test.want) {
				t.Errorf("got %+v, want %q", reply, test.want)
			}
		})
	}
}

func TestOptionsThatCantBeAreRefusedWithoutTheirCredentials(t *testing.T) {
	for _, o := range []egress.Options{
		{Proxy: "ftp://me:hunter2@proxy.example"}, {Proxy: "proxy.example:3128"}, {Proxy: "http://me:hunter2@"}, {Proxy: "http://me:hunter2@a b/"},
		{Resolver: "9.9.9.9"}, {Resolver: ":53"}, {Resolver: "9.9.9.9:dns"},
	} {
		_, err := egress.New(o)
		if !errors.Is(err, cove.Invalid) || cove.HintOf(err) == "" || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%+v: %v", o, err)
		}
	}
}
