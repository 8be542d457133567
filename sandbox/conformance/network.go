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
	return []check{
		{"none-refuses-at-once", "Where nothing may be reached, every address refuses at once.", needs, networkRefuses},
		{"none-finds-no-name", "Where nothing may be reached, no name is found, and at once.", needs, networkNoNames},
		{"no-way-around-t61-t62", "UDP, raw and packet sockets, IPv6 and resolvers by address lead nowhere.", needs, networkNoWayAround},
		{"no-capabilities-t71", "No command can change the network, root's neither.", needs, networkCapabilities},
		{"final-none-has-nothing", "Where nothing may ever be reached, nothing is set up, and nothing can be.", needs, networkFinal},
		{"by-name", "A connection arrives at the host with the name that the program looked up.", needs, networkByName},
		{"by-address", "A connection to an address arrives with it, and no other part of the host is asked.", needs, networkByAddress},
		{"half-close", "Each direction ends on its own, and what was sent before arrives.", needs, networkHalfClose},
		{"refusal-resets", "A connection that the host refuses is reset.", needs, networkReset},
		{"forbidden-name", "A name without a rule leads to a refusal, but on port 80, where the host says why.", needs, networkForbidden},
		{"unknown-name", "A name that does not exist is not found.", needs, networkUnknown},
		{"own-servers", "A server inside has its port, on 127.0.0.1 and 0.0.0.0, whatever port it is.", needs, networkOwnServers},
		{"closed-again", "What was allowed is refused once it is not any more.", needs, networkClosedAgain},
		{"many-at-once", "A hundred connections at a time each get their own.", needs, networkMany},
		{"listening-ports", "The ports that programs listen on are listed, and not the agent's own.", needs, networkPorts},
		{"trust", "Certificates that the host brings are where everybody inside can read them, on a read-only root too.", needs, networkTrust},
	}
}

// connect is a command that connects and reads to the end. What became of it is in its
// standard error, in the words of the C library.
func connect(host string, port int) string {
	return fmt.Sprintf("exec 3<>/dev/tcp/%s/%d && cat <&3", host, port)
}

// bash runs a script by bash, which can connect; the check is skipped where there is none.
func (x *box) bash(ctx context.Context, script string) (result, error) {
	return x.interpret(ctx, "bash", script)
}

// python does the same in Python, which can do more.
func (x *box) python(ctx context.Context, script string) (result, error) {
	return x.interpret(ctx, "python3", script)
}

func (x *box) interpret(ctx context.Context, program, script string) (result, error) {
	found, err := x.sh(ctx, "command -v "+program)
	if err != nil {
		return result{}, err
	}
	if found.exit.Code != 0 {
		return result{}, &Skip{Reason: "the image has no " + program}
	}
	start := shell("")
	start.Argv = []string{program, "-c", script}
	start.Env = map[string]string{"LC_ALL": "C"}
	start.Timeout, start.KillOnDisconnect = 30*time.Second, true
	return x.run(ctx, start)
}

