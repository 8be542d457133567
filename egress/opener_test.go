package egress_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/covehq/cove"
	"github.com/covehq/cove/egress"
	"github.com/covehq/cove/guest/wire"
)

// opener is an Opener that notes what it is given and copies.
type opener struct{ served chan egress.Opened }

func (o *opener) Serve(ctx context.Context, guest net.Conn, c egress.Opened) error {
	o.served <- c
	server, err := c.Dial(ctx)
	if err != nil {
		return err
	}
	defer server.Close()
	c.Event(cove.NetworkEvent{Allowed: true, Method: "GET", Path: "/\x1b[2J", Status: 200})
	go func() { _, _ = io.Copy(server, guest) }()
	_, err = io.Copy(guest, server)
	return err
}

// looked is a network with a request rule and a secret.
func looked() cove.Network {
	return cove.Network{
		Mode: cove.NetworkAllow, Allow: []string{"b.example", "c.example"},
		Requests: []cove.RequestRule{{Host: "a.example", Paths: []string{"/x"}}, {Host: "*.example", Methods: []string{"GET"}}, {Host: "c.test"}},
		Secrets:  []cove.SecretUse{{Name: "TOKEN", Hosts: []string{"c.test"}}},
	}
}

func TestNamesWithRequestRulesOrSecretsGoToTheOpener(t *testing.T) {
	w := newWorld(t, map[string]string{"a.example": "1.1.1.1", "plain.test": "1.1.1.2", "inside.example": "10.0.0.1"})
	o := &opener{make(chan egress.Opened, 8)}
	value := "one"
	secrets := func() []egress.SecretValue { return []egress.SecretValue{{Name: "TOKEN", Value: value}} }
	n := looked()
	n.Allow = append(n.Allow, "plain.test")
	g, s := open(t, w, compile(t, n), func(_ *egress.Options, so *egress.SessionOptions) { so.Opener, so.Secrets = o, secrets })
	exchange(t, g.must("plain.test", 443), "untouched")
	conn := g.must("a.example", 443)
	exchange(t, conn, "looked into")
	c := <-o.served
	if c.Sandbox != "sb-1" || c.Name != "a.example" || c.Port != 443 || len(c.Rules) != 2 || c.Rules[0].Paths[0] != "/x" || len(c.Secrets) != 1 {
		t.Errorf("the opener was given %+v", c)
	}
	if _, dialled := w.seen(); len(dialled) != 2 || dialled[1] != netip.MustParseAddrPort("1.1.1.1:443") {
		t.Errorf("dialled %v", dialled)
	}
	if status := s.Status(); status.Sent != 20 || status.Received != 20 {
		t.Errorf("status: %+v", status)
	}
	var told bool
	for _, e := range events(s) {
		told = told || e.Kind == cove.NetworkRequest && e.Name == "a.example" && e.Port == 443 && e.Path == "/[2J" && e.Seq > 0
	}
	if !told {
		t.Errorf("events: %+v", events(s))
	}
	if _, reply := g.connect(wire.EgressRequest{Name: "inside.example", Port: 443}); reply.Code != wire.EgressForbidden || len(o.served) > 0 {
		t.Errorf("a private address: %+v", reply)
	}

	s.SetRules(compile(t, n)) // the same
	exchange(t, conn, "as before")
	n.Requests[0].Paths = []string{"/y"}
	s.SetRules(compile(t, n))
	ended(t, conn)
	conn = g.must("a.example", 443)
	value = "two"
	s.SetRules(compile(t, n))
	ended(t, conn)
	plain := g.must("plain.test", 443)
	n.Requests = append(n.Requests, cove.RequestRule{Host: "plain.test"})
	s.SetRules(compile(t, n)) // what was copied has to be looked into now
	ended(t, plain)
}

func TestWithoutAnOpenerNothingPassesUnseen(t *testing.T) {
	w := newWorld(t, map[string]string{"a.example": "1.1.1.1"})
	g, _ := open(t, w, compile(t, looked()), nil)
	if _, reply := g.connect(wire.EgressRequest{Name: "a.example", Port: 443}); reply.Code != wire.EgressForbidden {
		t.Errorf("got %+v", reply)
	}
	if _, dialled := w.seen(); len(dialled) > 0 {
		t.Errorf("dialled %v", dialled)
	}
}

