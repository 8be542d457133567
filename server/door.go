package server

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/covehq/cove"
)

// DoorOptions is how the API is served to the network. Nobody gets in without a key.
type DoorOptions struct {
	// TLS is what the door speaks; nil for plain HTTP, which only a proxy in front or
	// this machine's own programs should see.
	TLS *tls.Config
	// BehindProxy says that a proxy in front speaks TLS. What it says of a request in
	// X-Forwarded-For and X-Forwarded-Proto is believed where it calls from loopback.
	BehindProxy bool
	// Hosts are the names by which the daemon may be called, beside localhost, the address
	// that was called, and the names in the certificate.
	Hosts []string
	// KeyRate is how many requests a key may make in a second, and twice as many at once.
	// Default 500.
	KeyRate float64
	// MaxConnections bounds the open connections; further ones are closed. Default 8192.
	MaxConnections int64
	// BodyPatience is how long a body may take beyond a second for each KiB. Default 30 s.
	BodyPatience time.Duration
}

const (
	defaultKeyRate        = 500
	defaultMaxConnections = 8192
	defaultBodyPatience   = 30 * time.Second
	// keyShare is the part of MaxRequests that one key may have in progress.
	keyShare = 4
	// An address may fail so often to show a key in a second, and so often at once.
	failureRate, failureBurst = 1, 20
	// mostLimited bounds of how many keys, and of how many addresses, the rate is known.
	mostLimited = 10_000
)

// door is what stands between the network and the API.
type door struct {
	DoorOptions
	hosts       []string // in lower case, without ports
	scopes      map[string]cove.Scope
	rates       *limiters
	failures    *limiters
	inUse       *tally // requests in progress, by key
	connections atomic.Int64
}

func newDoor(o DoorOptions, maxRequests int64) *door {
	o.KeyRate = cmp.Or(o.KeyRate, defaultKeyRate)
	o.MaxConnections = cmp.Or(o.MaxConnections, defaultMaxConnections)
	o.BodyPatience = cmp.Or(o.BodyPatience, defaultBodyPatience)
	d := &door{
		DoorOptions: o, hosts: []string{"localhost"}, scopes: scopes(),
		rates:    newLimiters(rate.Limit(o.KeyRate), max(1, int(2*o.KeyRate)), mostLimited),
		failures: newLimiters(failureRate, failureBurst, mostLimited),
		inUse:    &tally{most: max(1, maxRequests/keyShare)},
	}
	for _, host := range o.Hosts {
		d.hosts = append(d.hosts, hostname(host))
	}
	return d
}

// ServeDoor serves the API to the network on a listener, to who has a key, until ctx ends
// and in the manner of Serve. It speaks HTTP/1.1 alone, which upgrades need.
func (s *Server) ServeDoor(ctx context.Context, listener net.Listener) error {
	if s.door == nil || s.keys == nil {
		return errors.Join(listener.Close(), cove.Errorf(cove.Invalid, "serve", "", "a door needs Options.Door and Options.Keys", ""))
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	server := &http.Server{
		Handler: http.HandlerFunc(s.serveDoor), Protocols: protocols, TLSConfig: s.door.TLS,
		ConnState: s.door.count, DisableGeneralOptionsHandler: true,
	}
	return s.serve(ctx, listener, server, &s.doored)
}

// count keeps the number of connections within its bound. One that was taken over is a
// request in progress, and bounded as such.
func (d *door) count(conn net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		if d.connections.Add(1) > d.MaxConnections {
			conn.Close()
		}
	case http.StateHijacked, http.StateClosed:
		d.connections.Add(-1)
	}
}

// serveDoor answers one request from the network.
func (s *Server) serveDoor(w http.ResponseWriter, r *http.Request) {
	s.answer(w, r, &s.doored, func(reply *response, r *http.Request, info *requestInfo) {
		info.client = s.door.client(r)
		pattern, handle := s.match(r)
		info.route = pattern
		body := &paced{ReadCloser: r.Body, controller: reply.controller, patience: s.door.BodyPatience, late: &info.late}
		defer body.leave(reply, r)
		if !unpaced(pattern) {
			r.Body = body
		}
		if err := s.door.admit(r); err != nil {
			s.turnAway(reply, r, err)
			return
		}
		if s.door.scopes[pattern] == anybody {
			handle(reply, r)
			return
		}
		s.withKey(reply, r, info, handle)
	})
}

