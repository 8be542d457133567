// Package outer is a world outside of a machine, for tests of what gets out of sandboxes:
// two network namespaces with one wire between them. A daemon runs in one, the machine.
// In the other every address there is is the test's, servers listen on any of them, and
// each packet that arrives is written down.
package outer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The addresses of the wire's ends: public ones, as nothing else may be reached.
const (
	MachineAddress = "45.60.0.1"
	Address        = "45.60.0.2" // of the world
)

// World is the world and the machine in it. Its methods may be called concurrently.
type World struct {
	machine, world string // names of network namespaces
	capture        int    // a packet socket
	capturing      sync.WaitGroup

	mu      sync.Mutex
	packets []Packet
}

// number tells the worlds of one process apart.
var number atomic.Int32

// New makes a world, which ends with the test. It skips the test where this process can't
// make one, unless required says that it has to.
func New(t testing.TB, required bool) *World {
	t.Helper()
	if _, err := exec.LookPath("ip"); err != nil || os.Geteuid() != 0 {
		if required {
			t.Fatal("the world outside is required: run as root on a machine with iproute2")
		}
		t.Skip("a world outside takes root and iproute2")
	}
	name := fmt.Sprintf("cove-%d-%d", os.Getpid(), number.Add(1))
	w := &World{machine: name + "-m", world: name + "-w"}
	t.Cleanup(func() { w.close(t) })
	for _, line := range []string{
		"netns add MACHINE", "netns add WORLD",
		"link add wire netns MACHINE type veth peer name wire netns WORLD",
		"-n MACHINE link set lo up", "-n WORLD link set lo up",
		"-n MACHINE address add " + MachineAddress + "/24 dev wire", "-n WORLD address add " + Address + "/24 dev wire",
		"-n MACHINE address add 2a0e:1::1/64 dev wire nodad", "-n WORLD address add 2a0e:1::2/64 dev wire nodad",
		"-n MACHINE link set wire up", "-n WORLD link set wire up",
		"-n MACHINE route add default via " + Address, "-n MACHINE -6 route add default via 2a0e:1::2",
		// Every address but the machine's is the world's own. The rule keeps the kernel from
		// holding its two tables as one, in which throw would end the search.
		"-n WORLD rule add pref 100 lookup main", "-n WORLD -6 rule add pref 100 lookup main",
		"-n WORLD route add throw 45.60.0.0/24 table local", "-n WORLD route add local default dev lo table local",
		"-n WORLD -6 route add throw 2a0e:1::/64 table local", "-n WORLD -6 route add local default dev lo table local",
	} {
		line = strings.NewReplacer("MACHINE", w.machine, "WORLD", w.world).Replace(line)
		ip(t, strings.Fields(line)...)
	}
	if err := w.watch(); err != nil {
		t.Fatal(err)
	}
	return w
}

func ip(t testing.TB, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "ip", args...)
	cmd.WaitDelay = time.Second
	if output, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, output)
	}
}

func (w *World) close(t testing.TB) {
	if w.capture > 0 {
		_ = unix.Shutdown(w.capture, unix.SHUT_RD)
		_ = unix.Close(w.capture)
		w.capturing.Wait()
	}
	for _, name := range []string{w.machine, w.world} {
		if _, err := os.Stat("/run/netns/" + name); err == nil {
			ip(t, "netns", "delete", name)
		}
	}
}

// Enter is the beginning of a command line that runs the rest of it on the machine.
func (w *World) Enter() []string { return []string{"nsenter", "--net=/run/netns/" + w.machine} }

// In calls f in the world's network: sockets that it makes are there for ever.
func (w *World) In(f func() error) error { return in("/run/netns/"+w.world, f) }

// InMachine calls f in the machine's network.
func (w *World) InMachine(f func() error) error { return in("/run/netns/"+w.machine, f) }

func in(namespace string, f func() error) error {
	file, err := os.Open(namespace)
	if err != nil {
		return err
	}
	defer file.Close()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := unix.Setns(int(file.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- os.NewSyscallError("setns", err)
			return
		}
		done <- f()
	}()
	return <-done
}

// Listen listens in the world, on ADDRESS:PORT or, for every address, on :PORT.
func (w *World) Listen(t testing.TB, address string) net.Listener {
	t.Helper()
	var listener net.Listener
	err := w.In(func() (err error) {
		config := net.ListenConfig{Control: anyAddress}
		listener, err = config.Listen(context.Background(), "tcp4", address)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	return listener
}

// ListenPacket is Listen for UDP.
func (w *World) ListenPacket(t testing.TB, address string) net.PacketConn {
	t.Helper()
	var conn net.PacketConn
	err := w.In(func() (err error) {
		config := net.ListenConfig{Control: anyAddress}
		conn, err = config.ListenPacket(context.Background(), "udp4", address)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// anyAddress lets a socket be bound to an address that no interface has.
func anyAddress(_, _ string, raw syscallConn) error {
	var failed error
	err := raw.Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_FREEBIND, 1)
	})
	return errors.Join(err, failed)
}

// Packet is one that arrived from the machine.
type Packet struct {
	Protocol string // tcp, udp, icmp, icmp6, or a number
	To       string // an address
	Port     int    // 0 where there is none
}

// String returns the packet as in tcp 192.0.2.1:80.
func (p Packet) String() string {
	return p.Protocol + " " + net.JoinHostPort(p.To, strconv.Itoa(p.Port))
}

// Packets returns each kind of packet that has arrived, once, but for those by which
// machines on a wire find each other.
func (w *World) Packets() []Packet {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]Packet(nil), w.packets...)
}
