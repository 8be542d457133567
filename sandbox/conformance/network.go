package conformance

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/guest/wire"
)

func networkChecks() []check {
	needs := Needs{Control: cove.ControlNetwork}
	allowed := answers(wire.EgressOK, wire.EgressOK)
	refused := answers(wire.EgressOK, wire.EgressForbidden)
	forbidden := answers(wire.EgressForbidden, wire.EgressOK)
	unknown := answers(wire.EgressNotFound, wire.EgressNotFound)
	return []check{
		{"none-refuses-at-once", "Where nothing may be reached, every address refuses at once.", needs, networkRefuses},
		{"none-finds-no-name", "Where nothing may be reached, no name is found, and at once.", needs, networkNoNames},
		{"no-way-around-t61-t62", "UDP, raw and packet sockets, IPv6 and resolvers by address lead nowhere.", needs, networkNoWayAround},
		{"no-capabilities-t71", "No command can change the network, root's neither.", needs, networkCapabilities},
		{"final-none-has-nothing", "Where nothing may ever be reached, nothing is set up, and nothing can be.", needs, networkFinal},
		{"by-name", "A connection arrives at the host with the name that the program looked up.", needs, reaching(allowed, networkByName)},
		{"by-address", "A connection to an address arrives with it, and no other part of the host is asked.", needs, reaching(allowed, networkByAddress)},
		{"half-close", "Each direction ends on its own, and what was sent before arrives.", needs, reaching(allowed, networkHalfClose)},
		{"refusal-resets", "A connection that the host refuses is reset.", needs, reaching(refused, networkReset)},
		{"forbidden-name", "A name without a rule leads to a refusal, but on port 80, where the host says why.", needs, reaching(forbidden, networkForbidden)},
		{"unknown-name", "A name that does not exist is not found.", needs, reaching(unknown, networkUnknown)},
		{"own-servers", "A server inside has its port, on 127.0.0.1 and 0.0.0.0, whatever port it is.", needs, reaching(allowed, networkOwnServers)},
		{"closed-again", "What was allowed is refused once it is not any more.", needs, reaching(allowed, networkClosedAgain)},
		{"many-at-once", "A hundred connections at a time each get their own.", needs, reaching(allowed, networkMany)},
		{"listening-ports", "The ports that programs listen on are listed, and not the agent's own.", needs, networkPorts},
		{"trust", "Certificates that the host brings are where everybody inside can read them, on a read-only root too.", needs, networkTrust},
	}
}

// publicAddresses stand for all: names' servers, a private network, a cloud's metadata, what
// the agent gives to names, and what no network uses.
var publicAddresses = []string{"8.8.8.8", "10.0.0.1", "192.168.1.1", "169.254.169.254", "198.18.0.9", "198.19.0.9", "240.0.0.1"}

func networkRefuses(ctx context.Context, b *bench) error {
	x, err := b.shared(ctx)
	if err != nil {
		return err
	}
	for _, address := range publicAddresses {
		for _, port := range []int{443, 80, 22} {
			if err := x.fails(ctx, fmt.Sprintf("a connection to %s:%d", address, port), address, port, "Connection refused"); err != nil {
				return err
			}
		}
	}
	return nil
}

func networkNoNames(ctx context.Context, b *bench) error {
	x, err := b.shared(ctx)
	if err != nil {
		return err
	}
	for _, name := range []string{"example.com", "a.b.c.test", "db.sandbox", "localhost.example"} {
		start := shell("getent ahosts " + name)
		start.Timeout, start.KillOnDisconnect = 20*time.Second, true
		r, err := x.run(ctx, start)
		if err != nil {
			return err
		}
		if r.exit.Code != 2 { // of getent: not found
			return fmt.Errorf("a lookup of %s: got exit code %d, %q and %q, want 2 for not found", name, r.exit.Code, r.stdout, r.stderr)
		}
	}
	return nil
}

