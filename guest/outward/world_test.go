package outward

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/covehq/cove/guest/pair"
	"github.com/covehq/cove/guest/wire"
)

// insideVariable says that this process has a network of its own.
const insideVariable = "COVE_TEST_INSIDE"

// inside runs the test in a process with a network and an /etc/resolv.conf of its own. It
// returns true there; here it returns false, when that is over.
func inside(t *testing.T) bool {
	t.Helper()
	if os.Getenv(insideVariable) != "" {
		return true
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
	return false
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
	ours, theirs, err := pair.New()
	if err != nil {
		h.t.Error(err)
		return
	}
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

// waitFor tries until it succeeds.
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