func TestTheLogIsARingThatSaysWhatItLost(t *testing.T) {
	w := newWorld(t, nil)
	var told []cove.NetworkEvent
	g, s := open(t, w, compile(t, allow("a.example")), func(_ *egress.Options, so *egress.SessionOptions) {
		so.Event = func(e cove.NetworkEvent) { told = append(told, e) }
	})
	_, _, changed := s.Log(0)
	g.lookup("evil-0.example")
	<-changed
	const asked = 16_000
	for i := range asked {
		g.lookup(fmt.Sprintf("evil-%d.example", i/2)) // each twice
	}
	list, lost, _ := s.Log(0)
	if !lost || len(list) != 4096 || len(told) < len(list) || len(told) > asked*3/4 {
		t.Errorf("%d events (lost: %v), and %d were told, of %d different names at once", len(list), lost, len(told), asked/2)
	}
	first := list[0].Seq
	for i, e := range list {
		if e.Seq != first+uint64(i) || e.Time.IsZero() || e.Kind != cove.NetworkLookup || e.Allowed {
			t.Fatalf("event %d: %+v", i, e)
		}
	}
	if got := s.Status().Refused; got != asked+1 {
		t.Errorf("%d refusals were counted", got)
	}
	if later, lost, _ := s.Log(list[9].Seq); lost || len(later) != len(list)-10 || later[0].Seq != first+10 {
		t.Errorf("%d events after the tenth, lost: %v", len(later), lost)
	}
}

func TestAPageIsWrittenForHTTPAlone(t *testing.T) {
	g, s := open(t, newWorld(t, nil), compile(t, allow("a.example")), nil)
	post := g.must("evil.example", 80)
	go func() {
		_, _ = io.WriteString(post, "POST / HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 500000\r\n\r\n"+strings.Repeat("x", 500_000))
		_ = post.(*net.UnixConn).CloseWrite()
	}()
	if got := string(ended(t, post)); !strings.Contains(got, "403 Forbidden") {
		t.Errorf("after a body: %q", got)
	}
	for _, text := range []string{"SSH-2.0-x\r\n\r\n", "GET / HTTP/1.1\r\nX: " + strings.Repeat("x", 100_000), "\x16\x03\x01\x00\r\n\r\n", ""} {
		conn := g.must("evil.example", 80)
		_, _ = io.WriteString(conn, text)
		_ = conn.(*net.UnixConn).CloseWrite()
		if got := ended(t, conn); len(got) > 0 {
			t.Errorf("%.20q got %q", text, got)
		}
	}
	await(t, "all have ended", func() bool { return s.Status().Open == 0 })
}

func TestT61ModeNoneReachesNothing(t *testing.T) {
	w := newWorld(t, someNames)
	n := looked()
	n.Mode = cove.NetworkNone
	g, _ := open(t, w, compile(t, n), nil)
	for _, request := range []wire.EgressRequest{
		{Name: "a.example", Port: 443}, {Name: "b.example", Port: 443}, {Name: "c.test", Port: 443}, {Address: "1.1.1.1", Port: 443}, {Name: "db.sandbox", Port: 22},
	} {
		if _, reply := g.connect(request); reply.Code != wire.EgressForbidden || !strings.Contains(reply.Message, "the network is off") {
			t.Errorf("%+v: %+v", request, reply)
		}
		if request.Name != "" && g.lookup(request.Name) != wire.EgressForbidden {
			t.Errorf("lookup of %s is allowed", request.Name)
		}
	}
	if queries, dialled := w.seen(); len(queries)+len(dialled) > 0 {
		t.Errorf("the outside saw %v, %v", queries, dialled)
	}
}

func TestT73AGatewayThatLeavesTakesItsConnectionsAlong(t *testing.T) {
	w := newWorld(t, someNames)
	g := newGuest(t)
	gateway, err := egress.New(egress.Options{Lookup: w.lookup, Dial: w.dial})
	if err != nil {
		t.Fatal(err)
	}
	gateway.Open(egress.SessionOptions{Rules: compile(t, allow("a.example")), Spare: g.spare})
	conn := g.must("a.example", 443)
	exchange(t, conn, "hello")
	if err := gateway.Close(); err != nil {
		t.Fatal(err)
	}
	ended(t, conn)
	for len(g.streams) > 0 {
		stream := <-g.streams
		if err := wire.WriteFrame(stream, wire.EgressRequest{Kind: wire.EgressConnect, Name: "a.example", Port: 443}); err == nil {
			var reply wire.EgressReply
			if err := wire.ReadFrame(stream, &reply); err == nil || errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("a spare stream answers: %+v", reply)
			}
		}
	}
}
