package outward

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/covehq/cove/guest/wire"
)

// insideVariable says that this process has a network of its own.
const insideVariable = "COVE_TEST_INSIDE"

// inside runs the rest of a test in a process with a network and an /etc/resolv.conf of its
// own, and skips it in this one.
func inside(t *testing.T) {
	t.Helper()
	if os.Getenv(insideVariable) != "" {
		return
	}
	if os.Geteuid() != 0 {
		t.Skip("makes a network namespace: run as root")
	}
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.count=1", "-test.timeout=2m")
	cmd.Env = append(os.Environ(), insideVariable+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = time.Second
	output, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	if bytes.Contains(output, []byte("--- SKIP")) {
		t.Skipf("%s", output)
	}
	t.SkipNow()
}

// resolvers puts a text in place of /etc/resolv.conf.
func resolvers(t *testing.T, text string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "resolv.conf")
	err := errors.Join(os.WriteFile(path, []byte(text), 0o644),
		unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""), unix.Mount(path, "/etc/resolv.conf", "", unix.MS_BIND, ""))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount("/etc/resolv.conf", unix.MNT_DETACH) })
}

// mechanisms are the ways in which connections get to the agent.
var mechanisms = map[string]func([]rule) error{
	"iptables": installLegacy,
	"nftables": installTables,
	"nothing":  func([]rule) error { return errors.New("the kernel can't") },
}

// host stands for the daemon.
type host struct {
	t      *testing.T
	way    *Way
	answer func(wire.EgressRequest) string
	work   sync.WaitGroup

	mu       sync.Mutex
	serve    func(net.Conn)
	requests []wire.EgressRequest
}

// allowed is what every name and address is to a host without an opinion.
func allowed(wire.EgressRequest) string { return wire.EgressOK }

// newHost opens the way out and serves it with so many spare streams.
func newHost(t *testing.T, install func([]rule) error, spares int, answer func(wire.EgressRequest) string) *host {
	t.Helper()
	way, err := open(nil, install)
	if err != nil {
		t.Fatal(err)
	}
	h := &host{t: t, way: way, answer: answer, serve: echo}
	if err := way.Set(wire.NetworkSetup{Enabled: true, Ports: []int{80, 443, 8080}}); err != nil {
		t.Fatal(err)
	}
	for range spares {
		h.spare()
	}
	t.Cleanup(func() {
		if err := way.Close(); err != nil {
			t.Error(err)
		}
		h.work.Wait()
	})
	return h
}

// spare gives the agent a stream, and another when that is taken.
func (h *host) spare() {
	ours, theirs := socketPair(h.t)
	if !h.way.Put(theirs) {
		_, _ = ours.Close(), theirs.Close()
		return
	}
	h.work.Go(func() {
		defer ours.Close()
		for {
			var request wire.EgressRequest
			if wire.ReadFrame(ours, &request) != nil {
				return
			}
			h.mu.Lock()
			h.requests = append(h.requests, request)
			h.mu.Unlock()
			code := h.answer(request)
			if request.Kind == wire.EgressConnect && code == wire.EgressOK {
				h.spare()
				if wire.WriteFrame(ours, wire.EgressReply{Code: code}) == nil {
					h.server()(ours)
				}
				return
			}
			if wire.WriteFrame(ours, wire.EgressReply{Code: code}) != nil {
				return
			}
		}
	})
}

// server returns what serves a connection.
func (h *host) server() func(net.Conn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.serve
}

// servesBy changes that for the connections to come.
func (h *host) servesBy(serve func(net.Conn)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.serve = serve
}

// asked returns the requests so far, each once.
func (h *host) asked() []wire.EgressRequest {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Compact(slices.Clone(h.requests))
}

func socketPair(t *testing.T) (ours, theirs *net.UnixConn) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]*net.UnixConn
	for i, fd := range fds {
		file := os.NewFile(uintptr(fd), "pair")
		c, err := net.FileConn(file)
		if err := errors.Join(err, file.Close()); err != nil {
			t.Fatal(err)
		}
		ends[i] = c.(*net.UnixConn)
	}
	return ends[0], ends[1]
}

// echo sends back what it gets.
func echo(c net.Conn) {
	if _, err := io.Copy(c, c); err == nil {
		_ = c.(*net.UnixConn).CloseWrite()
	}
}

// dial connects as a program does, with the resolver of /etc/resolv.conf.
func dial(ctx context.Context, address string) (*net.TCPConn, error) {
	c, err := (&net.Dialer{Timeout: 20 * time.Second, Resolver: &net.Resolver{PreferGo: true}}).DialContext(ctx, "tcp4", address)
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), c.SetDeadline(time.Now().Add(20 * time.Second))
}

