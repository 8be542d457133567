package outward

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// rule redirects packets that programs send to a port on 127.0.0.1. The first rule that
// matches decides.
type rule struct {
	protocol uint8        // of IP
	to       netip.Prefix // where they go
	not      bool         // or rather everywhere else
	port     int          // 0: any
	redirect int          // the port that they get to
}

var loopback = netip.MustParsePrefix("127.0.0.0/8")

// redirects returns the rules: entry is the port of the agent's listener, dead one to which
// nothing listens, and resolvers are addresses of loopback at which programs look for DNS.
func redirects(entry, dead int, dns dnsPorts, resolvers []netip.Addr) []rule {
	rules := []rule{
		{protocol: unix.IPPROTO_UDP, to: loopback, not: true, port: 53, redirect: dns.udp},
		{protocol: unix.IPPROTO_TCP, to: loopback, not: true, port: 53, redirect: dns.tcp},
		// The host says by HTTP why a name may not be reached; nothing else gets an answer.
		{protocol: unix.IPPROTO_TCP, to: unreachable, port: 80, redirect: entry},
		{protocol: unix.IPPROTO_TCP, to: unreachable, redirect: dead},
		{protocol: unix.IPPROTO_TCP, to: loopback, not: true, redirect: entry},
	}
	for _, resolver := range resolvers {
		at := netip.PrefixFrom(resolver, 32)
		rules = append(rules,
			rule{protocol: unix.IPPROTO_UDP, to: at, port: 53, redirect: dns.udp},
			rule{protocol: unix.IPPROTO_TCP, to: at, port: 53, redirect: dns.tcp})
	}
	return rules
}

// install has the kernel follow rules, for connections that begin in this network namespace.
func install(rules []rule) error {
	legacy := installLegacy(rules)
	if legacy == nil {
		return nil
	}
	modern := installTables(rules)
	if modern == nil {
		return nil
	}
	return errors.Join(fmt.Errorf("iptables: %w", legacy), fmt.Errorf("nftables: %w", modern))
}

// maskOf returns a prefix's mask.
func maskOf(p netip.Prefix) [4]byte {
	mask := ^uint32(0) << (32 - p.Bits())
	return [4]byte{byte(mask >> 24), byte(mask >> 16), byte(mask >> 8), byte(mask)}
}
