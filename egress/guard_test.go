package egress_test

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/covehq/cove"
	"github.com/covehq/cove/egress"
	"github.com/covehq/cove/guest/wire"
)

// hostAddr is the host's own address in these tests: public, so that nothing else keeps
// it from being reached.
const hostAddr = "192.0.3.77"

func withHostAddr(o *egress.Options, _ *egress.SessionOptions) {
	o.HostAddrs = func() []netip.Addr { return []netip.Addr{netip.MustParseAddr(hostAddr)} }
}

// forbidden are addresses that no mode reaches, in all of the forms in which they come.
var forbidden = []string{
	// T63: metadata services.
	"169.254.169.254", "168.63.129.16", "100.100.100.200", "fd00:ec2::254", "fd20:ce::254", "169.254.170.2", "192.0.0.192",
	// T64: the same, and others that are not public, in the forms of IPv6.
	"::ffff:169.254.169.254", "::ffff:a9fe:a9fe", "::169.254.169.254", "::a9fe:a9fe", "::ffff:0:169.254.169.254",
	"64:ff9b::169.254.169.254", "64:ff9b::a9fe:a9fe", "64:ff9b::10.0.0.1", "64:ff9b::127.0.0.1", "64:ff9b:1::169.254.169.254",
	"64:ff9b:1:a9fe:a9:fe00::", "2002:a9fe:a9fe::1", "2002:7f00:1::", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "64:ff9b::168.63.129.16",
	"::ffff:127.0.0.1", "::ffff:10.1.2.3", "::ffff:192.0.3.77", "64:ff9b::192.0.3.77",
	// Everything that is not public.
	"0.0.0.0", "0.1.2.3", "::", "::1", "127.0.0.1", "127.255.255.254", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1",
	"100.64.0.1", "100.127.255.255", "169.254.1.1", "192.0.0.1", "198.18.0.1", "198.19.255.255",
	"224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255", "192.88.99.1",
	"fe80::1", "febf::1", "fec0::1", "fc00::1", "fdff::1", "ff02::1", "100::1", "2001:2::1", "2001:10::1", "5f00::1",
	"4000::1", "1::1", "fe00::1",
	// T68: the host itself.
	hostAddr,
}

// public are addresses that are reached.
var public = []string{
	"1.1.1.1", "8.8.8.8", "172.15.255.255", "172.32.0.1", "100.63.255.255", "100.128.0.1", "192.0.3.76", "198.17.255.255", "198.20.0.1",
	"223.255.255.255", "2606:4700::1111", "2a00:1450:4001::1", "64:ff9b::8.8.8.8", "::ffff:8.8.8.8", "168.63.129.17",
}

func TestT63T64T65T68NoModeReachesWhatIsNotPublic(t *testing.T) {
	networks := map[string]cove.Network{
		"open":               {Mode: cove.NetworkOpen},
		"a whole name":       allow("name.example"),
		"a wildcard":         allow("*.example"),
		"all private opened": allow("*.example", "name.example"),
	}
	for title, n := range networks {
		t.Run(title, func(t *testing.T) {
			for i, text := range append(append([]string{}, forbidden...), public...) {
				w := newWorld(t, map[string]string{"name.example": text})
				g, s := open(t, w, compile(t, n), withHostAddr)
				want := wire.EgressForbidden
				if i >= len(forbidden) {
					want = wire.EgressOK
				}
				if code := g.lookup("name.example"); code != want {
					t.Errorf("lookup of a name at %s: %s", text, code)
				}
				if _, reply := g.connect(wire.EgressRequest{Name: "name.example", Port: 443}); reply.Code != want {
					t.Errorf("connect to a name at %s: %+v", text, reply)
				}
				if n.Mode == cove.NetworkOpen {
					if _, reply := g.connect(wire.EgressRequest{Address: text, Port: 443}); reply.Code != want {
						t.Errorf("connect to %s: %+v", text, reply)
					}
				}
				if _, dialled := w.seen(); len(dialled) > 0 && i < len(forbidden) {
					t.Errorf("%s was dialled: %v", text, dialled)
				}
				if i < len(forbidden) && !strings.Contains(events(s)[0].Reason, "name.example is not reached: ") {
					t.Errorf("reason: %s", events(s)[0].Reason)
				}
				_ = s.Close()
			}
		})
	}
}

// documentation are addresses of examples, which some networks have given to servers of
// their own.
var documentation = []string{"192.0.2.1", "198.51.100.1", "203.0.113.1", "2001:db8::1", "3fff::1", "64:ff9b::192.0.2.1"}

