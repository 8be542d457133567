package egress_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/egress"
	"github.com/covehq/cove/guest/wire"
)

var someNames = map[string]string{"a.example": "1.1.1.1", "b.example": "1.1.1.2", "c.example": "1.1.1.3"}

func TestT66AChangedPolicyClosesWhatItDoesNotAllow(t *testing.T) {
	w := newWorld(t, someNames)
	g, s := open(t, w, compile(t, allow("a.example", "b.example", "c.example:*", "1.1.1.9")), nil)
	kept, lost, denied := g.must("a.example", 443), g.must("b.example", 443), g.must("c.example", 22)
	literal, _ := g.connect(wire.EgressRequest{Address: "1.1.1.9", Port: 443})
	for _, conn := range []net.Conn{kept, lost, denied, literal} {
		exchange(t, conn, "before")
	}
	s.SetRules(compile(t, cove.Network{Mode: cove.NetworkAllow, Allow: []string{"a.example", "c.example:*", "1.1.1.9"}, Deny: []string{"c.example:22", "1.1.1.8/29"}}))
	for _, conn := range []net.Conn{lost, denied, literal} {
		ended(t, conn)
	}
	exchange(t, kept, "after")
	if _, reply := g.connect(wire.EgressRequest{Name: "b.example", Port: 443}); reply.Code != wire.EgressForbidden {
		t.Errorf("a new connection: %+v", reply)
	}
	await(t, "the log says why", func() bool {
		reasons := 0
		for _, e := range events(s) {
			if e.Kind == cove.NetworkClosed && strings.Contains(e.Reason, "the policy was changed") {
				reasons++
			}
		}
		return reasons == 3
	})
	s.SetRules(compile(t, cove.Network{Mode: cove.NetworkNone}))
	ended(t, kept)
	s.SetRules(compile(t, allow("a.example")))
	exchange(t, g.must("a.example", 443), "again")
	s.SetRules(nil)
	if code := g.lookup("a.example"); code != wire.EgressForbidden {
		t.Errorf("lookup without rules: %s", code)
	}
}

func TestAChangedPolicyEndsAConnectionThatIsBeingMade(t *testing.T) {
	w := newWorld(t, someNames)
	dialling := make(chan struct{})
	g, s := open(t, w, compile(t, allow("a.example")), func(o *egress.Options, _ *egress.SessionOptions) {
		o.Dial = func(ctx context.Context, _ netip.AddrPort) (net.Conn, error) {
			close(dialling)
			<-ctx.Done()
			return nil, ctx.Err()
		}
	})
	stream := g.take()
	if err := wire.WriteFrame(stream, wire.EgressRequest{Kind: wire.EgressConnect, Name: "a.example", Port: 443}); err != nil {
		t.Fatal(err)
	}
	<-dialling
	s.SetRules(compile(t, allow("b.example")))
	if got := ended(t, stream); bytes.Contains(got, []byte(`"ok"`)) {
		t.Errorf("the answer was %q", got)
	}
	await(t, "the connection is forgotten", func() bool { return s.Status().Open == 0 })
}

func TestHalfClosesPassBothWays(t *testing.T) {
	w := newWorld(t, someNames)
	w.serve = func(conn net.Conn) {
		got, _ := io.ReadAll(conn)
		_, _ = fmt.Fprintf(conn, "%d bytes came", len(got))
		_ = conn.Close()
	}
	g, _ := open(t, w, compile(t, allow("a.example")), nil)
	conn := g.must("a.example", 443)
	_, _ = io.WriteString(conn, strings.Repeat("x", 100_000))
	_ = conn.(*net.UnixConn).CloseWrite()
	if got := string(ended(t, conn)); got != "100000 bytes came" {
		t.Errorf("got %q", got)
	}
}

