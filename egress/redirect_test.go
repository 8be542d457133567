package egress_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/covehq/cove/egress"
	"github.com/covehq/cove/guest/wire"
)

// browser is a program inside that follows redirects. Its connections are asked for as the
// agent does: by name, or by an address of IPv4.
func (g *guest) browser() *http.Client {
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(_ context.Context, _, at string) (net.Conn, error) {
		host, text, err := net.SplitHostPort(at)
		if err != nil {
			return nil, err
		}
		port, err := strconv.Atoi(text)
		if err != nil {
			return nil, err
		}
		request := wire.EgressRequest{Name: host, Port: port}
		if addr, err := netip.ParseAddr(host); err == nil {
			request.Name, request.Address = "", addr.String()
		}
		conn, reply := g.connect(request)
		if reply.Code != wire.EgressOK {
			return nil, errors.New(reply.Code)
		}
		return conn, nil
	}}
	g.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// redirecting serves HTTP on a connection: whatever is asked for is elsewhere.
func redirecting(code int, location string, bodies *sync.Map) func(net.Conn) {
	return func(conn net.Conn) {
		defer conn.Close()
		request, err := http.ReadRequest(bufio.NewReader(conn))
		if err != nil {
			return
		}
		body, _ := io.ReadAll(request.Body)
		bodies.Store(request.Host, string(body))
		_, _ = fmt.Fprintf(conn, "HTTP/1.1 %d Moved\r\nLocation: %s\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", code, location)
	}
}

func TestT63T65ARedirectLeadsNowhereThatNoRuleAllows(t *testing.T) {
	allowed := netip.MustParseAddrPort("1.1.1.1:80")
	for _, to := range []struct {
		title, location string
		queries         int // beyond the one for the name that is allowed
	}{
		{"a name without a rule", "http://evil.example/x", 0},
		{"a name without a rule, by TLS", "https://evil.example/x", 0},
		{"a name below the allowed one", "http://www.a.example/", 0},
		{"a metadata service", "http://169.254.169.254/latest/meta-data/", 0},
		{"a metadata service, by TLS", "https://169.254.169.254/", 0},
		{"a metadata service by name", "http://metadata.google.internal/computeMetadata/v1/", 0},
		{"an address in another spelling", "http://[::ffff:a9fe:a9fe]/", 0},
		{"the address of the allowed name", "http://1.1.1.1/x", 0},
		{"an address of the public internet", "http://8.8.8.8/x", 0},
		{"an address of the host", "http://127.0.0.1/x", 0},
		{"another port", "http://a.example:8080/x", 0},
		{"another scheme, and so another port", "https://a.example/x", 0},
		{"an allowed name that leads to a metadata service", "http://rebound.example/", 1},
		{"an allowed name that leads to a private address", "http://home.example/", 1},
	} {
		for _, code := range []int{http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect} {
			t.Run(fmt.Sprintf("%s, by a %d", to.title, code), func(t *testing.T) {
				w := newWorld(t, map[string]string{
					"a.example": "1.1.1.1", "www.a.example": "1.1.1.2", "evil.example": "1.1.1.3", "metadata.google.internal": "169.254.169.254",
					"rebound.example": "169.254.169.254", "home.example": "10.1.2.3",
				})
				var bodies sync.Map
				w.serve = redirecting(code, to.location, &bodies)
				g, s := open(t, w, compile(t, allow("a.example:80", "rebound.example:80", "home.example:80")), nil)
				response, err := g.browser().Post("http://a.example/", "text/plain", strings.NewReader("what only a.example is told"))
				if err == nil {
					defer response.Body.Close()
					page, _ := io.ReadAll(response.Body)
					if response.StatusCode != http.StatusForbidden || !strings.HasPrefix(string(page), "cove: refused: ") {
						t.Errorf("the program got %s, %q", response.Status, page)
					}
				}
				queries, dialled := w.seen()
				if len(queries) != 1+to.queries || queries[0] != "a.example" {
					t.Errorf("queries: %q", queries)
				}
				if len(dialled) != 1 || dialled[0] != allowed {
					t.Errorf("dialled %v, want %v alone", dialled, allowed)
				}
				bodies.Range(func(host, _ any) bool {
					if host != "a.example" {
						t.Errorf("%s was told", host)
					}
					return true
				})
				if got := s.Status(); got.Refused != 1 || got.Total != 1 {
					t.Errorf("status: %+v", got)
				}
			})
		}
	}
}

func TestARedirectToAnotherAllowedNameIsFollowed(t *testing.T) {
	w := newWorld(t, someNames)
	var bodies sync.Map
	first := redirecting(http.StatusFound, "http://b.example/", &bodies)
	second := redirecting(http.StatusOK, "", &bodies)
	var dials int
	g, _ := open(t, w, compile(t, allow("a.example", "b.example")), func(o *egress.Options, _ *egress.SessionOptions) {
		o.Dial = func(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
			w.mu.Lock()
			if w.serve = first; dials > 0 {
				w.serve = second
			}
			dials++
			w.mu.Unlock()
			return w.dial(ctx, to)
		}
	})
	response, err := g.browser().Get("http://a.example/")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK || response.Request.URL.Host != "b.example" {
		t.Errorf("got %s from %s", response.Status, response.Request.URL)
	}
}
