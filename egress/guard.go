package egress

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// special is a block of addresses that is not of the public internet.
type special struct {
	prefix netip.Prefix
	what   string
	opens  opening
}

// opening says who may open a block.
type opening int

const (
	never     opening = iota
	ifPrivate         // Options.Private, and a rule that names it
	reserved          // the same; a rule may name it without that, to no effect
	// ifNamed is a rule that names it. Nobody's network is where documentation addresses
	// are, but for those who use them for servers of their own, such as mirrors.
	ifNamed
)

// specials are those of the IANA's registries of special-purpose addresses,
// https://www.iana.org/assignments/iana-ipv4-special-registry and
// https://www.iana.org/assignments/iana-ipv6-special-registry, that are not globally
// reachable, with what is not unicast at all and the blocks that carry IPv4 addresses in
// IPv6 (nobody needs to be reached by them, and they hide where they lead). Blocks in
// them that are globally reachable (2001:4:112::/48 and the like) serve no program and
// are not let out of the larger ones. Of IPv6, everything outside of 2000::/3 is refused
// as well: no other block is global unicast today.
var specials = []special{
	{netip.MustParsePrefix("0.0.0.0/8"), "an address of this network", never},
	{netip.MustParsePrefix("10.0.0.0/8"), "a private address", ifPrivate},
	{netip.MustParsePrefix("100.64.0.0/10"), "a shared address of a carrier's", ifPrivate},
	{netip.MustParsePrefix("127.0.0.0/8"), "a loopback address", never},
	{netip.MustParsePrefix("169.254.0.0/16"), "a link-local address", never},
	{netip.MustParsePrefix("172.16.0.0/12"), "a private address", ifPrivate},
	{netip.MustParsePrefix("192.0.0.0/24"), "an address of protocols", never},
	{netip.MustParsePrefix("192.0.2.0/24"), "a documentation address", ifNamed},
	{netip.MustParsePrefix("192.88.99.0/24"), "a 6to4 relay", never},
	{netip.MustParsePrefix("192.168.0.0/16"), "a private address", ifPrivate},
	{netip.MustParsePrefix("198.18.0.0/15"), "a benchmarking address", reserved},
	{netip.MustParsePrefix("198.51.100.0/24"), "a documentation address", ifNamed},
	{netip.MustParsePrefix("203.0.113.0/24"), "a documentation address", ifNamed},
	{netip.MustParsePrefix("224.0.0.0/4"), "a multicast address", never},
	{netip.MustParsePrefix("240.0.0.0/4"), "a reserved address", never},

	{netip.MustParsePrefix("::/96"), "an IPv4 address in disguise", never}, // :: and ::1 among them
	{netip.MustParsePrefix("::ffff:0:0:0/96"), "an IPv4 address in disguise", never},
	{netip.MustParsePrefix("64:ff9b:1::/48"), "a local translation address", never},
	{netip.MustParsePrefix("100::/64"), "a discard address", never},
	{netip.MustParsePrefix("100:0:0:1::/64"), "a dummy address", never},
	{netip.MustParsePrefix("2001::/23"), "an address of protocols", never}, // Teredo, ORCHID, benchmarking
	{netip.MustParsePrefix("2001:db8::/32"), "a documentation address", ifNamed},
	{netip.MustParsePrefix("2002::/16"), "a 6to4 address", never},
	{netip.MustParsePrefix("3fff::/20"), "a documentation address", ifNamed},
	{netip.MustParsePrefix("5f00::/16"), "a segment identifier", never},
	{netip.MustParsePrefix("fc00::/7"), "a private address", ifPrivate},
	{netip.MustParsePrefix("fe80::/10"), "a link-local address", never},
	{netip.MustParsePrefix("fec0::/10"), "a site-local address", never},
	{netip.MustParsePrefix("ff00::/8"), "a multicast address", never},
}

// metadata are the addresses at which clouds hand credentials to whoever asks, where they
// lie outside of what is refused anyway or may be opened. See the clouds' manuals.
var metadata = []netip.Addr{
	netip.MustParseAddr("168.63.129.16"),      // Azure
	netip.MustParseAddr("100.100.100.200"),    // Alibaba
	netip.MustParseAddr("fd00:ec2::254"),      // Amazon
	netip.MustParseAddr("fd20:ce::254"),       // Google
	netip.MustParseAddr("fd00:42::42"),        // Scaleway
	netip.MustParseAddr("fd00:c1::a9fe:a9fe"), // Oracle
	netip.MustParseAddr("169.254.169.254"),    // nearly all; named for the message
}

var (
	globalIPv6 = netip.MustParsePrefix("2000::/3")
	// nat64 is the well-known prefix, RFC 6052, under which the public internet of IPv4 is
	// reached from networks without it.
	nat64 = netip.MustParsePrefix("64:ff9b::/96")
)

// plain returns the IPv4 address that an IPv6 address stands for, where it does.
func plain(addr netip.Addr) netip.Addr {
	addr = addr.Unmap()
	if nat64.Contains(addr) {
		bytes := addr.As16()
		return netip.AddrFrom4([4]byte(bytes[12:]))
	}
	return addr
}

