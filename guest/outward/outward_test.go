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
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	links "github.com/vishvananda/netlink"
	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"

	"github.com/covehq/cove/guest/pair"
	"github.com/covehq/cove/guest/wire"
)

func TestConnectionsArriveWithTheirName(t *testing.T) {
	if !inside(t) {
		return
	}
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
				{Kind: wire.EgressLookup, Name: "api.example.test"}, {Kind: wire.EgressConnect, Name: "api.example.test", Port: 8080, Early: true},
			}
			if got := h.asked(); !slices.Equal(got, want) {
				t.Errorf("requests: got %+v, want %+v", got, want)
			}
		})
		cleanTables(t)
	}
}

func TestAnAddressArrivesAsOne(t *testing.T) {
	if !inside(t) {
		return
	}
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
	if !inside(t) {
		return
	}
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
	if !inside(t) {
		return
	}
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
				for _, resolver := range []string{"198.18.0.1:53", "203.0.113.53:53", "127.0.0.1:53"} {
					if c, err := dial(t.Context(), resolver); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
						t.Errorf("the resolver by TCP, %s: got %v, %v, want an error at once", resolver, c, err)
					} else if name != "nothing" && !errors.Is(err, unix.ECONNREFUSED) {
						t.Errorf("the resolver by TCP, %s: got %v, want connection refused", resolver, err)
					}
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
				if name == "nothing" {
					continue
				}
				stream, err := dial(t.Context(), "203.0.113.53:53")
				if err != nil {
					t.Fatalf("the resolver by TCP: %v", err)
				}
				defer stream.Close()
				if err := h.way.Set(wire.NetworkSetup{}); err != nil {
					t.Fatal(err)
				}
				if got, err := byTCP(stream, ask(t, dnsmessage.TypeA, "name.test.")); err == nil {
					t.Errorf("a stream to the resolver from before: got %v, want its end", got)
				}
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
	if !inside(t) {
		return
	}
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
	if !inside(t) {
		return
	}
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
	if !inside(t) {
		return
	}
	if err := links.LinkAdd(&links.Veth{LinkAttrs: links.LinkAttrs{Name: "other0"}, PeerName: "other1"}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"other0", "other1"} {
		link, err := links.LinkByName(name)
		if err == nil {
			err = links.LinkSetUp(link)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := ownEverything(); err == nil || !strings.HasSuffix(err.Error(), "other0") && !strings.HasSuffix(err.Error(), "other1") {
		t.Errorf("got %v, want an error that names one of them", err)
	}
}

func TestAHalfThatEndsIsPassedOn(t *testing.T) {
	if !inside(t) {
		return
	}
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
	if !inside(t) {
		return
	}
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

func TestAThousandConnectionsAtATime(t *testing.T) {
	if !inside(t) {
		return
	}
	resolvers(t, bothResolvers)
	h := newHost(t, installLegacy, 8, allowed)
	const many = 1000
	conns := make([]*net.TCPConn, many)
	errs := make([]error, many)
	var done sync.WaitGroup
	for i := range conns {
		done.Go(func() {
			conns[i], errs[i] = dial(t.Context(), fmt.Sprintf("name%d.test:443", i%10))
			if errs[i] == nil {
				_, errs[i] = fmt.Fprintf(conns[i], "%d\n", i)
			}
		})
	}
	done.Wait()
	if failed := slices.DeleteFunc(errs, func(err error) bool { return err == nil }); len(failed) > 0 {
		t.Fatalf("%d of %d failed, the first with: %v", len(failed), many, failed[0])
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
	if !inside(t) {
		return
	}
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
	if !inside(t) {
		return
	}
	h := newHost(t, installLegacy, 0, allowed)
	for range 20 {
		ours, theirs, err := pair.New()
		if err != nil {
			t.Fatal(err)
		}
		if !h.way.Put(theirs) {
			t.Fatal("a spare was not taken")
		}
		ours.Close()
	}
	h.spare()
	for range 20 { // behind the living one as well
		ours, theirs, err := pair.New()
		if err != nil {
			t.Fatal(err)
		}
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
