package egress_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/egress"
	"github.com/covehq/cove/guest/wire"
)

func TestHammerOfASession(t *testing.T) {
	before := runtime.NumGoroutine()
	w := newWorld(t, someNames)
	gateway, err := egress.New(egress.Options{
		Lookup: w.lookup, HostAddrs: func() []netip.Addr { return nil },
		Dial: func(context.Context, netip.AddrPort) (net.Conn, error) {
			a, b, err := socketPair()
			if err == nil {
				go echo(b)
			}
			return a, err
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	policies := []*egress.Rules{
		compile(t, allow("a.example", "b.example")), compile(t, allow("a.example")), nil,
		compile(t, cove.Network{Mode: cove.NetworkOpen, Deny: []string{"a.example"}, Limits: cove.NetworkLimits{Rate: 1 << 20, Connections: 4}}),
	}
	g := newGuest(t)
	s := gateway.Open(egress.SessionOptions{Rules: policies[0], Spare: g.spare, Event: func(cove.NetworkEvent) {}})
	stop := make(chan struct{})
	var all sync.WaitGroup
	until := func(f func(i int)) {
		all.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
					f(i)
				}
			}
		})
	}
	var passed, refused atomic.Int64
	for n := range 6 {
		until(func(i int) {
			var stream net.Conn
			select {
			case stream = <-g.streams:
			case <-stop:
				return
			}
			defer stream.Close()
			_ = stream.SetDeadline(time.Now().Add(patience))
			request := wire.EgressRequest{Kind: wire.EgressConnect, Name: string(rune('a'+(n+i)%3)) + ".example", Port: 443}
			var reply wire.EgressReply
			if wire.WriteFrame(stream, request) != nil || wire.ReadFrame(stream, &reply) != nil {
				return
			}
			if reply.Code != wire.EgressOK {
				refused.Add(1)
				return
			}
			text := fmt.Sprintf("hello %d", i)
			got := make([]byte, len(text))
			if _, err := io.WriteString(stream, text); err != nil {
				return
			}
			if _, err := io.ReadFull(stream, got); err == nil {
				passed.Add(1)
				if string(got) != text {
					t.Errorf("sent %q, got %q", text, got)
				}
			}
		})
	}
	until(func(i int) { s.SetRules(policies[i%len(policies)]); time.Sleep(5 * time.Millisecond) })
	until(func(int) { _ = s.Status(); _, _, _ = s.Log(0); runtime.Gosched() })
	await(t, "many have passed and many were refused", func() bool { return passed.Load() > 300 && refused.Load() > 300 })
	var closing sync.WaitGroup
	for range 3 {
		closing.Go(func() { _ = s.Close() })
	}
	closing.Wait()
	close(stop)
	all.Wait()
	if status := s.Status(); status.Open != 0 {
		t.Errorf("after the end: %+v", status)
	}
	_ = gateway.Close()
	await(t, "no goroutine is left", func() bool { return runtime.NumGoroutine() <= before+1 })
}

func TestWhatTheHostServesIsReachedWhereTheOperatorNamesItsAddress(t *testing.T) {
	addr := listen(t, echo)
	port := netip.MustParseAddrPort(addr).Port()
	w := newWorld(t, map[string]string{"mirror.example": "127.0.0.1"})
	rule := fmt.Sprintf("mirror.example:%d", port)
	g, s := open(t, w, compile(t, allow(rule)), func(o *egress.Options, _ *egress.SessionOptions) {
		o.Dial, o.HostAddrs = nil, nil
		o.Private = func() []netip.Prefix { return prefixes([]string{"127.0.0.1/32"}) }
	})
	conn := g.must("mirror.example", int(port))
	exchange(t, conn, "hello")
	if e := events(s)[0]; e.Address != "127.0.0.1" || e.Rule != rule {
		t.Errorf("event: %+v", e)
	}
	// A denial of where the name led ends it.
	s.SetRules(compile(t, cove.Network{Mode: cove.NetworkAllow, Allow: []string{rule}, Deny: []string{"127.0.0.0/8"}}))
	ended(t, conn)
	if _, reply := g.connect(wire.EgressRequest{Name: "mirror.example", Port: int(port)}); reply.Code != wire.EgressForbidden {
		t.Errorf("a new connection: %+v", reply)
	}
}