func TestBytesArriveWholeInBothDirections(t *testing.T) {
	const size = 24 << 20 // enough for splice
	want := make([]byte, size)
	_, _ = rand.Read(want)
	for _, test := range []struct {
		title  string
		limits cove.NetworkLimits
	}{
		{"without limits", cove.NetworkLimits{}},
		{"with a rate", cove.NetworkLimits{Rate: 400 << 20}},
	} {
		t.Run(test.title, func(t *testing.T) {
			w := newWorld(t, someNames)
			var sent bytes.Buffer
			done := make(chan struct{})
			w.serve = func(conn net.Conn) {
				defer close(done)
				var both sync.WaitGroup
				both.Go(func() { _, _ = io.Copy(&sent, conn) })
				_, _ = conn.Write(want)
				_ = conn.(*net.TCPConn).CloseWrite()
				both.Wait()
				_ = conn.Close()
			}
			n := allow("a.example")
			n.Limits = test.limits
			g, s := open(t, w, compile(t, n), nil)
			conn := g.must("a.example", 443)
			var both sync.WaitGroup
			both.Go(func() {
				_, _ = conn.Write(want)
				_ = conn.(*net.UnixConn).CloseWrite()
			})
			got := ended(t, conn)
			both.Wait()
			<-done
			if !bytes.Equal(got, want) || !bytes.Equal(sent.Bytes(), want) {
				t.Errorf("%d bytes came and %d went, not all of the %d or not as they were", len(got), sent.Len(), size)
			}
			if status := s.Status(); status.Received != size || status.Sent != size {
				t.Errorf("status: %+v", status)
			}
		})
	}
}

func TestTheCountersOfAConnectionMoveWhileItIsOpen(t *testing.T) {
	const size = 4 << 20
	w := newWorld(t, someNames)
	w.serve = func(conn net.Conn) {
		_, _ = conn.Write(make([]byte, size))
		_, _ = io.Copy(io.Discard, conn)
	}
	g, s := open(t, w, compile(t, allow("a.example")), nil)
	conn := g.must("a.example", 443)
	if _, err := io.CopyN(io.Discard, conn, size); err != nil {
		t.Fatal(err)
	}
	if status := s.Status(); status.Received != size || status.Open != 1 {
		t.Errorf("status: %+v", status)
	}
}