// errMisdirected is part of the error of a request for somebody else.
var errMisdirected = errors.New("this daemon is not called so")

// turnAway refuses a request and closes its connection.
func (s *Server) turnAway(w *response, r *http.Request, err error) {
	w.Header().Set("Connection", "close")
	switch {
	case errors.Is(err, errMisdirected):
		s.failStatus(w, r, http.StatusMisdirectedRequest, err)
		return
	case errors.Is(err, cove.Unauthenticated):
		w.Header().Set("WWW-Authenticate", `Bearer realm="cove"`)
	}
	s.fail(w, r, err)
}

// admit returns nil for a request that was sent to this daemon, by no page of another
// origin, and on no way that others can look into.
func (d *door) admit(r *http.Request) error {
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	if forwarded := r.Header.Get("X-Forwarded-Proto"); d.BehindProxy && fromLoopback(r) && forwarded != "" {
		scheme = forwarded
		if scheme != "https" {
			return cove.Errorf(cove.Forbidden, "", "", "the request came to the proxy without TLS, and its key could be read on the way", "use https://, and revoke the key")
		}
	}
	if !d.calledSo(r) {
		return &cove.Error{Code: cove.Invalid, Err: errMisdirected, Hint: "call it by a name of its certificate, or list the name in allow_hosts of the daemon's configuration (cove serve --allow-hosts)"}
	}
	if origins := r.Header["Origin"]; len(origins) > 0 {
		secure := scheme == "https" || d.BehindProxy // whose proxy may say nothing
		own := len(origins) == 1 && (strings.EqualFold(origins[0], "https://"+r.Host) || !secure && strings.EqualFold(origins[0], "http://"+r.Host))
		if !own {
			return foreignOrigin()
		}
	}
	switch r.Header.Get("Sec-Fetch-Site") {
	case "", "none", "same-origin":
		return nil
	}
	return foreignOrigin()
}

// calledSo reports whether the daemon answers to the host that a request names. A page can
// have a name of its own resolve to this machine, but it can't choose another one.
func (d *door) calledSo(r *http.Request) bool {
	host := hostname(r.Host)
	if address, err := netip.ParseAddr(host); err == nil {
		called, ok := addressOf(r.Context().Value(http.LocalAddrContextKey))
		return slices.Contains(d.hosts, host) || address.IsLoopback() || ok && address.Unmap() == called
	}
	if slices.Contains(d.hosts, host) {
		return true
	}
	if d.TLS == nil || d.TLS.GetCertificate == nil {
		return false
	}
	certificate, err := d.TLS.GetCertificate(&tls.ClientHelloInfo{ServerName: host})
	return err == nil && certificate.Leaf != nil && certificate.Leaf.VerifyHostname(host) == nil
}

// hostname returns a host in its one spelling: in lower case, without port, brackets and
// a dot at its end.
func hostname(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	return strings.ToLower(strings.TrimSuffix(host, "."))
}

// client returns the address that a request comes from: the peer's, or that which a proxy
// on this machine has seen. Others may write in that header what they like.
func (d *door) client(r *http.Request) string {
	if d.BehindProxy && fromLoopback(r) {
		list := strings.Join(r.Header.Values("X-Forwarded-For"), ",")
		last := strings.TrimSpace(list[strings.LastIndexByte(list, ',')+1:])
		if address, err := netip.ParseAddr(last); err == nil {
			return address.Unmap().String()
		}
	}
	return r.RemoteAddr
}

func fromLoopback(r *http.Request) bool {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	return err == nil && peer.Addr().Unmap().IsLoopback()
}

func addressOf(v any) (netip.Addr, bool) {
	tcp, ok := v.(*net.TCPAddr)
	if !ok {
		return netip.Addr{}, false
	}
	return tcp.AddrPort().Addr().Unmap().WithZone(""), true
}

// network returns of an address what one caller has for itself: all of an IPv4 address, and
// of IPv6 the 64 bits that everybody gets.
func network(client string) string {
	address, err := netip.ParseAddr(hostname(client))
	if err != nil {
		return client
	}
	address = address.Unmap().WithZone("")
	if prefix, err := address.Prefix(64); address.Is6() && err == nil {
		return prefix.String()
	}
	return address.String()
}