const bothResolvers = "nameserver 198.18.0.1\nnameserver 127.0.0.1\n"

func TestConnectionsArriveWithTheirName(t *testing.T) {
	inside(t)
	resolvers(t, bothResolvers)
	for name, install := range mechanisms {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, install, 2, allowed)
			c, err := dial(t.Context(), "Api.Example.test:8080")
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if _, err := io.WriteString(c, "hello"); err != nil {
				t.Fatal(err)
			}
			if err := c.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(c); err != nil || string(got) != "hello" {
				t.Errorf("got %q, %v, want what was sent", got, err)
			}
			want := []wire.EgressRequest{
				{Kind: wire.EgressLookup, Name: "api.example.test"}, {Kind: wire.EgressConnect, Name: "api.example.test", Port: 8080},
			}
			if got := h.asked(); !slices.Equal(got, want) {
				t.Errorf("requests: got %+v, want %+v", got, want)
			}
		})
		cleanTables(t)
	}
}

// cleanTables takes back what a mechanism has done, for the next.
func cleanTables(t *testing.T) {
	t.Helper()
	_ = installLegacy(nil)
	socket, err := openNetlink(unix.NETLINK_NETFILTER)
	if err != nil {
		return
	}
	defer socket.close()
	socket.add(unix.NFNL_MSG_BATCH_BEGIN, 0, []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, unix.NFNL_SUBSYS_NFTABLES})
	head := []byte{unix.AF_INET, unix.NFNETLINK_V0, 0, 0}
	socket.add(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_DELTABLE, unix.NLM_F_ACK, append(head, text(unix.NFTA_TABLE_NAME, tableName)...))
	socket.add(unix.NFNL_MSG_BATCH_END, 0, []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, unix.NFNL_SUBSYS_NFTABLES})
	_ = socket.send(unix.ENOENT)
}

func TestAnAddressArrivesAsOne(t *testing.T) {
	inside(t)
	for _, mechanism := range []string{"iptables", "nftables"} {
		t.Run(mechanism, func(t *testing.T) {
			h := newHost(t, mechanisms[mechanism], 1, allowed)
			for _, address := range []string{"203.0.113.7:5432", "10.1.2.3:22", "169.254.169.254:80"} {
				c, err := dial(t.Context(), address)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := fmt.Fprintln(c, "hello"); err != nil {
					t.Error(err)
				}
				if got, err := bufio.NewReader(c).ReadString('\n'); err != nil || got != "hello\n" {
					t.Errorf("%s: got %q, %v, want hello", address, got, err)
				}
				c.Close()
				last := h.asked()[len(h.asked())-1]
				if got := fmt.Sprintf("%s:%d", last.Address, last.Port); got != address || last.Name != "" {
					t.Errorf("request: got %+v, want one for %s", last, address)
				}
			}
		})
		cleanTables(t)
	}
}

func TestWhatIsRefused(t *testing.T) {
	inside(t)
	resolvers(t, bothResolvers)
	answer := func(r wire.EgressRequest) string {
		switch {
		case r.Kind == wire.EgressConnect && r.Port != 80:
			return wire.EgressForbidden
		case strings.HasPrefix(r.Name, "forbidden"):
			if r.Kind == wire.EgressConnect {
				return wire.EgressOK // to say why, on port 80, and no other gets here
			}
			return wire.EgressForbidden
		case strings.HasPrefix(r.Name, "unknown"):
			return wire.EgressNotFound
		case strings.HasPrefix(r.Name, "broken"):
			return wire.EgressUnavailable
		}
		return wire.EgressOK
	}
	for name, install := range mechanisms {
		t.Run(name, func(t *testing.T) {
			newHost(t, install, 2, answer)
			for address, want := range map[string]func(error) bool{
				"forbidden.test:443": func(err error) bool {
					return errors.Is(err, unix.ECONNREFUSED) || name == "nothing" && errors.Is(err, unix.ECONNRESET)
				},
				"forbidden.test:22": func(err error) bool { return errors.Is(err, unix.ECONNREFUSED) },
				"forbidden.test:80": func(err error) bool { return err == nil },
				"name.test:443":     func(err error) bool { return errors.Is(err, unix.ECONNRESET) },
				"unknown.test:443":  func(err error) bool { var dns *net.DNSError; return errors.As(err, &dns) && dns.IsNotFound },
				"broken.test:443":   func(err error) bool { var dns *net.DNSError; return errors.As(err, &dns) && !dns.IsNotFound },
			} {
				c, err := dial(t.Context(), address)
				if err == nil {
					if _, err = fmt.Fprintln(c, "hello"); err == nil {
						_, err = io.ReadFull(c, make([]byte, 5))
					}
					c.Close()
				}
				if !want(err) {
					t.Errorf("%s: got %v", address, err)
				}
			}
		})
		cleanTables(t)
	}
}

