package outward

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/covehq/cove/guest/wire"
)

// newResolver returns a way out that has a resolver on ports of this machine's, and nothing
// else.
func newResolver(t *testing.T, answer func(name string) string) (*Way, dnsPorts) {
	t.Helper()
	w := &Way{names: newNames(reachable), refused: newNames(unreachable), enabled: true, spares: newPool(),
		own: map[uint16]bool{}, open: map[net.Conn]struct{}{}, asked: make(chan string, maxAsked), cancel: func() {}}
	w.lookups = newLookups(answer)
	ports, err := w.serveDNS("127.0.0.1", 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.Close() })
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.setDoor(w.queries); err != nil {
		t.Fatal(err)
	}
	return w, ports
}

// ask makes a query.
func ask(t *testing.T, kind dnsmessage.Type, names ...string) []byte {
	t.Helper()
	message := dnsmessage.Message{Header: dnsmessage.Header{ID: 4711, RecursionDesired: true}}
	for _, name := range names {
		message.Questions = append(message.Questions, dnsmessage.Question{Name: dnsmessage.MustNewName(name), Type: kind, Class: dnsmessage.ClassINET})
	}
	packet, err := message.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return packet
}

// byUDP sends a packet and returns the reply.
func byUDP(t *testing.T, ports dnsPorts, packet []byte) (dnsmessage.Message, error) {
	t.Helper()
	c, err := net.Dial("udp4", fmt.Sprintf("127.0.0.1:%d", ports.udp))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write(packet); err != nil {
		t.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	buffer := make([]byte, 4096)
	n, err := c.Read(buffer)
	var message dnsmessage.Message
	if err == nil {
		err = message.Unpack(buffer[:n])
	}
	return message, err
}

// byTCP sends a packet on a stream and returns the reply.
func byTCP(c net.Conn, packet []byte) (message dnsmessage.Message, err error) {
	if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(packet))), packet...)); err != nil {
		return message, err
	}
	var size [2]byte
	if _, err := io.ReadFull(c, size[:]); err != nil {
		return message, err
	}
	reply := make([]byte, binary.BigEndian.Uint16(size[:]))
	if _, err := io.ReadFull(c, reply); err != nil {
		return message, err
	}
	return message, message.Unpack(reply)
}

func TestAnswersOfTheResolver(t *testing.T) {
	codes := map[string]string{"ok.test": wire.EgressOK, "no.test": wire.EgressForbidden, "none.test": wire.EgressNotFound, "bad.test": wire.EgressUnavailable}
	_, ports := newResolver(t, func(name string) string { return codes[name] })
	for _, test := range []struct {
		name string
		kind dnsmessage.Type
		code dnsmessage.RCode
		in   netip.Prefix // of the one address; invalid: no address
	}{
		{"ok.test.", dnsmessage.TypeA, dnsmessage.RCodeSuccess, reachable},
		{"OK.Test.", dnsmessage.TypeA, dnsmessage.RCodeSuccess, reachable},
		{"ok.test.", dnsmessage.TypeALL, dnsmessage.RCodeSuccess, reachable},
		{"ok.test.", dnsmessage.TypeAAAA, dnsmessage.RCodeSuccess, netip.Prefix{}},
		{"ok.test.", dnsmessage.TypeMX, dnsmessage.RCodeSuccess, netip.Prefix{}},
		{"ok.test.", 65, dnsmessage.RCodeSuccess, netip.Prefix{}},
		{"no.test.", dnsmessage.TypeA, dnsmessage.RCodeSuccess, unreachable},
		{"no.test.", dnsmessage.TypeAAAA, dnsmessage.RCodeSuccess, netip.Prefix{}},
		{"none.test.", dnsmessage.TypeA, dnsmessage.RCodeNameError, netip.Prefix{}},
		{"none.test.", dnsmessage.TypeAAAA, dnsmessage.RCodeNameError, netip.Prefix{}},
		{"bad.test.", dnsmessage.TypeA, dnsmessage.RCodeServerFailure, netip.Prefix{}},
		{"localhost.", dnsmessage.TypeA, dnsmessage.RCodeSuccess, loopback},
		{"a.localhost.", dnsmessage.TypeA, dnsmessage.RCodeSuccess, loopback},
		{"1.0.18.198.in-addr.arpa.", dnsmessage.TypePTR, dnsmessage.RCodeNameError, netip.Prefix{}},
		{"a b.test.", dnsmessage.TypeA, dnsmessage.RCodeNameError, netip.Prefix{}},
		{".", dnsmessage.TypeNS, dnsmessage.RCodeNameError, netip.Prefix{}},
	} {
		t.Run(fmt.Sprintf("%s of %s", test.kind, test.name), func(t *testing.T) {
			reply, err := byUDP(t, ports, ask(t, test.kind, test.name))
			if err != nil {
				t.Fatal(err)
			}
			if reply.ID != 4711 || !reply.Response || !reply.RecursionAvailable || reply.RCode != test.code {
				t.Errorf("header: got %+v, want %v", reply.Header, test.code)
			}
			if len(reply.Questions) != 1 || reply.Questions[0].Name.String() != test.name {
				t.Errorf("questions: got %v, want the one that was asked", reply.Questions)
			}
			if !test.in.IsValid() {
				if len(reply.Answers) > 0 {
					t.Errorf("answers: got %v, want none", reply.Answers)
				}
				return
			}
			if len(reply.Answers) != 1 {
				t.Fatalf("answers: got %v, want one", reply.Answers)
			}
			a, ok := reply.Answers[0].Body.(*dnsmessage.AResource)
			if !ok || !test.in.Contains(netip.AddrFrom4(a.A)) {
				t.Errorf("answer: got %v, want one in %v", reply.Answers[0].Body, test.in)
			}
			if ttl := reply.Answers[0].Header.TTL; ttl < 1 || ttl > 5 {
				t.Errorf("time to live: got %d, want 1 to 5", ttl)
			}
		})
	}
}

