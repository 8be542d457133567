package conformance

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/covehq/cove/guest/wire"
)

// bash runs a script by bash, which can connect, and python one by Python, which can do more.
// A check is skipped where the image lacks what it needs.
func (x *box) bash(ctx context.Context, script string) (result, error) {
	return x.interpret(ctx, "bash", script)
}

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

// fails is the error of a connection that does not fail in these words, which are the C
// library's.
func (x *box) fails(ctx context.Context, what, host string, port int, want string) error {
	r, err := x.bash(ctx, fmt.Sprintf("exec 3<>/dev/tcp/%s/%d && cat <&3", host, port))
	if err != nil {
		return err
	}
	if r.exit.Code == 0 || !strings.Contains(string(r.stderr), want) {
		return fmt.Errorf("%s: got exit code %d, %q and %q, want a failure of %q", what, r.exit.Code, r.stdout, r.stderr, want)
	}
	return nil
}

// echoes is the error of a connection that does not bring a line back as an outside does.
func (x *box) echoes(ctx context.Context, host string, port int, line string) error {
	r, err := x.bash(ctx, fmt.Sprintf(`exec 3<>/dev/tcp/%s/%d && echo "%s" >&3 && read -r line <&3 && echo "$line"`, host, port, line))
	if err != nil {
		return err
	}
	return r.printed("what the host sent back", strings.ToUpper(line)+"\n")
}

// printed is the error of a program that printed something else.
func (r result) printed(what, want string) error {
	if err := equal(what, string(r.stdout), want); err != nil {
		return fmt.Errorf("%w; standard error %q", err, r.stderr)
	}
	return nil
}

// computes is the error of a script in Python that does not print this.
func (x *box) computes(ctx context.Context, what, script, want string) error {
	r, err := x.python(ctx, script)
	if err != nil {
		return err
	}
	return r.printed(what, want)
}

// reaching makes a check of one about a sandbox of its own whose way out is served.
func reaching(answer func(wire.EgressRequest) string, check func(context.Context, *box, *outside) error) func(context.Context, *bench) error {
	return func(ctx context.Context, b *bench) error {
		x, err := b.create(ctx)
		if err != nil {
			return err
		}
		host, err := serveEgress(ctx, x, answer)
		if err != nil {
			return err
		}
		defer host.close()
		return check(ctx, x, host)
	}
}

// answers is what a host answers to all lookups, and to all connections.
func answers(lookup, connect string) func(wire.EgressRequest) string {
	return func(r wire.EgressRequest) string {
		if r.Kind == wire.EgressLookup {
			return lookup
		}
		return connect
	}
}

func networkByName(ctx context.Context, x *box, host *outside) error {
	if err := x.echoes(ctx, "API.Example.test", 8443, "from inside"); err != nil {
		return err
	}
	return host.got(
		wire.EgressRequest{Kind: wire.EgressLookup, Name: "api.example.test"},
		wire.EgressRequest{Kind: wire.EgressConnect, Name: "api.example.test", Port: 8443})
}

func networkByAddress(ctx context.Context, x *box, host *outside) error {
	if err := x.echoes(ctx, "203.0.113.7", 5432, "hello"); err != nil {
		return err
	}
	return host.got(wire.EgressRequest{Kind: wire.EgressConnect, Address: "203.0.113.7", Port: 5432})
}

func networkHalfClose(ctx context.Context, x *box, _ *outside) error {
	const size = 3 << 20 // more than all buffers on the way
	return x.computes(ctx, "bytes that came back after the end of the others", fmt.Sprintf(`
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
print(n)`, size), fmt.Sprintln(size))
}

func networkReset(ctx context.Context, x *box, _ *outside) error {
	if err := x.fails(ctx, "a refused address", "203.0.113.7", 443, "Connection reset"); err != nil {
		return err
	}
	return x.fails(ctx, "a refused port of a name", "name.test", 444, "Connection reset")
}

func networkForbidden(ctx context.Context, x *box, host *outside) error {
	for _, port := range []int{443, 22, 8080} {
		if err := x.fails(ctx, fmt.Sprintf("port %d of a forbidden name", port), "forbidden.test", port, "Connection refused"); err != nil {
			return err
		}
	}
	if err := x.echoes(ctx, "forbidden.test", 80, "why"); err != nil {
		return err
	}
	return host.connected(wire.EgressRequest{Kind: wire.EgressConnect, Name: "forbidden.test", Port: 80})
}

func networkUnknown(ctx context.Context, x *box, host *outside) error {
	r, err := x.sh(ctx, "getent ahosts unknown.test")
	if err != nil {
		return err
	}
	if err := equal("exit code of getent", r.exit.Code, 2); err != nil {
		return err
	}
	return host.got(wire.EgressRequest{Kind: wire.EgressLookup, Name: "unknown.test"})
}

// ownServers has servers on PORTS and connects to them.
const ownServers = `
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

func networkOwnServers(ctx context.Context, x *box, host *outside) error {
	ports := "443, 80, 53, 8080"
	if low, err := x.python(ctx, "import socket; socket.socket().bind(('127.0.0.1', 443))"); err != nil || low.exit.Code != 0 {
		ports = "8443, 8080, 5353" // which ports are for root is the kernel's to say
	}
	if err := x.computes(ctx, "servers inside", strings.Replace(ownServers, "PORTS", "("+ports+")", 1), "ok\n"); err != nil {
		return err
	}
	return host.got()
}

func networkClosedAgain(ctx context.Context, x *box, _ *outside) error {
	for range 3 {
		if err := x.echoes(ctx, "203.0.113.7", 443, "open"); err != nil {
			return err
		}
		if err := x.guest.SetNetwork(ctx, wire.NetworkSetup{}); err != nil {
			return err
		}
		if err := x.fails(ctx, "a connection after it was closed", "203.0.113.7", 443, "Connection refused"); err != nil {
			return err
		}
		if err := x.guest.SetNetwork(ctx, wire.NetworkSetup{Enabled: true}); err != nil {
			return err
		}
	}
	return nil
}

func networkMany(ctx context.Context, x *box, host *outside) error {
	err := x.computes(ctx, "a hundred connections", `
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
print("ok")`, "ok\n")
	if err != nil {
		return err
	}
	for i := range 100 {
		if err := host.connected(wire.EgressRequest{Kind: wire.EgressConnect, Name: fmt.Sprintf("name%d.test", i%7), Port: 1000 + i}); err != nil {
			return err
		}
	}
	return nil
}
