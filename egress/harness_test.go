package egress_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/egress"
	"github.com/covehq/cove/guest/wire"
)

// patience bounds what a test waits for; it is no measure of speed.
const patience = 20 * time.Second

// guest is the agent's side of a session: it has the streams that the host opened.
type guest struct {
	t       testing.TB
	streams chan net.Conn
}

func newGuest(t testing.TB) *guest { return &guest{t: t, streams: make(chan net.Conn, 4096)} }

// spare is a SessionOptions.Spare.
func (g *guest) spare(context.Context) (net.Conn, error) {
	host, agent, err := socketPair()
	if err != nil {
		return nil, err
	}
	g.streams <- agent
	return host, nil
}

// socketPair returns two connected unix sockets.
func socketPair() (a, b *net.UnixConn, err error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	var ends [2]*net.UnixConn
	for i, fd := range fds {
		file := os.NewFile(uintptr(fd), "pair")
		conn, err := net.FileConn(file)
		_ = file.Close()
		if err != nil {
			return nil, nil, err
		}
		ends[i] = conn.(*net.UnixConn)
	}
	return ends[0], ends[1], nil
}

// take returns a spare stream.
func (g *guest) take() net.Conn {
	g.t.Helper()
	select {
	case stream := <-g.streams:
		return stream
	case <-time.After(patience):
		g.t.Fatal("the host opens no spare stream")
		return nil
	}
}

// ask sends a request on a stream.
func (g *guest) ask(stream net.Conn, request wire.EgressRequest) wire.EgressReply {
	g.t.Helper()
	reply, err := ask(stream, request)
	if err != nil {
		g.t.Fatalf("ask %+v: %v", request, err)
	}
	return reply
}

func ask(stream net.Conn, request wire.EgressRequest) (reply wire.EgressReply, err error) {
	_ = stream.SetDeadline(time.Now().Add(patience))
	defer stream.SetDeadline(time.Time{})
	if err := wire.WriteFrame(stream, request); err != nil {
		return reply, err
	}
	return reply, wire.ReadFrame(stream, &reply)
}

// asked sends a request on a spare stream, and as an agent does on the next where that one
// has been closed since it was given: too many waited.
func (g *guest) asked(request wire.EgressRequest) (net.Conn, wire.EgressReply) {
	g.t.Helper()
	for tries := 0; ; tries++ {
		stream := g.take()
		reply, err := ask(stream, request)
		if err == nil {
			return stream, reply
		}
		_ = stream.Close()
		if tries == 100 || !errors.Is(err, io.EOF) && !errors.Is(err, syscall.EPIPE) && !errors.Is(err, syscall.ECONNRESET) {
			g.t.Fatalf("ask %+v: %v", request, err)
		}
	}
}

// lookup asks for a name and returns the code of the answer.
func (g *guest) lookup(name string) string {
	g.t.Helper()
	stream, reply := g.asked(wire.EgressRequest{Kind: wire.EgressLookup, Name: name})
	g.streams <- stream
	return reply.Code
}

// connect asks for a connection; the stream is one only if the answer is ok.
func (g *guest) connect(request wire.EgressRequest) (net.Conn, wire.EgressReply) {
	g.t.Helper()
	request.Kind = wire.EgressConnect
	stream, reply := g.asked(request)
	if reply.Code != wire.EgressOK {
		g.streams <- stream
		return nil, reply
	}
	g.t.Cleanup(func() { _ = stream.Close() })
	return stream, reply
}

// must is connect where the answer has to be ok.
func (g *guest) must(name string, port int) net.Conn {
	g.t.Helper()
	stream, reply := g.connect(wire.EgressRequest{Name: name, Port: port})
	if reply.Code != wire.EgressOK {
		g.t.Fatalf("connect to %s:%d: %+v", name, port, reply)
	}
	return stream
}

// world is the outside: names, and one sinkhole behind every address, which notes where
// connections were to go.
type world struct {
	t testing.TB

	mu      sync.Mutex
	names   map[string][]netip.Addr
	queries []string
	dialled []netip.AddrPort
	serve   func(net.Conn)
	refuse  map[netip.Addr]error
}