func TestNoNameIsFoundWhereNothingMayBeReached(t *testing.T) {
	w, ports := newResolver(t, func(string) string { return wire.EgressOK })
	w.mu.Lock()
	w.enabled = false
	w.mu.Unlock()
	reply, err := byUDP(t, ports, ask(t, dnsmessage.TypeA, "ok.test."))
	if err != nil || reply.RCode != dnsmessage.RCodeNameError || len(reply.Answers) > 0 {
		t.Errorf("got %+v, %v, want that there is no such name", reply, err)
	}
	if got := <-w.asked; got != "ok.test" {
		t.Errorf("told: got %q, want the name", got)
	}
	for range 3 * maxAsked { // more than there is room for
		if _, err := byUDP(t, ports, ask(t, dnsmessage.TypeA, "ok.test.")); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTheResolverOutlivesWhatIsNoQuery(t *testing.T) {
	_, ports := newResolver(t, func(string) string { return wire.EgressOK })
	good := ask(t, dnsmessage.TypeA, "ok.test.")
	reply := append([]byte(nil), good...)
	reply[2] |= 0x80
	update := append([]byte(nil), good...)
	update[2] = 5 << 3
	chaos := append([]byte(nil), good...)
	chaos[len(chaos)-1] = 3
	loop := append([]byte(nil), good[:12]...)
	loop = append(loop, 0xc0, 12, 0, 1, 0, 1)
	for name, test := range map[string]struct {
		packet []byte
		code   dnsmessage.RCode // of the reply; 0: silence
	}{
		"nothing":           {[]byte{}, 0},
		"half a header":     {good[:7], 0},
		"a reply":           {reply, 0},
		"an update":         {update, dnsmessage.RCodeNotImplemented},
		"another class":     {chaos, dnsmessage.RCodeNotImplemented},
		"no question":       {ask(t, dnsmessage.TypeA), dnsmessage.RCodeFormatError},
		"two questions":     {ask(t, dnsmessage.TypeA, "a.test.", "b.test."), dnsmessage.RCodeFormatError},
		"half a question":   {good[:15], dnsmessage.RCodeFormatError},
		"a name in a loop":  {loop, dnsmessage.RCodeFormatError},
		"more than a query": {append(append([]byte(nil), good...), make([]byte, 60000)...), 0},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := net.Dial("udp4", fmt.Sprintf("127.0.0.1:%d", ports.udp))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			buffer := make([]byte, 4096)
			for _, packet := range [][]byte{test.packet, good} { // the good one's reply comes last
				if _, err := c.Write(packet); err != nil {
					t.Fatal(err)
				}
			}
			_ = c.SetDeadline(time.Now().Add(10 * time.Second))
			for {
				n, err := c.Read(buffer)
				if err != nil {
					t.Fatal(err)
				}
				var parser dnsmessage.Parser
				header, err := parser.Start(buffer[:n])
				if err != nil {
					t.Fatal(err)
				}
				if header.RCode == dnsmessage.RCodeSuccess {
					break
				}
				if header.RCode != test.code {
					t.Errorf("got %v, want %v", header.RCode, test.code)
				}
			}
		})
	}
}

