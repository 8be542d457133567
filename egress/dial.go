package egress

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/covehq/cove/guest/wire"
)

// Bounds of how a server is dialled.
const (
	dialTimeout = 15 * time.Second
	maxDials    = 6 // addresses of one name
	// nextDial is how long the next address waits for the one before it: the "connection
	// attempt delay" of RFC 8305.
	nextDial = 250 * time.Millisecond
)

// place is where a connection goes: decided, resolved and checked.
type place struct {
	name  string       // "" where the program named an address
	addrs []netip.Addr // that may be dialled; none where the upstream proxy resolves the name
	port  int
}

// locate resolves a name where the daemon is the one to do it, and drops every address
// that the guard or a denial refuses. It dials nothing. Its errors are *failure, or ctx's.
func (g *Gateway) locate(ctx context.Context, r *Rules, d Decision, name string, addr netip.Addr, port int) (place, error) {
	p := place{name: name, port: port}
	addrs := []netip.Addr{addr}
	if name != "" {
		if g.proxy != nil {
			return p, nil
		}
		var err error
		if addrs, err = g.resolver.resolve(ctx, name); err != nil {
			return p, err
		}
	}
	var why string
	for _, addr := range addrs {
		refused := g.guard.check(addr, d.named)
		if refused == "" && port != 0 {
			refused = r.denialReason(name, addr, port)
		}
		if refused == "" {
			p.addrs = append(p.addrs, addr)
		} else if why == "" {
			why = refused
		}
	}
	if len(p.addrs) == 0 {
		if name != "" {
			why = fmt.Sprintf("%s is not reached: %s", name, why)
		}
		return p, &failure{wire.EgressForbidden, why}
	}
	return p, nil
}

// denialReason returns why an address to which a name led is denied, or "".
func (r *Rules) denialReason(name string, addr netip.Addr, port int) string {
	denial := r.denial(name, addr, port)
	if denial == "" {
		return ""
	}
	return fmt.Sprintf("the denial %s refuses %s", denial, addr)
}

// dial connects to a place. Its errors are *failure, or ctx's.
func (g *Gateway) dial(ctx context.Context, p place) (net.Conn, error) {
	call, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	var conn net.Conn
	var err error
	switch {
	case g.proxy == nil:
		conn, err = g.race(call, spread(p.addrs), p.port)
	case p.name != "":
		conn, err = g.proxy.DialContext(call, "tcp", net.JoinHostPort(p.name, fmt.Sprint(p.port)))
	default:
		conn, err = g.proxy.DialContext(call, "tcp", netip.AddrPortFrom(p.addrs[0], uint16(p.port)).String())
	}
	if err == nil {
		return conn, nil
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	var known *failure
	if errors.As(err, &known) {
		return nil, known
	}
	var first netip.Addr
	if len(p.addrs) > 0 {
		first = p.addrs[0]
	}
	return nil, &failure{wire.EgressUnavailable, fmt.Sprintf("%s:%d was not reached: %s", target(p.name, first), p.port, brief(err))}
}

// spread returns the addresses to try, in the order of the answer but with the two
// families in turn, so that one that leads nowhere costs one delay.
func spread(addrs []netip.Addr) []netip.Addr {
	var same, other, turns []netip.Addr
	for _, addr := range addrs {
		if addr.Is4() == addrs[0].Is4() {
			same = append(same, addr)
		} else {
			other = append(other, addr)
		}
	}
	for i := range max(len(same), len(other)) {
		turns = append(turns, same[min(i, len(same)):min(i+1, len(same))]...)
		turns = append(turns, other[min(i, len(other)):min(i+1, len(other))]...)
	}
	return turns[:min(len(turns), maxDials)]
}

// attempt is what came of dialling one address.
type attempt struct {
	conn net.Conn
	err  error
}

// race dials addresses, each a moment after the one before it, or at once when that one
// has failed. The first connection wins, and the others are closed before it returns.
func (g *Gateway) race(ctx context.Context, addrs []netip.Addr, port int) (net.Conn, error) {
	if len(addrs) == 1 {
		return g.dialOne(ctx, addrs[0], port)
	}
	ctx, cancel := context.WithCancel(ctx)
	var dialling sync.WaitGroup
	attempts := make(chan attempt, len(addrs))
	next := time.NewTimer(0)
	defer next.Stop()
	var won net.Conn
	var failed error
	for started, ended := 0, 0; won == nil && ended < len(addrs); {
		select {
		case <-next.C:
			if started < len(addrs) {
				addr := addrs[started]
				dialling.Go(func() {
					conn, err := g.dialOne(ctx, addr, port)
					attempts <- attempt{conn, err}
				})
				started++
				next.Reset(nextDial)
			}
		case a := <-attempts:
			ended++
			won = a.conn
			if failed == nil {
				failed = a.err
			}
			next.Reset(0)
		}
	}
	cancel()
	dialling.Wait()
	close(attempts)
	for late := range attempts {
		if late.conn != nil {
			_ = late.conn.Close()
		}
	}
	if won == nil {
		return nil, failed
	}
	return won, nil
}

// dialOne connects to an address that has been checked.
func (g *Gateway) dialOne(ctx context.Context, addr netip.Addr, port int) (net.Conn, error) {
	to := netip.AddrPortFrom(addr, uint16(port))
	if g.o.Dial != nil {
		return g.o.Dial(ctx, to)
	}
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", to.String())
	if err != nil {
		return nil, err
	}
	if reason := g.checkPeer(conn, addr); reason != "" {
		_ = conn.Close()
		return nil, &failure{wire.EgressForbidden, reason}
	}
	return conn, nil
}

// checkPeer finds connections of the host with itself that the list of its interfaces
// didn't show, as those to a whole range that is routed to loopback: the kernel then gives
// both ends the same address.
func (g *Gateway) checkPeer(conn net.Conn, addr netip.Addr) string {
	local, ok1 := conn.LocalAddr().(*net.TCPAddr)
	remote, ok2 := conn.RemoteAddr().(*net.TCPAddr)
	if !ok1 || !ok2 || !local.IP.Equal(remote.IP) || slices.Contains(g.guard.private(), netip.PrefixFrom(addr, addr.BitLen())) {
		return ""
	}
	return fmt.Sprintf("%s is an address of the host", addr)
}

// brief says what went wrong without the addresses of the daemon's side.
func brief(err error) string {
	var op *net.OpError
	var timeout net.Error
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return "it did not answer in time"
	case errors.As(err, &op) && op.Err != nil:
		return printable(op.Err.Error())
	}
	return printable(err.Error())
}