func TestNothingIsReachedUntilItMayBe(t *testing.T) {
	inside(t)
	resolvers(t, bothResolvers)
	for name, install := range mechanisms {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, install, 2, allowed)
			for range 3 {
				if err := h.way.Set(wire.NetworkSetup{}); err != nil {
					t.Fatal(err)
				}
				if c, err := dial(t.Context(), "203.0.113.7:443"); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("an address: got %v, %v, want an error at once", c, err)
				} else if name != "nothing" && !errors.Is(err, unix.ECONNREFUSED) {
					t.Errorf("an address: got %v, want connection refused", err)
				}
				var dns *net.DNSError
				if _, err := dial(t.Context(), "name.test:443"); !errors.As(err, &dns) || !dns.IsNotFound {
					t.Errorf("a name: got %v, want that it is not found", err)
				}
				if err := h.way.Set(wire.NetworkSetup{Enabled: true, Ports: []int{443}}); err != nil {
					t.Fatal(err)
				}
				c, err := dial(t.Context(), "name.test:443")
				if err != nil {
					t.Fatal(err)
				}
				c.Close()
			}
			// The host is told, after the fact, of what was looked up in vain.
			told := wire.EgressRequest{Kind: wire.EgressLookup, Name: "in-vain.test"}
			if err := h.way.Set(wire.NetworkSetup{}); err != nil {
				t.Fatal(err)
			}
			_, _ = dial(t.Context(), "in-vain.test:443")
			for deadline := time.Now().Add(10 * time.Second); !slices.Contains(h.asked(), told); time.Sleep(time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatalf("requests: got %+v, want %+v", h.asked(), told)
				}
			}
		})
		cleanTables(t)
	}
}

func TestPortsOfTheAgentAreKept(t *testing.T) {
	inside(t)
	h := newHost(t, installLegacy, 0, allowed)
	if err := h.way.Set(wire.NetworkSetup{}); err != nil {
		t.Fatal(err)
	}
	if l, err := net.Listen("tcp4", fmt.Sprintf("127.0.0.1:%d", h.way.entrance.port)); err == nil {
		l.Close()
		t.Error("a program got the port of the agent's while that is closed")
	}
	if c, err := dial(t.Context(), fmt.Sprintf("127.0.0.1:%d", h.way.entrance.port)); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("a connection to it: got %v, %v, want that it is refused", c, err)
	}
	if err := h.way.Set(wire.NetworkSetup{Enabled: true}); err != nil {
		t.Fatal(err)
	}
	c, err := dial(t.Context(), fmt.Sprintf("127.0.0.1:%d", h.way.entrance.port))
	if err == nil {
		defer c.Close()
		_, err = c.Read(make([]byte, 1))
	}
	if !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("what nothing has redirected: got %v, want a reset", err)
	}
}

func TestResolversOfLoopbackAreAnsweredWhereThereAreNoOthers(t *testing.T) {
	inside(t)
	for _, address := range []string{"127.0.0.1", "127.0.0.53", "127.0.0.11"} {
		t.Run(address, func(t *testing.T) {
			resolvers(t, "search test\nnameserver "+address+"\n")
			newHost(t, installLegacy, 1, allowed)
			// Package net looks at resolv.conf every five seconds.
			resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, network, address+":53")
			}}
			if addrs, err := resolver.LookupHost(t.Context(), "name.test."); err != nil || len(addrs) != 1 {
				t.Errorf("got %v, %v, want one address", addrs, err)
			}
		})
		cleanTables(t)
	}
}

func TestAnotherInterfaceIsLeftAlone(t *testing.T) {
	inside(t)
	for _, args := range [][]string{{"link", "add", "other0", "type", "dummy"}, {"link", "set", "other0", "up"}} {
		if output, err := exec.CommandContext(t.Context(), "ip", args...).CombinedOutput(); err != nil {
			t.Skipf("ip %q: %v: %s", args, err, output)
		}
	}
	if err := ownEverything(); err == nil || !strings.Contains(err.Error(), "other0") {
		t.Errorf("got %v, want an error that names the interface", err)
	}
}