func TestLimitsHold(t *testing.T) {
	t.Run("connections at the same time", func(t *testing.T) {
		n := allow("a.example")
		n.Limits.Connections = 3
		g, s := open(t, newWorld(t, someNames), compile(t, n), nil)
		first := g.must("a.example", 443)
		g.must("a.example", 443)
		g.must("a.example", 443)
		_, reply := g.connect(wire.EgressRequest{Name: "a.example", Port: 443})
		if reply.Code != wire.EgressUnavailable || !strings.Contains(reply.Message, "3 connections") {
			t.Errorf("the fourth: %+v", reply)
		}
		_ = first.Close()
		await(t, "one has ended", func() bool { return s.Status().Open == 2 })
		g.must("a.example", 443)
	})
	t.Run("bytes in all", func(t *testing.T) {
		n := allow("a.example")
		n.Limits.Total = 1 << 20
		w := newWorld(t, someNames)
		w.serve = func(conn net.Conn) {
			_, _ = io.Copy(conn, endless{})
			_ = conn.Close()
		}
		g, s := open(t, w, compile(t, n), nil)
		if got := len(ended(t, g.must("a.example", 443))); got > 1<<20 || got < 1<<19 {
			t.Errorf("%d bytes came", got)
		}
		await(t, "the log says why", func() bool {
			list := events(s)
			return strings.Contains(list[len(list)-1].Reason, "limit of bytes")
		})
		if _, reply := g.connect(wire.EgressRequest{Name: "a.example", Port: 443}); reply.Code != wire.EgressForbidden {
			t.Errorf("another connection: %+v", reply)
		}
	})
	t.Run("a rate that comes later", func(t *testing.T) {
		w := newWorld(t, someNames)
		var written atomic.Int64
		w.serve = func(conn net.Conn) {
			for {
				n, err := conn.Write(make([]byte, 64<<10))
				written.Add(int64(n))
				if err != nil {
					return
				}
			}
		}
		g, s := open(t, w, compile(t, allow("a.example")), nil)
		conn := g.must("a.example", 443)
		if _, err := io.CopyN(io.Discard, conn, 8<<20); err != nil {
			t.Fatal(err)
		}
		n := allow("a.example")
		n.Limits.Rate = 1
		s.SetRules(compile(t, n))
		// What is in buffers still comes, then as good as nothing.
		_ = conn.SetReadDeadline(time.Now().Add(time.Second))
		_, err := io.CopyN(io.Discard, conn, 64<<20)
		var timeout net.Error
		if !errors.As(err, &timeout) || !timeout.Timeout() {
			t.Errorf("64 MiB came at a byte a second: %v", err)
		}
		s.SetRules(compile(t, allow("a.example")))
		_ = conn.SetReadDeadline(time.Now().Add(patience))
		if _, err := io.CopyN(io.Discard, conn, 8<<20); err != nil {
			t.Errorf("after the limit is lifted: %v", err)
		}
	})
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

func TestServersThatMisbehaveEndTheirConnectionAlone(t *testing.T) {
	w := newWorld(t, someNames)
	w.refuse[netip.MustParseAddr("1.1.1.2")] = &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	w.serve = func(conn net.Conn) {
		_, _ = conn.Read(make([]byte, 1))
		_ = conn.(*net.TCPConn).SetLinger(0)
		_ = conn.Close()
	}
	g, s := open(t, w, compile(t, cove.Network{Mode: cove.NetworkOpen}), nil)
	conn := g.must("a.example", 443)
	_, _ = conn.Write([]byte("x"))
	ended(t, conn)
	if _, reply := g.connect(wire.EgressRequest{Name: "b.example", Port: 443}); reply.Code != wire.EgressUnavailable || !strings.Contains(reply.Message, "connection refused") {
		t.Errorf("a server that refuses: %+v", reply)
	}
	await(t, "the log says that it was reset", func() bool {
		for _, e := range events(s) {
			if e.Kind == cove.NetworkClosed && e.Reason == "the connection was reset" {
				return true
			}
		}
		return false
	})
}

func TestT65TheNextCheckedAddressIsTriedWhereOneFails(t *testing.T) {
	for title, failed := range map[string]error{"at once": syscall.ENETUNREACH, "never": nil} {
		t.Run(title, func(t *testing.T) {
			w := newWorld(t, nil)
			dead, alive := netip.MustParseAddr("2606:4700::1"), netip.MustParseAddr("1.1.1.1")
			w.names["a.example"] = []netip.Addr{dead, netip.MustParseAddr("10.0.0.1"), alive}
			g, _ := open(t, w, compile(t, allow("a.example")), func(o *egress.Options, _ *egress.SessionOptions) {
				dial := o.Dial
				o.Dial = func(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
					if to.Addr() != dead {
						return dial(ctx, to)
					}
					if failed == nil {
						<-ctx.Done()
						return nil, ctx.Err()
					}
					return nil, failed
				}
			})
			exchange(t, g.must("a.example", 443), "hello")
			if _, dialled := w.seen(); len(dialled) != 1 || dialled[0].Addr() != alive {
				t.Errorf("dialled %v", dialled)
			}
		})
	}
}

func TestT69AnotherSandboxIsReachedByTheRuleThatNamesItsPort(t *testing.T) {
	w := newWorld(t, nil)
	var asked []string
	peers := func(_ *egress.Options, so *egress.SessionOptions) {
		so.Peer = func(ctx context.Context, name string, port int) (net.Conn, error) {
			asked = append(asked, fmt.Sprintf("%s:%d", name, port))
			a, b, err := socketPair()
			go echo(b)
			return a, err
		}
	}
	g, s := open(t, w, compile(t, cove.Network{Mode: cove.NetworkOpen, Allow: []string{"sandbox:db:5432"}}), peers)
	if code := g.lookup("db.sandbox"); code != wire.EgressOK {
		t.Errorf("lookup: %s", code)
	}
	conn := g.must("db.sandbox", 5432)
	exchange(t, conn, "select 1")
	for _, name := range []string{"web.sandbox", "sandbox", "x.db.sandbox"} {
		if code := g.lookup(name); name != "sandbox" && code != wire.EgressForbidden {
			t.Errorf("lookup of %s: %s", name, code)
		}
		if _, reply := g.connect(wire.EgressRequest{Name: name, Port: 5432}); reply.Code == wire.EgressOK {
			t.Errorf("%s: %+v", name, reply)
		}
	}
	if _, reply := g.connect(wire.EgressRequest{Name: "db.sandbox", Port: 22}); reply.Code != wire.EgressForbidden {
		t.Errorf("another port: %+v", reply)
	}
	s.SetRules(compile(t, cove.Network{Mode: cove.NetworkOpen}))
	ended(t, conn)
	if len(asked) != 1 || asked[0] != "db:5432" {
		t.Errorf("peers were asked for %v", asked)
	}
	for _, query := range func() []string { q, _ := w.seen(); return q }() {
		if strings.HasSuffix(query, ".sandbox") {
			t.Errorf("%s was asked of a name server", query)
		}
	}
	alone, _ := open(t, w, compile(t, allow("sandbox:db:5432")), nil)
	if code := alone.lookup("db.sandbox"); code != wire.EgressForbidden {
		t.Errorf("lookup without peers: %s", code)
	}
}

func TestAThousandConnectionsAreOpenAndTenThousandInTurnLeaveNothing(t *testing.T) {
	before := runtime.NumGoroutine()
	w := newWorld(t, someNames)
	g := newGuest(t)
	gateway, err := egress.New(egress.Options{Lookup: w.lookup, HostAddrs: func() []netip.Addr { return nil },
		Dial: func(context.Context, netip.AddrPort) (net.Conn, error) {
			a, b, err := socketPair()
			go echo(b)
			return a, err
		}})
	if err != nil {
		t.Fatal(err)
	}
	s := gateway.Open(egress.SessionOptions{Rules: compile(t, allow("a.example")), Spare: g.spare})
	conns := make([]net.Conn, 1000)
	for i := range conns {
		conns[i] = g.must("a.example", 443)
	}
	for _, conn := range conns {
		exchange(t, conn, "all at once")
	}
	if got := s.Status().Open; got != 1000 {
		t.Errorf("%d connections are open", got)
	}
	for _, conn := range conns {
		_ = conn.Close()
	}
	inTurn := 10_000
	if testing.Short() {
		inTurn = 1000
	}
	for range inTurn {
		conn := g.must("a.example", 443)
		exchange(t, conn, "one")
		_ = conn.Close()
	}
	await(t, "all have ended", func() bool { return s.Status().Open == 0 })
	if got := s.Status().Total; got != int64(1000+inTurn) {
		t.Errorf("%d connections in all", got)
	}
	if err := gateway.Close(); err != nil {
		t.Error(err)
	}
	await(t, "no goroutine is left", func() bool { return runtime.NumGoroutine() <= before+1 })
}

func TestSparesAreFewWhenIdleAndNeverMoreThanSixteen(t *testing.T) {
	w := newWorld(t, someNames)
	g, s := open(t, w, compile(t, allow("a.example")), nil)
	first := g.take()
	g.streams <- first
	await(t, "two wait", func() bool { return len(g.streams) == 2 })
	var inUse []net.Conn
	for range 200 {
		inUse = append(inUse, g.must("a.example", 443))
		if waiting := len(g.streams); waiting > 16 {
			t.Fatalf("%d streams wait", waiting)
		}
	}
	if got := s.Status().Open; got != len(inUse) {
		t.Errorf("%d connections are open", got)
	}
}

func TestASpareThatFailsIsOpenedAgainMoreSlowly(t *testing.T) {
	w := newWorld(t, someNames)
	var tries atomic.Int64
	var broken atomic.Bool
	broken.Store(true)
	g, _ := open(t, w, compile(t, allow("a.example")), func(_ *egress.Options, so *egress.SessionOptions) {
		spare := so.Spare
		so.Spare = func(ctx context.Context) (net.Conn, error) {
			tries.Add(1)
			if broken.Load() {
				return nil, errors.New("the agent is not there")
			}
			return spare(ctx)
		}
	})
	await(t, "it was tried three times", func() bool { return tries.Load() >= 3 })
	if got := tries.Load(); got > 10 {
		t.Errorf("%d tries in a row", got)
	}
	broken.Store(false)
	exchange(t, g.must("a.example", 443), "hello")
}

func TestHostileFramesEndTheirStreamAlone(t *testing.T) {
	w := newWorld(t, someNames)
	g, _ := open(t, w, compile(t, allow("a.example")), nil)
	for _, frame := range []string{
		"\xff\xff", "\x00\x02{]", "\x00\x00", "\x00\x04null\x00", "\x00\x10{\"port\":1e999999}", "\x00\x03[1]", "\x00\x05hello",
		"GET / HTTP/1.1\r\n\r\n",
	} {
		stream := g.take()
		_, _ = io.WriteString(stream, frame)
		_ = stream.(*net.UnixConn).CloseWrite()
		ended(t, stream)
	}
	exchange(t, g.must("a.example", 443), "still here")
}

func FuzzFrames(f *testing.F) {
	for _, seed := range []string{`{"kind":"lookup","name":"a.example"}`, `{"kind":"connect","name":"a.example","port":443}`, `{"kind":"connect","address":"::ffff:10.0.0.1","port":80}`, `null`, `[`} {
		f.Add([]byte(seed))
	}
	w := newWorld(f, someNames)
	gateway, err := egress.New(egress.Options{Lookup: w.lookup, Dial: w.dial})
	if err != nil {
		f.Fatal(err)
	}
	defer gateway.Close()
	rules := compile(f, allow("a.example"))
	f.Fuzz(func(t *testing.T, body []byte) {
		if len(body) > 4<<10 {
			return
		}
		g := newGuest(t)
		session := gateway.Open(egress.SessionOptions{Rules: rules, Spare: g.spare})
		stream := g.take()
		defer stream.Close()
		_, _ = stream.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(body))), body...))
		_ = stream.(*net.UnixConn).CloseWrite()
		ended(t, stream)
		_ = session.Close()
		_, dialled := w.seen()
		for _, to := range dialled {
			if to.Addr() != netip.MustParseAddr("1.1.1.1") || to.Port() != 443 && to.Port() != 80 {
				t.Fatalf("%q reached %s", body, to)
			}
		}
	})
}

// wrapped is a stream as the agent's client hands it out.
type wrapped struct {
	*net.UnixConn
	read *atomic.Int64
}

func (c *wrapped) Read(p []byte) (int, error) {
	n, err := c.UnixConn.Read(p)
	c.read.Add(int64(n))
	return n, err
}

func (c *wrapped) Bare() (net.Conn, bool) { return c.UnixConn, true }

func TestTheSocketBeneathAStreamIsWhatIsCopied(t *testing.T) {
	var read atomic.Int64
	g, _ := open(t, newWorld(t, someNames), compile(t, allow("a.example")), func(_ *egress.Options, so *egress.SessionOptions) {
		spare := so.Spare
		so.Spare = func(ctx context.Context) (net.Conn, error) {
			conn, err := spare(ctx)
			if err != nil {
				return nil, err
			}
			return &wrapped{conn.(*net.UnixConn), &read}, nil
		}
	})
	exchange(t, g.must("a.example", 443), strings.Repeat("x", 10_000))
	if got := read.Load(); got == 0 || got > 1000 {
		t.Errorf("%d bytes were read around it, want those of the request alone", got)
	}
}