// notPublic returns what an address is, in words, and who may open it; "" for one of the
// public internet.
func notPublic(addr netip.Addr) (string, opening) {
	addr = plain(addr)
	if slices.Contains(metadata, addr) {
		return "a metadata service", never
	}
	if what, opens := ofBlock(addr); what != "" {
		return what, opens
	}
	if !addr.IsValid() || addr.Zone() != "" || addr.Is6() && !globalIPv6.Contains(addr) {
		return "not a public address", never
	}
	return "", never
}

// ofBlock returns what the special block of an address is, and who may open it.
func ofBlock(addr netip.Addr) (string, opening) {
	for _, s := range specials {
		if s.prefix.Contains(addr) {
			return s.what, s.opens
		}
	}
	return "", never
}

// withheld returns why a rule can't allow a range of addresses, or nil. note says that it
// may, but to no effect.
func withheld(prefix netip.Prefix, private []netip.Prefix) (f *flaw, note string) {
	for _, s := range specials {
		if !s.prefix.Overlaps(prefix) {
			continue
		}
		inner := s.prefix
		if prefix.Bits() > inner.Bits() {
			inner = prefix
		}
		switch opened := coveredBy(private, inner); {
		case s.opens == never:
			return &flaw{text: holds(prefix, s.what), hint: "allow public addresses alone"}, ""
		case s.opens == ifPrivate && !opened:
			f = &flaw{text: holds(prefix, s.what), operators: true,
				hint: "allow public addresses alone; private ones have to be under egress.private of the operator's policy"}
		case s.opens == reserved && !opened && inner == prefix:
			note = fmt.Sprintf("%s is %s: nothing is reached by it", prefix, s.what)
		}
	}
	for _, addr := range metadata {
		if what, _ := ofBlock(addr); prefix.Contains(addr) && (what == "" || prefix.IsSingleIP()) {
			return &flaw{text: holds(prefix, "a metadata service"), hint: "allow public addresses alone"}, ""
		}
	}
	return f, note
}

// holds says what is in a range, or what the one address in it is.
func holds(prefix netip.Prefix, what string) string {
	if prefix.IsSingleIP() {
		return "is " + what
	}
	return "holds " + what
}

// coveredBy says whether one of the ranges has all of prefix.
func coveredBy(ranges []netip.Prefix, prefix netip.Prefix) bool {
	return slices.ContainsFunc(ranges, func(r netip.Prefix) bool {
		return r.Bits() <= prefix.Bits() && r.Contains(prefix.Addr())
	})
}

// guard decides which addresses may be dialled at all, whatever the rules say.
type guard struct {
	private func() []netip.Prefix
	own     func() []netip.Addr

	mu    sync.Mutex
	addrs []netip.Addr // of this machine
	asked time.Time
}

// ownFor is how long this machine's addresses are taken to be the same.
const ownFor = 3 * time.Second

// check returns why an address may not be dialled, or "". named says that the rule that
// led there names it, or the whole name that it came from.
func (g *guard) check(addr netip.Addr, named bool) string {
	dialled, addr := addr.Unmap(), plain(addr)
	what, opens := notPublic(addr)
	isOwn := addr.IsLoopback() || g.isOwn(addr) || g.isOwn(dialled)
	switch {
	case isOwn && named && what != "a metadata service" && slices.Contains(g.private(), netip.PrefixFrom(addr, addr.BitLen())):
		return ""
	case isOwn:
		return fmt.Sprintf("%s is an address of the host", addr)
	case what == "":
		return ""
	case opens == never:
		return fmt.Sprintf("%s is %s, which is never reached", addr, what)
	case opens == ifNamed && named:
		return ""
	case opens != ifNamed && !coveredBy(g.private(), netip.PrefixFrom(addr, addr.BitLen())):
		return fmt.Sprintf("%s is %s: it is reached only where the operator allows it (egress.private of the policy)", addr, what)
	case !named:
		return fmt.Sprintf("%s is %s: it is reached only by a rule that names it, or the whole name that leads to it", addr, what)
	}
	return ""
}

// isOwn says whether an address is this machine's.
func (g *guard) isOwn(addr netip.Addr) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.asked.IsZero() || time.Since(g.asked) > ownFor {
		g.addrs, g.asked = g.own(), time.Now()
	}
	return slices.Contains(g.addrs, addr)
}

// interfaceAddrs returns the addresses of this machine's interfaces.
func interfaceAddrs() []netip.Addr {
	list, err := net.InterfaceAddrs()
	if err != nil {
		return nil // checkPeer still finds a connection of the host with itself
	}
	addrs := make([]netip.Addr, 0, len(list))
	for _, entry := range list {
		if prefix, err := netip.ParsePrefix(entry.String()); err == nil {
			addrs = append(addrs, prefix.Addr().Unmap())
		}
	}
	return addrs
}
