package egress_test

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/covehq/cove"
	"github.com/covehq/cove/egress"
	"github.com/covehq/cove/guest/wire"
)

// nameServer answers A and AAAA queries by UDP, with nothing but the mark that the answer
// is too long for it, and whole by TCP on the same port.
type nameServer struct {
	addr  string
	names map[string]netip.Addr

	mu      sync.Mutex
	queries map[string]int // by "network name"
}

func newNameServer(t *testing.T, names map[string]string) *nameServer {
	t.Helper()
	stream, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	packets, err := net.ListenPacket("udp", stream.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s := &nameServer{addr: stream.Addr().String(), names: map[string]netip.Addr{}, queries: map[string]int{}}
	for name, addr := range names {
		s.names[name+"."] = netip.MustParseAddr(addr)
	}
	var serving sync.WaitGroup
	serving.Go(func() { s.udp(packets) })
	serving.Go(func() { s.tcp(stream) })
	t.Cleanup(func() {
		_ = stream.Close()
		_ = packets.Close()
		serving.Wait()
	})
	return s
}

func (s *nameServer) udp(packets net.PacketConn) {
	buffer := make([]byte, 1500)
	for {
		n, from, err := packets.ReadFrom(buffer)
		if err != nil {
			return
		}
		_, _ = packets.WriteTo(s.answer("udp", buffer[:n]), from)
	}
}

func (s *nameServer) tcp(stream net.Listener) {
	for {
		conn, err := stream.Accept()
		if err != nil {
			return
		}
		var size [2]byte
		if _, err := io.ReadFull(conn, size[:]); err == nil {
			query := make([]byte, binary.BigEndian.Uint16(size[:]))
			if _, err := io.ReadFull(conn, query); err == nil {
				answer := s.answer("tcp", query)
				_, _ = conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...))
			}
		}
		_ = conn.Close()
	}
}

func (s *nameServer) answer(network string, query []byte) []byte {
	var m dnsmessage.Message
	if m.Unpack(query) != nil || len(m.Questions) != 1 {
		return nil
	}
	q := m.Questions[0]
	s.mu.Lock()
	s.queries[network+" "+q.Name.String()]++
	s.mu.Unlock()
	addr, ok := s.names[q.Name.String()]
	m.Response, m.Additionals, m.Truncated = true, nil, network == "udp"
	switch head := (dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 1}); {
	case !ok:
		m.RCode = dnsmessage.RCodeNameError
	case network == "tcp" && q.Type == dnsmessage.TypeA && addr.Is4():
		m.Answers = append(m.Answers, dnsmessage.Resource{Header: head, Body: &dnsmessage.AResource{A: addr.As4()}})
	case network == "tcp" && q.Type == dnsmessage.TypeAAAA && addr.Is6():
		m.Answers = append(m.Answers, dnsmessage.Resource{Header: head, Body: &dnsmessage.AAAAResource{AAAA: addr.As16()}})
	}
	packed, _ := m.Pack()
	return packed
}

func TestT62TheOperatorsNameServerIsAskedAndOnlyForWhatIsAllowed(t *testing.T) {
	server := newNameServer(t, map[string]string{
		"a.example": "1.1.1.1", "six.example": "2606:4700::1111", "inside.example": "192.168.7.7", "secret.evil.example": "1.1.1.2",
	})
	w := newWorld(t, nil)
	g, _ := open(t, w, compile(t, allow("*.example")), func(o *egress.Options, _ *egress.SessionOptions) {
		o.Lookup, o.Resolver = nil, server.addr
	})
	for name, want := range map[string]string{
		"a.example": wire.EgressOK, "six.example": wire.EgressOK, "inside.example": wire.EgressForbidden, "gone.example": wire.EgressNotFound,
		"evil.test": wire.EgressForbidden, "a": wire.EgressForbidden,
	} {
		if code := g.lookup(name); code != want {
			t.Errorf("%s: %s, want %s", name, code, want)
		}
	}
	exchange(t, g.must("six.example", 443), "hello")
	if _, dialled := w.seen(); len(dialled) != 1 || dialled[0].Addr() != netip.MustParseAddr("2606:4700::1111") {
		t.Errorf("dialled %v", dialled)
	}
	server.mu.Lock()
	defer server.mu.Unlock()
	for query := range server.queries {
		switch query {
		case "udp a.example.", "udp six.example.", "udp inside.example.", "udp gone.example.",
			"tcp a.example.", "tcp six.example.", "tcp inside.example.", "tcp gone.example.":
		default:
			t.Errorf("the name server was asked: %s", query)
		}
	}
}