func TestQueriesByTCP(t *testing.T) {
	_, ports := newResolver(t, func(string) string { return wire.EgressOK })
	c, err := net.Dial("tcp4", fmt.Sprintf("127.0.0.1:%d", ports.tcp))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	for range 3 {
		if reply, err := byTCP(c, ask(t, dnsmessage.TypeA, "ok.test.")); err != nil || len(reply.Answers) != 1 {
			t.Errorf("got %+v, %v, want one address", reply, err)
		}
	}
	if _, err := c.Write([]byte{0xff, 0xff}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("after a query of 65535 bytes: got a reply, want an end")
	}
}

func TestTheHostIsAskedOnceForAllWhoAskAtATime(t *testing.T) {
	asked, release := make(chan string, 100), make(chan struct{})
	l := newLookups(func(name string) string {
		asked <- name
		<-release
		return wire.EgressOK
	})
	answers := make(chan string)
	for range 20 {
		go func() { answers <- l.find("name.test") }()
	}
	<-asked
	close(release)
	for range 20 {
		if got := <-answers; got != wire.EgressOK {
			t.Errorf("got %q, want ok", got)
		}
	}
	if len(asked) > 0 {
		t.Errorf("the host was asked %d times more, want once", len(asked))
	}
	l.forget()
	l.find("name.test")
	if len(asked) != 1 {
		t.Errorf("after the policy changed: the host was asked %d times, want once", len(asked))
	}
}

func TestLookupsAreBounded(t *testing.T) {
	release := make(chan struct{})
	l := newLookups(func(string) string { <-release; return wire.EgressOK })
	answers := make(chan string, 10*maxAsking)
	for i := range maxAsking + 50 {
		go func() { answers <- l.find(fmt.Sprintf("name%d.test", i)) }()
	}
	for range 50 {
		if got := <-answers; got != wire.EgressUnavailable {
			t.Errorf("got %q, want unavailable", got)
		}
	}
	close(release)
	for range maxAsking {
		if got := <-answers; got != wire.EgressOK {
			t.Errorf("got %q, want ok", got)
		}
	}
}

func TestNamesKeepTheirAddresses(t *testing.T) {
	n := newNames(reachable)
	first := n.address("first.test")
	if got := n.name(first); got != "first.test" {
		t.Errorf("name of %v: got %q, want first.test", first, got)
	}
	given := map[netip.Addr]string{first: "first.test"}
	for i := range 3 * maxNames {
		name := fmt.Sprintf("name%d.test", i)
		addr := n.address(name)
		if !reachable.Contains(addr) || addr.As4()[2] == 0 && addr.As4()[3] < firstHost {
			t.Fatalf("address of %s: got %v", name, addr)
		}
		if other, taken := given[addr]; taken {
			t.Fatalf("address of %s: got %v, which %s had %d names before", name, addr, other, i)
		}
		given[addr] = name
		if n.address(name) != addr || n.address("first.test") != first { // which is in use, and so stays
			t.Fatalf("after %s: an address has changed", name)
		}
	}
	if got := len(n.byName); got > maxNames || got != len(n.byAddr) || got != n.recency.Len() {
		t.Errorf("names that are kept: got %d, %d, %d, want the same, up to %d", got, len(n.byAddr), n.recency.Len(), maxNames)
	}
	if got := n.name(n.at(firstHost + 1)); got != "" {
		t.Errorf("name of an address that was taken back: got %q, want none", got)
	}
}

func TestNamesThatAHostMayHave(t *testing.T) {
	long := strings.Repeat("a", 63)
	for name, want := range map[string]string{
		"Example.COM.": "example.com", "a": "a", "_srv.x-y.test": "_srv.x-y.test", "xn--bcher-kva.test": "xn--bcher-kva.test",
		long + ".test": long + ".test", "10.0.0.1": "10.0.0.1",
		"": "", ".": "", "a..b": "", "-a.test": "", "a-.test": "", "a b": "", "a\x00b": "", "a/b": "", "é.test": "", "*.test": "",
		long + "a.test": "", strings.Repeat("abcdefg.", 32) + "test": "",
	} {
		if got, ok := cleanName(name); got != want || ok != (want != "") {
			t.Errorf("%q: got %q, %v, want %q", name, got, ok, want)
		}
	}
}
