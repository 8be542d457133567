// Package outward provides a sandbox's way out, on the agent's side: programs inside find
// names and connect as on any machine, and what they ask for arrives at the host, which
// decides. There is no interface but loopback. It owns every address; connections to them
// are redirected to the agent, whose resolver gives each name an address of its own.
//
// None of it is a boundary: who breaks it inside loses the way out.
package outward

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/covehq/cove"
	"github.com/covehq/cove/guest/flow"
	"github.com/covehq/cove/guest/wire"
)

// Way is a sandbox's way out. Its methods may be called concurrently.
type Way struct {
	log      *log.Logger
	spares   *pool
	buffers  *flow.Buffers
	lookups  *lookups
	names    *names // that may be reached, and their addresses
	refused  *names // that may not
	entrance entrance

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	work   sync.WaitGroup
	room   chan struct{}   // a token for each connection
	asked  chan string     // names that were looked up while nothing may be reached
	dns    []io.Closer     // of the resolver
	dead   io.Closer       // the port at which refused addresses end
	own    map[uint16]bool // ports of the resolver and the dead end

	mu      sync.Mutex
	enabled bool
	doors   map[int]*door // the listeners, by port; one on redirect
	queries *door         // of the resolver, by TCP
	open    map[net.Conn]struct{}
	closed  bool
}

// entrance says how connections get to the agent.
type entrance struct {
	redirected bool // by the kernel, to one port; else the agent listens on each
	port       int
}

// Open makes the way out, closed for now: connections are refused and names are not found
// until Set. It needs CAP_NET_ADMIN and CAP_NET_RAW, which the caller may drop after it;
// without them, or on a kernel that can't redirect, it takes to what works without.
func Open(l *log.Logger) (*Way, error) { return open(l, install) }

// open does so with a way to have the kernel follow rules.
func open(l *log.Logger, install func([]rule) error) (*Way, error) {
	if l == nil {
		l = log.New(io.Discard, "", 0)
	}
	w := &Way{
		log: l, spares: newPool(), buffers: flow.New(), asked: make(chan string, maxAsked), room: make(chan struct{}, maxConnections()),
		own: map[uint16]bool{}, doors: map[int]*door{}, open: map[net.Conn]struct{}{},
	}
	w.ctx, w.cancel = context.WithCancel(context.Background())
	w.lookups = newLookups(w.lookup)
	err := w.redirect(install)
	if err != nil {
		l.Printf("connections are not redirected, so that names stand for addresses of loopback: %v", err)
		err = w.withoutRedirect()
	}
	if err != nil {
		return nil, errors.Join(err, w.Close())
	}
	w.work.Go(w.tell)
	return w, nil
}

// The addresses that stand for names: for those that may be reached, and for others. RFC
// 2544 keeps them free. Where nothing is redirected, they have to be loopback's.
var (
	reachable       = netip.MustParsePrefix("198.18.0.0/16")
	unreachable     = netip.MustParsePrefix("198.19.0.0/16")
	reachableHere   = netip.MustParsePrefix("127.64.0.0/16")
	unreachableHere = netip.MustParsePrefix("127.65.0.0/16")
)

// The ports that the agent would like to have: none that kernels give to clients, and none
// that servers are known for.
const (
	entrancePort = 65101
	dnsPort      = 65102
	deadPort     = 65103
)

// redirect leads everything to the agent, by rules that the kernel is to follow.
func (w *Way) redirect(install func([]rule) error) error {
	w.names, w.refused = newNames(reachable), newNames(unreachable)
	if err := ownEverything(); err != nil {
		return fmt.Errorf("addresses: %w", err)
	}
	entry, err := hold("127.0.0.1", entrancePort)
	if err != nil {
		return err
	}
	dead, err := hold("127.0.0.1", deadPort)
	if err != nil {
		return errors.Join(err, entry.Close())
	}
	w.doors[entry.port], w.dead, w.own[uint16(dead.port)] = &door{holder: entry, serve: w.accept}, dead, true
	w.entrance = entrance{redirected: true, port: entry.port}
	dns, err := w.serveDNS("127.0.0.1", dnsPort)
	if err == nil {
		err = install(redirects(entry.port, dead.port, dns, loopbackResolvers()))
	}
	if err != nil {
		w.undo()
	}
	return err
}