func TestAHalfThatEndsIsPassedOn(t *testing.T) {
	inside(t)
	h := newHost(t, installLegacy, 1, allowed)
	big := bytes.Repeat([]byte("0123456789abcdef"), 1<<18)
	h.servesBy(func(c net.Conn) {
		got, err := io.ReadAll(c) // to the end, before the first byte of the answer
		if err == nil {
			_, _ = c.Write(got)
		}
	})
	c, err := dial(t.Context(), "203.0.113.7:443")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write(big); err != nil {
		t.Fatal(err)
	}
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, big) {
		t.Errorf("got %d bytes, %v, want the %d that were sent", len(got), err, len(big))
	}
}

func TestTheHostsEndIsAnEnd(t *testing.T) {
	inside(t)
	h := newHost(t, installLegacy, 1, allowed)
	for name, serve := range map[string]func(net.Conn){
		"of a host that closes at once":         func(net.Conn) {},
		"of a host that has said all it has to": func(c net.Conn) { _, _ = c.Write([]byte("bye")) },
		"of a host that ends its half first": func(c net.Conn) {
			_ = c.(*net.UnixConn).CloseWrite()
			_, _ = c.Read(make([]byte, 1))
		},
	} {
		t.Run(name, func(t *testing.T) {
			h.servesBy(serve)
			c, err := dial(t.Context(), "203.0.113.7:443")
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if _, err := c.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadAll(c); err != nil && !errors.Is(err, unix.ECONNRESET) {
				t.Errorf("got %v, want an end", err)
			}
			// The program says nothing more, and the agent lets go of it all the same.
			waitFor(t, func() error {
				h.way.mu.Lock()
				defer h.way.mu.Unlock()
				if len(h.way.open) > 0 {
					return fmt.Errorf("connections that the agent has: got %d, want 0", len(h.way.open))
				}
				return nil
			})
		})
	}
}

func waitFor(t *testing.T, try func() error) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

func TestAThousandConnectionsAtATime(t *testing.T) {
	inside(t)
	resolvers(t, bothResolvers)
	h := newHost(t, installLegacy, 8, allowed)
	const many = 1000
	conns := make([]*net.TCPConn, many)
	var done sync.WaitGroup
	for i := range conns {
		done.Go(func() {
			c, err := dial(t.Context(), fmt.Sprintf("name%d.test:443", i%10))
			if err != nil {
				t.Error(err)
				return
			}
			conns[i] = c
			if _, err := fmt.Fprintf(c, "%d\n", i); err != nil {
				t.Error(err)
			}
		})
	}
	done.Wait()
	if t.Failed() {
		return
	}
	for i, c := range conns {
		if got, err := bufio.NewReader(c).ReadString('\n'); err != nil || got != fmt.Sprintf("%d\n", i) {
			t.Errorf("connection %d: got %q, %v, want its number", i, got, err)
		}
		c.Close()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if got := len(h.requests); got < many {
		t.Errorf("requests: got %d, want %d at least", got, many)
	}
}

func TestConnectionsInTurnLeaveNothing(t *testing.T) {
	inside(t)
	resolvers(t, bothResolvers)
	h := newHost(t, installLegacy, 4, allowed)
	many := 10000
	if testing.Short() {
		many = 500
	}
	turn := func() {
		c, err := dial(t.Context(), "203.0.113.7:443")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	}
	count := func() (goroutines, descriptors int) {
		runtime.GC()
		open, _ := os.ReadDir("/proc/self/fd")
		return runtime.NumGoroutine(), len(open)
	}
	for range 50 {
		turn()
	}
	wait := func() {
		waitFor(t, func() error {
			h.way.mu.Lock()
			defer h.way.mu.Unlock()
			if n := len(h.way.open); n > 0 {
				return fmt.Errorf("connections: got %d, want 0", n)
			}
			return nil
		})
	}
	wait()
	goroutines, descriptors := count()
	for range many {
		turn()
	}
	wait()
	waitFor(t, func() error {
		g, d := count()
		if g > goroutines+2 || d > descriptors+4 {
			return fmt.Errorf("after %d connections: got %d goroutines and %d descriptors, want %d and %d", many, g, d, goroutines, descriptors)
		}
		return nil
	})
}

func TestSparesOfADaemonThatHasEndedArePassedOver(t *testing.T) {
	inside(t)
	h := newHost(t, installLegacy, 0, allowed)
	for range 20 {
		ours, theirs := socketPair(t)
		if !h.way.Put(theirs) {
			t.Fatal("a spare was not taken")
		}
		ours.Close()
	}
	h.spare()
	for range 20 { // above the living one, which the next needs first
		ours, theirs := socketPair(t)
		h.way.Put(theirs)
		ours.Close()
	}
	c, err := dial(t.Context(), "203.0.113.7:443")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Errorf("got %v, want the echo", err)
	}
}