func TestADocumentationAddressIsReachedByItsNameAlone(t *testing.T) {
	for title, c := range map[string]struct {
		network cove.Network
		want    string
	}{
		"open":               {cove.Network{Mode: cove.NetworkOpen}, wire.EgressForbidden},
		"a wildcard":         {allow("*.example"), wire.EgressForbidden},
		"another whole name": {allow("other.example"), wire.EgressForbidden},
		"the whole name":     {allow("name.example"), wire.EgressOK},
	} {
		t.Run(title, func(t *testing.T) {
			for _, text := range documentation {
				w := newWorld(t, map[string]string{"name.example": text})
				g, s := open(t, w, compile(t, c.network), withHostAddr)
				if _, reply := g.connect(wire.EgressRequest{Name: "name.example", Port: 443}); reply.Code != c.want {
					t.Errorf("connect to a name at %s: %+v", text, reply)
				}
				if _, dialled := w.seen(); len(dialled) > 0 != (c.want == wire.EgressOK) {
					t.Errorf("dialled at %s: %v", text, dialled)
				}
				_ = s.Close()
			}
		})
	}
}

// spellings are what a program may write for an address, and a resolver may take for one:
// the forms of inet_aton, of RFC 6943 section 3.1.1, and some that are none.
var spellings = []string{
	"2852039166", "0xa9fea9fe", "0XA9FEA9FE", "025177524776", "169.254.43518", "169.16689662", "0xa9.0xfe.0xa9.0xfe",
	"0251.0376.0251.0376", "0251.254.169.254", "169.254.169.254.", "169.254.169.0xfe", "00000251.0376.0251.0376", "0xa9.254.0251.254",
	"169.254.0xa9fe", "2130706433", "0x7f000001", "017700000001", "127.1", "127.0.1", "0x7f.1", "0177.1", "0177.0.0.01", "127.0.0.1.",
	"0", "0.0", "0x0", "00", "0.0.0.0", "1", "4294967295", "4294967296", "256.256.256.256", "1.2.3.4.5", "0x", "a.0x", "foo.1", "name.example.127",
	"[::1]", "::1", "[::ffff:a9fe:a9fe]", "::ffff:169.254.169.254", "fd00:ec2::254", "fe80::1%eth0", "１２７.0.0.1", "127。0。0。1", "①②⑦.0.0.1",
	"169.254.169.254%00.name.example", "name.example#@169.254.169.254", "name.example\\.1", "-1", "+127.0.0.1", " 127.0.0.1", "127.0.0.1\n",
	"1e3.1", "127.0.0.1:80", "user@127.0.0.1", "*.name.example", "*", "..", ".", "name..example",
}

func TestT64ANameThatIsAnAddressInDisguiseIsNeverResolved(t *testing.T) {
	w := newWorld(t, nil)
	g, _ := open(t, w, compile(t, cove.Network{Mode: cove.NetworkOpen}), withHostAddr)
	for _, text := range spellings {
		if code := g.lookup(text); code != wire.EgressForbidden {
			t.Errorf("lookup of %q: %s", text, code)
		}
		if _, reply := g.connect(wire.EgressRequest{Name: text, Port: 443}); reply.Code != wire.EgressForbidden {
			t.Errorf("connect to the name %q: %+v", text, reply)
		}
	}
	for _, text := range spellings {
		if _, reply := g.connect(wire.EgressRequest{Address: text, Port: 443}); reply.Code != wire.EgressForbidden {
			t.Errorf("connect to the address %q: %+v", text, reply)
		}
	}
	if queries, dialled := w.seen(); len(queries)+len(dialled) != 0 {
		t.Errorf("the outside saw %q and %v", queries, dialled)
	}
}

func TestT65ANameThatIsBoundAnewIsCheckedAnewAndDialledAsChecked(t *testing.T) {
	w := newWorld(t, nil)
	w.names["name.example"] = []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("1.1.1.1"), netip.MustParseAddr("::ffff:127.0.0.1")}
	g, _ := open(t, w, compile(t, allow("name.example")), nil)
	exchange(t, g.must("name.example", 443), "hello")
	// A name server that answers something else to each query.
	w.mu.Lock()
	w.names["name.example"] = []netip.Addr{netip.MustParseAddr("10.0.0.1")}
	w.mu.Unlock()
	await(t, "the answer is asked for anew, and refused", func() bool {
		return g.lookup("name.example") == wire.EgressForbidden
	})
	if _, reply := g.connect(wire.EgressRequest{Name: "name.example", Port: 443}); reply.Code != wire.EgressForbidden {
		t.Errorf("connect: %+v", reply)
	}
	_, dialled := w.seen()
	for _, to := range dialled {
		if to.Addr() != netip.MustParseAddr("1.1.1.1") {
			t.Errorf("dialled %s, which is not the address that was checked", to)
		}
	}
}