// undo takes back what redirect did, as far as it got.
func (w *Way) undo() {
	for port, door := range w.doors {
		_ = door.Close()
		delete(w.doors, port)
	}
	for _, c := range slices.Concat(w.dns, []io.Closer{w.dead}) {
		if c != nil {
			_ = c.Close()
		}
	}
	w.dns, w.queries, w.dead, w.own, w.entrance = nil, nil, nil, map[uint16]bool{}, entrance{}
	w.work.Wait()
}

// withoutRedirect needs no capability but, on some kernels, that for low ports.
func (w *Way) withoutRedirect() error {
	w.names, w.refused = newNames(reachableHere), newNames(unreachableHere)
	if _, err := w.serveDNS("127.0.0.1", 53); err != nil {
		return fmt.Errorf("resolver: %w", err)
	}
	return nil
}

// loopbackResolvers returns the name servers that resolv.conf names, where it names none but
// loopback's: the agent has to answer there too then, and a server of the sandbox's own is
// not heard.
func loopbackResolvers() []netip.Addr {
	text, err := os.ReadFile("/etc/resolv.conf")
	if err != nil {
		return []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})} // what C libraries take then
	}
	var servers []netip.Addr
	for line := range strings.Lines(string(text[:min(len(text), 64<<10)])) {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		addr, err := netip.ParseAddr(fields[1])
		switch {
		case err != nil || !addr.Is4() || len(servers) == 3: // C libraries ask three
		case !addr.IsLoopback():
			return nil
		default:
			servers = append(servers, addr)
		}
	}
	if len(servers) == 0 {
		return []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})}
	}
	return servers
}

// Set says how far the sandbox reaches from now on. Connections that are open stay so: the
// host ends those that it does not want.
func (w *Way) Set(setup wire.NetworkSetup) error {
	const most = 1024
	if len(setup.Ports) > most {
		return cove.Errorf(cove.Invalid, "network", "", fmt.Sprintf("%d ports are too many", len(setup.Ports)), fmt.Sprintf("name at most %d", most))
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return net.ErrClosed
	}
	w.enabled = setup.Enabled
	w.lookups.forget()
	if err := w.setDoor(w.queries); err != nil {
		return err
	}
	if w.entrance.redirected {
		return w.setDoor(w.doors[w.entrance.port])
	}
	return w.setDoors(setup.Ports)
}

// setDoor opens or closes a door.
func (w *Way) setDoor(d *door) error {
	if !w.enabled {
		d.shut()
		return nil
	}
	return w.listen(d)
}

// setDoors listens on these ports, and on no other. A port that a server inside has is left
// to it.
func (w *Way) setDoors(ports []int) error {
	if !w.enabled {
		ports = nil
	}
	for port, d := range w.doors {
		if !slices.Contains(ports, port) {
			_ = d.Close()
			delete(w.doors, port)
		}
	}
	for _, port := range ports {
		if port < 1 || port > 65535 {
			return cove.Errorf(cove.Invalid, "network", "", fmt.Sprintf("%d is no port", port), "use numbers from 1 to 65535")
		}
		if w.doors[port] != nil {
			continue
		}
		holder, err := holdExactly("0.0.0.0", port)
		if err == nil {
			w.doors[port] = &door{holder: holder, serve: w.accept}
			err = w.listen(w.doors[port])
		}
		if err != nil {
			w.log.Printf("port %d leads nowhere: %v", port, err)
		}
	}
	return nil
}

// Owns reports whether it is the agent that listens on a port.
func (w *Way) Owns(port uint16) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.own[port] || w.doors[int(port)] != nil
}

// Put takes over a spare stream to the host. It returns false where there are enough.
func (w *Way) Put(stream *net.UnixConn) bool { return w.spares.put(stream) }

// Close ends the way out and every connection, and waits for that.
func (w *Way) Close() error {
	w.cancel()
	w.mu.Lock()
	w.closed = true
	for c := range w.open {
		_ = c.Close()
	}
	for _, d := range w.doors {
		_ = d.Close()
	}
	w.mu.Unlock()
	for _, c := range append(slices.Clone(w.dns), w.dead) {
		if c != nil {
			_ = c.Close()
		}
	}
	w.spares.close()
	w.work.Wait()
	return nil
}

// track registers a connection that Close ends; it returns false after Close.
func (w *Way) track(c net.Conn) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return false
	}
	w.open[c] = struct{}{}
	return true
}

// untrack closes and forgets it.
func (w *Way) untrack(c net.Conn) {
	_ = c.Close()
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.open, c)
}

// isEnabled reports whether anything may be reached.
func (w *Way) isEnabled() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.enabled
}
