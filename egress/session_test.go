package egress_test

import (
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/covehq/cove"
	"github.com/covehq/cove/guest/wire"
)

func TestANameThatIsAllowedIsReachedWhereItLeads(t *testing.T) {
	w := newWorld(t, map[string]string{"pypi.org": "151.101.0.223"})
	g, s := open(t, w, compile(t, allow("pypi.org")), nil)
	if code := g.lookup("pypi.org"); code != wire.EgressOK {
		t.Fatalf("lookup: %s", code)
	}
	conn := g.must("pypi.org", 443)
	exchange(t, conn, "hello")
	_ = conn.(*net.UnixConn).CloseWrite()
	ended(t, conn)
	await(t, "the connection is over", func() bool { return s.Status().Open == 0 })
	queries, dialled := w.seen()
	if len(queries) != 1 || queries[0] != "pypi.org" {
		t.Errorf("queries %v; want one, shared by the lookup and the connection", queries)
	}
	if want := netip.MustParseAddrPort("151.101.0.223:443"); len(dialled) != 1 || dialled[0] != want {
		t.Errorf("dialled %v, want %v", dialled, want)
	}
	await(t, "the log has both ends", func() bool { return len(events(s)) == 2 })
	made, closed := events(s)[0], events(s)[1]
	if made.Kind != cove.NetworkConnection || !made.Allowed || made.Rule != "pypi.org" || made.Name != "pypi.org" || made.Port != 443 {
		t.Errorf("event of the connection: %+v", made)
	}
	if closed.Kind != cove.NetworkClosed || closed.Sent != 5 || closed.Received != 5 || closed.Reason != "" {
		t.Errorf("event of its end: %+v", closed)
	}
	if status := s.Status(); status.Total != 1 || status.Sent != 5 || status.Received != 5 || status.Refused != 0 {
		t.Errorf("status: %+v", status)
	}
}

func TestT62ANameThatNoRuleAllowsIsNeverResolved(t *testing.T) {
	w := newWorld(t, map[string]string{"pypi.org": "151.101.0.223", "secret-data.evil.example": "203.0.114.1"})
	g, s := open(t, w, compile(t, allow("pypi.org", "*.files.example")), nil)
	for _, name := range []string{
		"secret-data.evil.example", "evil.example", "pypi.org.evil.example", "xpypi.org", "files.example",
		"metadata.google.internal", "127.0.0.11", "localhost", "pypi.org\x00.evil.example", strings.Repeat("a", 300), "",
	} {
		if code := g.lookup(name); code != wire.EgressForbidden {
			t.Errorf("lookup of %q: %s", name, code)
		}
		if _, reply := g.connect(wire.EgressRequest{Name: name, Address: "8.8.8.8", Port: 53}); reply.Code != wire.EgressForbidden {
			t.Errorf("connect to %q: %+v", name, reply)
		}
	}
	if queries, dialled := w.seen(); len(queries)+len(dialled) != 0 {
		t.Errorf("the outside saw %v and %v", queries, dialled)
	}
	await(t, "nothing is open", func() bool { return s.Status().Open == 0 })
	if got := s.Status(); got.Refused != 22 || got.Total != 0 {
		t.Errorf("status: %+v", got)
	}
	if reason := events(s)[0].Reason; reason != "no rule allows secret-data.evil.example: add --allow secret-data.evil.example" {
		t.Errorf("reason: %s", reason)
	}
}

func TestT66ARefusedConnectionOnPort80GetsAPageThatSaysWhy(t *testing.T) {
	w := newWorld(t, nil)
	g, _ := open(t, w, compile(t, allow("pypi.org")), nil)
	conn := g.must("evil.example", 80)
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: pypi.org\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	got := string(ended(t, conn))
	for _, want := range []string{"HTTP/1.1 403 Forbidden\r\n", "Connection: close\r\n", "no rule allows evil.example:80: add --allow evil.example\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("the page %q lacks %q", got, want)
		}
	}
	if queries, dialled := w.seen(); len(queries)+len(dialled) != 0 {
		t.Errorf("the outside saw %v and %v", queries, dialled)
	}
}

func TestAFailedRequestLeavesTheStreamForTheNext(t *testing.T) {
	w := newWorld(t, map[string]string{"pypi.org": "151.101.0.223"})
	g, _ := open(t, w, compile(t, allow("pypi.org", "gone.example")), nil)
	stream := g.take()
	for _, step := range []struct {
		request wire.EgressRequest
		code    string
	}{
		{wire.EgressRequest{Kind: "nonsense"}, wire.EgressForbidden},
		{wire.EgressRequest{Kind: wire.EgressLookup, Name: "evil.example"}, wire.EgressForbidden},
		{wire.EgressRequest{Kind: wire.EgressLookup, Name: "gone.example"}, wire.EgressNotFound},
		{wire.EgressRequest{Kind: wire.EgressConnect, Name: "gone.example", Port: 443}, wire.EgressNotFound},
		{wire.EgressRequest{Kind: wire.EgressConnect, Name: "pypi.org", Port: 22}, wire.EgressForbidden},
		{wire.EgressRequest{Kind: wire.EgressConnect, Name: "pypi.org", Port: -443}, wire.EgressForbidden},
		{wire.EgressRequest{Kind: wire.EgressConnect, Port: 443}, wire.EgressForbidden},
		{wire.EgressRequest{Kind: wire.EgressConnect, Name: "pypi.org", Port: 443}, wire.EgressOK},
	} {
		if reply := g.ask(stream, step.request); reply.Code != step.code {
			t.Fatalf("%+v: %+v, want %s", step.request, reply, step.code)
		}
	}
	exchange(t, stream, "after all that")
}
