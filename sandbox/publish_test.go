package sandbox

import (
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/sandbox/driver"
)

// dialOpen returns a connection to the first port of a sandbox, on this machine.
func dialOpen(t *testing.T, s *Sandbox) *net.TCPConn {
	t.Helper()
	port := s.View().Spec.Ports[0]
	conn, err := (&net.Dialer{Timeout: 10 * time.Second}).DialContext(t.Context(), "tcp", net.JoinHostPort(port.Address, strconv.Itoa(port.HostPort)))
	if err != nil {
		t.Fatalf("connecting to %v: %v", port, err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn.(*net.TCPConn)
}

// echo sends text, ends the sending, and fails the test unless the text comes back whole.
func echo(t *testing.T, conn *net.TCPConn, text string) {
	t.Helper()
	go func() {
		_, _ = io.WriteString(conn, text)
		_ = conn.CloseWrite()
	}()
	if got, err := io.ReadAll(conn); err != nil || string(got) != text {
		t.Errorf("got %d bytes and %v back, want the %d that were sent", len(got), err, len(text))
	}
}

func TestOpenPortsLeadInside(t *testing.T) {
	r := newRig(t, Options{})
	s := r.create(cove.Spec{Ports: []cove.Port{{Port: 80}, {Port: 81, Address: "127.0.0.1"}}})
	ports := s.View().Spec.Ports
	if ports[0].Address != "127.0.0.1" || ports[0].HostPort == 0 || ports[1].HostPort == 0 || ports[0].HostPort == ports[1].HostPort {
		t.Fatalf("ports = %+v, want two free ones on loopback", ports)
	}
	echo(t, dialOpen(t, s), "hello")
	var group sync.WaitGroup
	for i := range 20 {
		group.Go(func() { echo(t, dialOpen(t, s), fmt.Sprint("stream ", i, string(make([]byte, 100_000)))) })
	}
	group.Wait()
}

func TestAnOpenPortWithNobodyInsideIsReset(t *testing.T) {
	r := newRig(t, Options{})
	s := r.create(cove.Spec{Ports: []cove.Port{{Port: 81}}})
	// The reset may come before the connection has been looked at.
	port := s.View().Spec.Ports[0].HostPort
	conn, err := (&net.Dialer{Timeout: 10 * time.Second}).DialContext(t.Context(), "tcp", "127.0.0.1:"+strconv.Itoa(port))
	if err == nil {
		defer conn.Close()
		_, err = io.ReadAll(conn)
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("reading: %v, want a reset", err)
	}
}

func TestATakenPortIsAConflictThatLeavesNothing(t *testing.T) {
	r := newRig(t, Options{})
	taken, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	port := taken.Addr().(*net.TCPAddr).Port
	_, err = r.Create(t.Context(), cove.Spec{Ports: []cove.Port{{Port: 80}, {Port: 80, HostPort: port}}}, CreateOptions{})
	wantError(t, err, cove.Conflict, strconv.Itoa(port), "taken")
	r.empty()
	_, err = r.Create(t.Context(), cove.Spec{Ports: []cove.Port{{Port: 80, Address: "127.0.0.1", HostPort: 70000}}}, CreateOptions{})
	wantError(t, err, cove.Invalid, "70000")
	taken.Close()
	s := r.create(cove.Spec{Ports: []cove.Port{{Port: 80, HostPort: port}}})
	echo(t, dialOpen(t, s), "hello")
}

func TestPortsCloseWithTheSandbox(t *testing.T) {
	r := newRig(t, Options{})
	for name, end := range map[string]func(*Sandbox) error{
		"destroyed": func(s *Sandbox) error { return s.Destroy(t.Context()) },
		"killed from outside": func(s *Sandbox) error {
			r.world.die(s.ID(), driver.Exit{Reason: cove.ReasonKilled})
			eventually(t, "it has failed", func() bool { return s.View().State == cove.StateFailed })
			return nil
		},
	} {
		s := r.create(cove.Spec{Ports: []cove.Port{{Port: 80}}})
		port := s.View().Spec.Ports[0].HostPort
		conn := dialOpen(t, s)
		if _, err := io.WriteString(conn, "x"); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		if err := end(s); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, conn); errors.Is(err, syscall.ETIMEDOUT) {
			t.Errorf("%s: the connection is still open", name)
		}
		eventually(t, "the port is free", func() bool {
			again, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:"+strconv.Itoa(port))
			if err == nil {
				again.Close()
			}
			return err == nil
		})
	}
}

// After Destroy has returned, the port is free at once: scripts make the next sandbox on
// the same one.
func TestAPortCanBeUsedAgainAtOnce(t *testing.T) {
	r := newRig(t, Options{})
	s := r.create(cove.Spec{Ports: []cove.Port{{Port: 80}}})
	port := s.View().Spec.Ports[0].HostPort
	for range 20 {
		if err := s.Destroy(t.Context()); err != nil {
			t.Fatal(err)
		}
		s = r.create(cove.Spec{Ports: []cove.Port{{Port: 80, HostPort: port}}})
	}
}

func TestPortsOutliveTheHost(t *testing.T) {
	dir, w := filepath.Join(t.TempDir(), "state"), newWorld()
	first := openRig(t, w, dir, Options{})
	s := first.create(cove.Spec{Ports: []cove.Port{{Port: 80}}})
	port := s.View().Spec.Ports[0]
	first.shut()

	// Somebody else has it when the next host comes, and gives it back later.
	taken, err := new(net.ListenConfig).Listen(t.Context(), "tcp", net.JoinHostPort(port.Address, strconv.Itoa(port.HostPort)))
	if err != nil {
		t.Fatalf("the port is not free after the host has closed: %v", err)
	}
	second := openRig(t, w, dir, Options{SweepInterval: 10 * time.Millisecond})
	again, err := second.Sandbox(t.Context(), s.ID())
	if err != nil {
		t.Fatal(err)
	}
	if got := again.View().Spec.Ports[0]; got != port {
		t.Errorf("port = %+v, want %+v as before", got, port)
	}
	taken.Close()
	eventually(t, "the port is open again", func() bool {
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", net.JoinHostPort(port.Address, strconv.Itoa(port.HostPort)))
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	echo(t, dialOpen(t, again), "hello")
}