func TestANameServerThatDoesNotAnswerIsNoRefusal(t *testing.T) {
	packets, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = packets.Close() // so that the port is closed
	g, s := open(t, newWorld(t, nil), compile(t, allow("a.example")), func(o *egress.Options, _ *egress.SessionOptions) {
		o.Lookup, o.Resolver = nil, packets.LocalAddr().String()
	})
	if code := g.lookup("a.example"); code != wire.EgressUnavailable {
		t.Errorf("lookup: %s", code)
	}
	if _, reply := g.connect(wire.EgressRequest{Name: "a.example", Port: 443}); reply.Code != wire.EgressUnavailable {
		t.Errorf("connect: %+v", reply)
	}
	if list := events(s); len(list) != 1 || list[0].Kind != cove.NetworkConnection || list[0].Rule != "a.example" {
		t.Errorf("events: %+v", list)
	}
}

func TestCloseDoesNotWaitForWhatHangs(t *testing.T) {
	looking := make(chan struct{}, 100)
	g := newGuest(t)
	gateway, err := egress.New(egress.Options{
		Lookup: func(ctx context.Context, name string) ([]netip.Addr, error) {
			looking <- struct{}{}
			if name == "dial.example" {
				return []netip.Addr{netip.MustParseAddr("1.1.1.1"), netip.MustParseAddr("1.1.1.2")}, nil
			}
			<-ctx.Done()
			return nil, ctx.Err()
		},
		Dial: func(ctx context.Context, _ netip.AddrPort) (net.Conn, error) {
			looking <- struct{}{}
			<-ctx.Done()
			return nil, ctx.Err()
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	s := gateway.Open(egress.SessionOptions{Rules: compile(t, allow("*.example")), Spare: g.spare})
	for _, request := range []wire.EgressRequest{
		{Kind: wire.EgressLookup, Name: "lookup.example"},
		{Kind: wire.EgressConnect, Name: "connect.example", Port: 443},
		{Kind: wire.EgressConnect, Name: "dial.example", Port: 443},
	} {
		if err := wire.WriteFrame(g.take(), request); err != nil {
			t.Fatal(err)
		}
	}
	for range 5 {
		<-looking
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := gateway.Close(); err != nil {
		t.Error(err)
	}
	if err := gateway.Open(egress.SessionOptions{Spare: g.spare}).Close(); err != nil {
		t.Error(err)
	}
}

func TestAHostileGuestHasABoundedNumberOfLookupsUnderWay(t *testing.T) {
	var mu sync.Mutex
	under, most := 0, 0
	release := make(chan struct{})
	w := newWorld(t, nil)
	g, _ := open(t, w, compile(t, cove.Network{Mode: cove.NetworkOpen}), func(o *egress.Options, _ *egress.SessionOptions) {
		o.Lookup = func(ctx context.Context, name string) ([]netip.Addr, error) {
			mu.Lock()
			under++
			most = max(most, under)
			mu.Unlock()
			<-release
			mu.Lock()
			under--
			mu.Unlock()
			return []netip.Addr{netip.MustParseAddr("1.1.1.1")}, nil
		}
	})
	var asked []net.Conn
	for i := range 64 {
		stream := g.take()
		asked = append(asked, stream)
		if err := wire.WriteFrame(stream, wire.EgressRequest{Kind: wire.EgressLookup, Name: string(rune('a'+i%26)) + string(rune('a'+i/26)) + ".example"}); err != nil {
			t.Fatal(err)
		}
	}
	await(t, "lookups are under way", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return under == 16
	})
	close(release)
	for _, stream := range asked {
		var reply wire.EgressReply
		if err := wire.ReadFrame(stream, &reply); err != nil || reply.Code != wire.EgressOK {
			t.Fatalf("%+v, %v", reply, err)
		}
	}
	if most > 16 {
		t.Errorf("%d lookups at the same time", most)
	}
}