func TestWhatTheOperatorOpensIsReachedOnlyByRulesThatNameIt(t *testing.T) {
	private := []string{"10.0.0.0/8", "fd00::/16", hostAddr + "/32", "127.0.0.1/32", "169.254.0.0/16", "100.64.0.0/10"}
	for _, test := range []struct {
		title string
		n     cove.Network
		to    wire.EgressRequest
		at    string
		code  string
	}{
		{"a whole name", allow("name.example"), wire.EgressRequest{Name: "name.example"}, "10.1.2.3", wire.EgressOK},
		{"a whole name at IPv6", allow("name.example"), wire.EgressRequest{Name: "name.example"}, "fd00::1", wire.EgressOK},
		{"an address", allow("10.1.2.3"), wire.EgressRequest{Address: "10.1.2.3"}, "", wire.EgressOK},
		{"a range", allow("10.1.0.0/16"), wire.EgressRequest{Address: "10.1.2.3"}, "", wire.EgressOK},
		{"a wildcard", allow("*.example"), wire.EgressRequest{Name: "name.example"}, "10.1.2.3", wire.EgressForbidden},
		{"open", cove.Network{Mode: cove.NetworkOpen}, wire.EgressRequest{Name: "name.example"}, "10.1.2.3", wire.EgressForbidden},
		{"open, by address", cove.Network{Mode: cove.NetworkOpen}, wire.EgressRequest{Address: "10.1.2.3"}, "", wire.EgressForbidden},
		{"open, with a rule beside", cove.Network{Mode: cove.NetworkOpen, Allow: []string{"name.example"}}, wire.EgressRequest{Name: "name.example"}, "10.1.2.3", wire.EgressOK},
		{"another range", allow("name.example"), wire.EgressRequest{Name: "name.example"}, "192.168.1.1", wire.EgressForbidden},
		{"the host, opened by itself", allow("name.example"), wire.EgressRequest{Name: "name.example"}, hostAddr, wire.EgressOK},
		{"loopback, opened by itself", allow("name.example"), wire.EgressRequest{Name: "name.example"}, "127.0.0.1", wire.EgressOK},
		{"loopback, another", allow("name.example"), wire.EgressRequest{Name: "name.example"}, "127.0.0.2", wire.EgressForbidden},
		{"the host, by a wildcard", allow("*.example"), wire.EgressRequest{Name: "name.example"}, hostAddr, wire.EgressForbidden},
		{"link-local", allow("name.example"), wire.EgressRequest{Name: "name.example"}, "169.254.1.1", wire.EgressForbidden},
		{"metadata", allow("name.example"), wire.EgressRequest{Name: "name.example"}, "169.254.169.254", wire.EgressForbidden},
		{"metadata in a range that is opened", allow("name.example"), wire.EgressRequest{Name: "name.example"}, "100.100.100.200", wire.EgressForbidden},
		{"metadata in a range that is opened, IPv6", allow("name.example"), wire.EgressRequest{Name: "name.example"}, "fd00:ec2::254", wire.EgressForbidden},
	} {
		t.Run(test.title, func(t *testing.T) {
			w := newWorld(t, nil)
			if test.at != "" {
				w.names["name.example"] = []netip.Addr{netip.MustParseAddr(test.at)}
			}
			g, _ := open(t, w, compile(t, test.n, private...), func(o *egress.Options, so *egress.SessionOptions) {
				withHostAddr(o, so)
				o.Private = func() []netip.Prefix { return prefixes(private) }
			})
			test.to.Port = 443
			if _, reply := g.connect(test.to); reply.Code != test.code {
				t.Errorf("got %+v, want %s", reply, test.code)
			}
		})
	}
}

func TestT68NoListenerOfTheHostIsReached(t *testing.T) {
	listener, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	port := listener.Addr().(*net.TCPAddr).Port
	accepted := make(chan net.Conn, 100)
	go func() {
		defer close(accepted)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			accepted <- conn
		}
	}()
	list, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	own := []string{"127.0.0.1", "127.9.9.9", "0.0.0.0", "::1", "::"}
	for _, entry := range list {
		own = append(own, netip.MustParsePrefix(entry.String()).Addr().WithZone("").String())
	}
	// Everything that could be opened is, and still no address of the host is let through:
	// not by the list of its interfaces, nor without that by what the kernel made of it.
	everything := []string{"0.0.0.0/0", "::/0"}
	for _, known := range []bool{true, false} {
		for i, text := range own {
			w := newWorld(t, map[string]string{"name.example": text})
			g, _ := open(t, w, compile(t, allow(fmt.Sprintf("name.example:%d", port)), everything...), func(o *egress.Options, _ *egress.SessionOptions) {
				o.Private, o.Dial = func() []netip.Prefix { return prefixes(everything) }, nil
				if o.HostAddrs = nil; !known {
					o.HostAddrs = func() []netip.Addr { return nil }
				}
			})
			if conn, reply := g.connect(wire.EgressRequest{Name: "name.example", Port: port}); reply.Code == wire.EgressOK {
				_, _ = conn.Write([]byte("x"))
				t.Errorf("%d: %s was reached", i, text)
			}
		}
	}
	_ = listener.Close()
	for conn := range accepted {
		if n, _ := conn.Read(make([]byte, 1)); n > 0 {
			t.Errorf("a program inside sent something to %s", conn.LocalAddr())
		}
		_ = conn.Close()
	}
}