func newWorld(t testing.TB, names map[string]string) *world {
	w := &world{t: t, names: map[string][]netip.Addr{}, refuse: map[netip.Addr]error{}, serve: echo}
	for name, addr := range names {
		w.names[name] = []netip.Addr{netip.MustParseAddr(addr)}
	}
	return w
}

// echo sends back what comes, and ends when that ends.
func echo(conn net.Conn) {
	_, _ = io.Copy(conn, conn)
	_ = conn.Close()
}

func (w *world) lookup(_ context.Context, name string) ([]netip.Addr, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.queries = append(w.queries, name)
	addrs, ok := w.names[name]
	if !ok {
		return nil, &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
	}
	return slices.Clone(addrs), nil
}

// dial connects to the sinkhole by TCP on loopback, as a real server would be.
func (w *world) dial(ctx context.Context, addr netip.AddrPort) (net.Conn, error) {
	w.mu.Lock()
	w.dialled = append(w.dialled, addr)
	serve, err := w.serve, w.refuse[addr.Addr()]
	w.mu.Unlock()
	if err != nil {
		return nil, err
	}
	client, server := tcpPair(w.t)
	go serve(server)
	return client, nil
}

func (w *world) seen() (queries []string, dialled []netip.AddrPort) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.queries), slices.Clone(w.dialled)
}

// tcpPair returns the two ends of a connection on loopback.
func tcpPair(t testing.TB) (client, server *net.TCPConn) {
	listener, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Error(err)
		return nil, nil
	}
	defer listener.Close()
	if client, err = net.DialTCP("tcp", nil, listener.Addr().(*net.TCPAddr)); err != nil {
		t.Error(err)
		return nil, nil
	}
	if server, err = listener.AcceptTCP(); err != nil {
		t.Error(err)
	}
	return client, server
}

// compile returns rules that must be valid.
func compile(t testing.TB, n cove.Network, private ...string) *egress.Rules {
	t.Helper()
	rules, err := egress.Compile(n, egress.CompileOptions{Private: prefixes(private)})
	if err != nil {
		t.Fatal(err)
	}
	return rules
}

func prefixes(texts []string) []netip.Prefix {
	var list []netip.Prefix
	for _, text := range texts {
		list = append(list, netip.MustParsePrefix(text))
	}
	return list
}

// allow is a network that allows some rules.
func allow(rules ...string) cove.Network {
	return cove.Network{Mode: cove.NetworkAllow, Allow: rules}
}

// open makes a gateway to a world and a session in it, both closed at the end.
func open(t testing.TB, w *world, rules *egress.Rules, change func(*egress.Options, *egress.SessionOptions)) (*guest, *egress.Session) {
	t.Helper()
	g := newGuest(t)
	o := egress.Options{
		Lookup: w.lookup, Dial: w.dial, HostAddrs: func() []netip.Addr { return nil },
		Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
	so := egress.SessionOptions{ID: "sb-1", Rules: rules, Spare: g.spare}
	if change != nil {
		change(&o, &so)
	}
	gateway, err := egress.New(o)
	if err != nil {
		t.Fatal(err)
	}
	session := gateway.Open(so)
	t.Cleanup(func() {
		if err := gateway.Close(); err != nil {
			t.Error(err)
		}
	})
	return g, session
}

// exchange sends text and reads the same back.
func exchange(t testing.TB, conn net.Conn, text string) {
	t.Helper()
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != text {
		t.Fatalf("got %q, %v; want %q", got, err, text)
	}
}

// await waits until a condition holds.
func await(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

// ended reads to the end of a connection that is to be over.
func ended(t testing.TB, conn net.Conn) []byte {
	t.Helper()
	_ = conn.SetDeadline(time.Now().Add(patience))
	var got bytes.Buffer
	_, err := io.Copy(&got, conn)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal("the connection does not end")
	}
	return got.Bytes()
}

// events returns the log of a session.
func events(s *egress.Session) []cove.NetworkEvent {
	list, _, _ := s.Log(0)
	return list
}