// says is the error of a script that does not end with a failure of these words.
func (x *box) says(ctx context.Context, what, script, want string) error {
	r, err := x.bash(ctx, script)
	if err != nil {
		return err
	}
	if r.exit.Code == 0 || !strings.Contains(string(r.stderr), want) {
		return fmt.Errorf("%s: got exit code %d, %q and %q, want a failure of %q", what, r.exit.Code, r.stdout, r.stderr, want)
	}
	return nil
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
			if err := x.says(ctx, fmt.Sprintf("a connection to %s:%d", address, port), connect(address, port), "Connection refused"); err != nil {
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
	r, err := x.python(ctx, wayAround)
	if err != nil {
		return err
	}
	if got := strings.TrimSpace(string(r.stdout)); got != "tried" {
		return fmt.Errorf("what leads out: got %q and %q, want nothing", got, r.stderr)
	}
	return nil
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
	if err := x.says(ctx, "a connection", connect("8.8.8.8", 443), "unreachable"); err != nil {
		return err
	}
	return x.says(ctx, "a resolver", connect("198.18.0.1", 53), "unreachable")
}

func networkByName(ctx context.Context, b *bench) error {
	x, err := b.create(ctx)
	if err != nil {
		return err
	}
	host, err := serveEgress(ctx, x, func(wire.EgressRequest) string { return wire.EgressOK })
	if err != nil {
		return err
	}
	defer host.close()
	r, err := x.bash(ctx, `exec 3<>/dev/tcp/API.Example.test/8443 && echo "from inside" >&3 && read -r line <&3 && echo "$line"`)
	if err != nil {
		return err
	}
	if err := equal("what the host sent back", string(r.stdout), "FROM INSIDE\n"); err != nil {
		return fmt.Errorf("%w; standard error %q", err, r.stderr)
	}
	return host.got(
		wire.EgressRequest{Kind: wire.EgressLookup, Name: "api.example.test"},
		wire.EgressRequest{Kind: wire.EgressConnect, Name: "api.example.test", Port: 8443})
}

func networkByAddress(ctx context.Context, b *bench) error {
	x, err := b.create(ctx)
	if err != nil {
		return err
	}
	host, err := serveEgress(ctx, x, func(wire.EgressRequest) string { return wire.EgressOK })
	if err != nil {
		return err
	}
	defer host.close()
	r, err := x.bash(ctx, `exec 3<>/dev/tcp/203.0.113.7/5432 && echo hello >&3 && read -r line <&3 && echo "$line"`)
	if err != nil {
		return err
	}
	return errors.Join(equal("what the host sent back", string(r.stdout), "HELLO\n"),
		host.got(wire.EgressRequest{Kind: wire.EgressConnect, Address: "203.0.113.7", Port: 5432}))
}

func networkHalfClose(ctx context.Context, b *bench) error {
	x, err := b.create(ctx)
	if err != nil {
		return err
	}
	host, err := serveEgress(ctx, x, func(wire.EgressRequest) string { return wire.EgressOK })
	if err != nil {
		return err
	}
	defer host.close()
	const size = 3 << 20 // more than all buffers on the way
	r, err := x.python(ctx, fmt.Sprintf(`
import socket, threading
c = socket.create_connection(("half.test", 443), 20)
def send():
    c.sendall(b"a" * %d)
    c.shutdown(socket.SHUT_WR)
t = threading.Thread(target=send)
t.start()
n = 0
while True:
    data = c.recv(65536)
    if not data:
        break
    assert data.count(b"A") == len(data)
    n += len(data)
t.join()
print(n)`, size))
	if err != nil {
		return err
	}
	if got := strings.TrimSpace(string(r.stdout)); got != fmt.Sprint(size) {
		return fmt.Errorf("bytes that came back after the end of the others: got %q and %q, want %d", got, r.stderr, size)
	}
	return nil
}

func networkReset(ctx context.Context, b *bench) error {
	x, err := b.create(ctx)
	if err != nil {
		return err
	}
	host, err := serveEgress(ctx, x, func(r wire.EgressRequest) string {
		if r.Kind == wire.EgressLookup {
			return wire.EgressOK
		}
		return wire.EgressForbidden
	})
	if err != nil {
		return err
	}
	defer host.close()
	return errors.Join(
		x.says(ctx, "a refused address", connect("203.0.113.7", 443), "Connection reset"),
		x.says(ctx, "a refused port of a name", connect("name.test", 444), "Connection reset"))
}

func networkForbidden(ctx context.Context, b *bench) error {
	x, err := b.create(ctx)
	if err != nil {
		return err
	}
	host, err := serveEgress(ctx, x, func(r wire.EgressRequest) string {
		if r.Kind == wire.EgressLookup {
			return wire.EgressForbidden
		}
		return wire.EgressOK
	})
	if err != nil {
		return err
	}
	defer host.close()
	for _, port := range []int{443, 22, 8080} {
		if err := x.says(ctx, fmt.Sprintf("port %d of a forbidden name", port), connect("forbidden.test", port), "Connection refused"); err != nil {
			return err
		}
	}
	r, err := x.bash(ctx, `exec 3<>/dev/tcp/forbidden.test/80 && echo why >&3 && read -r line <&3 && echo "$line"`)
	if err != nil {
		return err
	}
	if err := equal("what the host says on port 80", string(r.stdout), "WHY\n"); err != nil {
		return err
	}
	return host.connected(wire.EgressRequest{Kind: wire.EgressConnect, Name: "forbidden.test", Port: 80})
}

func networkUnknown(ctx context.Context, b *bench) error {
	x, err := b.create(ctx)
	if err != nil {
		return err
	}
	host, err := serveEgress(ctx, x, func(wire.EgressRequest) string { return wire.EgressNotFound })
	if err != nil {
		return err
	}
	defer host.close()
	r, err := x.sh(ctx, "getent ahosts unknown.test")
	if err != nil {
		return err
	}
	return errors.Join(equal("exit code of getent", r.exit.Code, 2), host.got(wire.EgressRequest{Kind: wire.EgressLookup, Name: "unknown.test"}))
}

func networkOwnServers(ctx context.Context, b *bench) error {
	x, err := b.create(ctx)
	if err != nil {
		return err
	}
	host, err := serveEgress(ctx, x, func(wire.EgressRequest) string { return wire.EgressOK })
	if err != nil {
		return err
	}
	defer host.close()
	const serve = `
import socket as s
def check(kind, address, target, port):
    l = s.socket(s.AF_INET, kind)
    l.setsockopt(s.SOL_SOCKET, s.SO_REUSEADDR, 1)
    l.bind((address, port))
    l.settimeout(10)
    c = s.socket(s.AF_INET, kind)
    if kind == s.SOCK_STREAM:
        l.listen()
        c.connect((target, port))
        a, _ = l.accept()
        a.sendall(b"mine")
        a.close()
    else:
        c.connect((target, port))
        c.send(b"?")
        _, peer = l.recvfrom(10)
        l.sendto(b"mine", peer)
    c.settimeout(10)
    assert c.recv(10) == b"mine", (address, target, port)
for port in PORTS:
    for address, target in ("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("0.0.0.0", "127.0.0.7"), ("0.0.0.0", "0.0.0.0"):
        check(s.SOCK_STREAM, address, target, port)
        if target == "127.0.0.1": # the reply to another one comes from this
            check(s.SOCK_DGRAM, address, target, port)
print("ok")`
	ports := "443, 80, 53, 8080"
	if low, err := x.python(ctx, "import socket; socket.socket().bind(('127.0.0.1', 443))"); err != nil || low.exit.Code != 0 {
		ports = "8443, 8080, 5353" // which ports are for root is the kernel's to say
	}
	r, err := x.python(ctx, strings.Replace(serve, "PORTS", "("+ports+")", 1))
	if err != nil {
		return err
	}
	if err := equal("servers inside", string(r.stdout), "ok\n"); err != nil {
		return fmt.Errorf("%w; standard error %q", err, r.stderr)
	}
	return host.got()
}

func networkClosedAgain(ctx context.Context, b *bench) error {
	x, err := b.create(ctx)
	if err != nil {
		return err
	}
	host, err := serveEgress(ctx, x, func(wire.EgressRequest) string { return wire.EgressOK })
	if err != nil {
		return err
	}
	defer host.close()
	for range 3 {
		r, err := x.bash(ctx, `exec 3<>/dev/tcp/203.0.113.7/443 && echo open >&3 && read -r line <&3 && echo "$line"`)
		if err != nil {
			return err
		}
		if err := equal("what the host sent back", string(r.stdout), "OPEN\n"); err != nil {
			return fmt.Errorf("%w; standard error %q", err, r.stderr)
		}
		if err := x.guest.SetNetwork(ctx, wire.NetworkSetup{}); err != nil {
			return err
		}
		if err := x.says(ctx, "a connection after it was closed", connect("203.0.113.7", 443), "Connection refused"); err != nil {
			return err
		}
		if err := x.guest.SetNetwork(ctx, wire.NetworkSetup{Enabled: true}); err != nil {
			return err
		}
	}
	return nil
}

func networkMany(ctx context.Context, b *bench) error {
	x, err := b.create(ctx)
	if err != nil {
		return err
	}
	host, err := serveEgress(ctx, x, func(wire.EgressRequest) string { return wire.EgressOK })
	if err != nil {
		return err
	}
	defer host.close()
	r, err := x.python(ctx, `
import socket
open = [socket.create_connection(("name%d.test" % (i % 7), 1000 + i), 30) for i in range(100)]
for i, c in enumerate(open):
    c.sendall(b"number %d;" % i)
for i, c in enumerate(open):
    want, got = b"NUMBER %d;" % i, b""
    while len(got) < len(want):
        data = c.recv(100)
        assert data, i
        got += data
    assert got == want, (got, want)
print("ok")`)
	if err != nil {
		return err
	}
	if err := equal("a hundred connections", string(r.stdout), "ok\n"); err != nil {
		return fmt.Errorf("%w; standard error %q", err, r.stderr)
	}
	for i := range 100 {
		if err := host.connected(wire.EgressRequest{Kind: wire.EgressConnect, Name: fmt.Sprintf("name%d.test", i%7), Port: 1000 + i}); err != nil {
			return err
		}
	}
	return nil
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