// wayAround tries what may lead out past the agent, and prints what did. A resolver by its
// address is the agent's, which may say that there is no such name (code 3), and nothing else.
const wayAround = `
import socket as s
def attempt(what, f):
    try:
        got = f()
    except OSError as e:
        got = "timed out" if isinstance(e, s.timeout) else None
    if got:
        print(what, got)
query = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x07example\x03com\x00\x00\x01\x00\x01"
def udp(family, address, port, data):
    c = s.socket(family, s.SOCK_DGRAM)
    c.settimeout(10)
    c.connect((address, port))
    c.send(data)
    return c.recv(512)
def tcp(address, port, data):
    c = s.create_connection((address, port), 10)
    c.sendall(len(data).to_bytes(2, "big") + data)
    return c.recv(2) and c.recv(512)
def nameless(reply):
    return None if reply[3] & 15 == 3 and reply[6:8] == b"\0\0" else reply
for address in "8.8.8.8", "1.1.1.1", "169.254.169.253":
    attempt("udp 53 of " + address, lambda: nameless(udp(s.AF_INET, address, 53, query)))
    attempt("tcp 53 of " + address, lambda: nameless(tcp(address, 53, query)))
    for port in 123, 443, 5353, 33434:
        attempt("udp %d of %s" % (port, address), lambda: udp(s.AF_INET, address, port, b"x"))
for address in "127.0.0.11", "127.0.0.53":
    attempt("udp 53 of " + address, lambda: nameless(udp(s.AF_INET, address, 53, query)))
attempt("udp of ipv6", lambda: udp(s.AF_INET6, "2001:4860:4860::8888", 53, query))
attempt("tcp of ipv6", lambda: s.create_connection(("2001:4860:4860::8888", 443), 10))
attempt("tcp of mapped ipv6", lambda: s.create_connection(("::ffff:8.8.8.8", 443), 10))
for protocol in s.IPPROTO_ICMP, s.IPPROTO_TCP, s.IPPROTO_UDP, s.IPPROTO_RAW:
    attempt("raw socket %d" % protocol, lambda: s.socket(s.AF_INET, s.SOCK_RAW, protocol))
    attempt("raw socket of ipv6 %d" % protocol, lambda: s.socket(s.AF_INET6, s.SOCK_RAW, protocol))
attempt("packet socket", lambda: s.socket(s.AF_PACKET, s.SOCK_RAW, s.ntohs(3)))
attempt("packet socket for datagrams", lambda: s.socket(s.AF_PACKET, s.SOCK_DGRAM, s.ntohs(3)))
for address in "::ffff:8.8.8.8", "0x08080808", "134744072", "010.8.8.8":
    attempt("spelling " + address, lambda: s.create_connection((address, 443), 10))
print("tried")
`

func networkNoWayAround(ctx context.Context, b *bench) error {
	x, err := b.shared(ctx)
	if err != nil {
		return err
	}
	return x.computes(ctx, "what leads out, and that all was tried", wayAround, "tried\n")
}

func networkCapabilities(ctx context.Context, b *bench) error {
	x, err := b.shared(ctx)
	if err != nil {
		return err
	}
	// CAP_NET_ADMIN is 1 << 12, CAP_NET_RAW 1 << 13.
	const read = `while read -r key value; do case "$key" in CapInh:|CapPrm:|CapEff:|CapBnd:|CapAmb:) echo $key $((0x$value & 0x3000));; esac; done < /proc/self/status`
	for _, user := range []string{"", "root"} {
		r, err := x.shAs(ctx, user, read)
		if err != nil && user != "" {
			continue // no root inside
		}
		if err != nil {
			return err
		}
		lines := strings.Split(strings.TrimSpace(string(r.stdout)), "\n")
		if len(lines) < 4 { // gVisor shows no ambient set on some releases
			return fmt.Errorf("sets of capabilities of user %q: got %q, want at least 4", user, r.stdout)
		}
		for _, line := range lines {
			if !strings.HasSuffix(line, " 0") {
				return fmt.Errorf("capabilities for the network of user %q: got %q, want none", user, line)
			}
		}
	}
	return nil
}

func networkFinal(ctx context.Context, b *bench) error {
	x, err := b.create(ctx, func(s *cove.Spec) { s.Network = cove.Network{Mode: cove.NetworkNone, Final: true} })
	if err != nil {
		return err
	}
	if err := isCode("open the way out of a sandbox that has none", x.guest.SetNetwork(ctx, wire.NetworkSetup{Enabled: true}), cove.NotSupported); err != nil {
		return err
	}
	if err := x.guest.SetNetwork(ctx, wire.NetworkSetup{}); err != nil {
		return fmt.Errorf("leave the way out closed: %w", err)
	}
	stream, err := x.guest.DialEgress(ctx)
	if err == nil {
		stream.Close()
		return errors.New("a spare stream of a sandbox without a way out: got one, want an error")
	}
	if err := x.fails(ctx, "a connection", "8.8.8.8", 443, "unreachable"); err != nil {
		return err
	}
	return x.fails(ctx, "a resolver", "198.18.0.1", 53, "unreachable")
}

func networkPorts(ctx context.Context, b *bench) error {
	x, err := b.create(ctx)
	if err != nil {
		return err
	}
	if err := x.guest.SetNetwork(ctx, wire.NetworkSetup{Enabled: true}); err != nil {
		return err
	}
	ports, err := x.guest.ListeningPorts(ctx)
	if err != nil {
		return err
	}
	if len(ports) > 0 {
		return fmt.Errorf("ports that are listened on before anything is started: got %+v, want none", ports)
	}
	start := shell(`exec python3 -c 'import socket, sys; l = socket.socket(); l.bind(("127.0.0.1", 8765)); l.listen(); sys.stdin.read()'`)
	if found, err := x.sh(ctx, "command -v python3"); err != nil || found.exit.Code != 0 {
		return errors.Join(err, &Skip{Reason: "the image has no python3"})
	}
	start.Stdin = true
	stream, err := x.guest.Start(ctx, start)
	if err != nil {
		return err
	}
	defer stream.Close()
	return eventually(ctx, 20*time.Second, func() error {
		ports, err := x.guest.ListeningPorts(ctx)
		if err != nil {
			return err
		}
		if len(ports) != 1 || ports[0].Port != 8765 || ports[0].Address != "127.0.0.1" {
			return fmt.Errorf("ports that are listened on: got %+v, want 8765 on 127.0.0.1", ports)
		}
		return nil
	})
}
