package outward

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"

	"github.com/covehq/cove/guest/wire"
)

// dnsPorts are where the resolver is.
type dnsPorts struct{ udp, tcp int }

const (
	// maxQuery bounds a query: one question, with what a client says of itself.
	maxQuery = 1232
	// maxQueries bounds how many are answered at a time, and maxStreams how many streams there
	// are for queries.
	maxQueries, maxStreams = 1024, 64
	// streamPatience bounds how long a stream may be silent.
	streamPatience = 10 * time.Second
	// How long programs may remember an address, in seconds. That of a name without a rule
	// may get one.
	ttlReachable, ttlUnreachable = 5, 1
)

// serveDNS starts the resolver, at these ports or others. By TCP it answers while something
// may be reached; until then a connection there is refused as any other.
func (w *Way) serveDNS(address string, port int) (dnsPorts, error) {
	packets, err := net.ListenPacket("udp4", net.JoinHostPort(address, strconv.Itoa(port)))
	if err != nil && port != 53 {
		packets, err = net.ListenPacket("udp4", net.JoinHostPort(address, "0"))
	}
	if err != nil {
		return dnsPorts{}, err
	}
	holder, err := hold(address, port)
	if err != nil {
		return dnsPorts{}, errors.Join(err, packets.Close())
	}
	ports := dnsPorts{udp: packets.LocalAddr().(*net.UDPAddr).Port, tcp: holder.port}
	w.queries = &door{holder: holder, serve: w.serveStreams}
	w.dns = []io.Closer{packets, w.queries}
	roomForQueries(packets.(*net.UDPConn))
	w.own[uint16(ports.tcp)] = true
	w.work.Go(func() { w.servePackets(packets.(*net.UDPConn)) })
	return ports, nil
}

// roomForQueries has the socket keep as many queries as there may be at a time. What has no
// place there is lost, and asked again after seconds. It takes what the kernel gives.
func roomForQueries(packets *net.UDPConn) {
	const size = maxQueries * 2 << 10 // a packet counts for more than it has
	raw, err := packets.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, size)
	})
	if err != nil { // no right to more than the system's bound
		_ = packets.SetReadBuffer(size)
	}
}

// servePackets answers queries by UDP until the socket is closed.
func (w *Way) servePackets(packets *net.UDPConn) {
	room := make(chan struct{}, maxQueries)
	buffer := make([]byte, maxQuery)
	for {
		n, from, err := packets.ReadFromUDPAddrPort(buffer)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // of the answer before, to one who did not wait for it
		}
		query, failed := parse(buffer[:n])
		if failed != nil {
			_, _ = packets.WriteToUDPAddrPort(failed, from)
			continue
		}
		if query == nil {
			continue
		}
		room <- struct{}{} // until then queries wait in the socket
		w.work.Go(func() {
			defer func() { <-room }()
			_, _ = packets.WriteToUDPAddrPort(w.resolve(query), from)
		})
	}
}

// serveStreams answers queries by TCP until the listener is closed.
func (w *Way) serveStreams(listener *net.TCPListener) {
	room := make(chan struct{}, maxStreams)
	for {
		c, err := listener.AcceptTCP()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(50 * time.Millisecond) // for descriptors to become free
			continue
		}
		select {
		case room <- struct{}{}:
		default:
			reset(c)
			continue
		}
		if !w.track(c) {
			reset(c)
			<-room
			continue
		}
		w.work.Go(func() {
			defer func() { <-room }()
			defer w.untrack(c)
			w.serveStream(c)
		})
	}
}

// serveStream answers the queries of one stream, each with its length before it.
func (w *Way) serveStream(c net.Conn) {
	buffer := make([]byte, maxQuery)
	for {
		_ = c.SetDeadline(time.Now().Add(streamPatience))
		if _, err := io.ReadFull(c, buffer[:2]); err != nil {
			return
		}
		size := int(binary.BigEndian.Uint16(buffer))
		if size > len(buffer) {
			return
		}
		if _, err := io.ReadFull(c, buffer[:size]); err != nil {
			return
		}
		query, reply := parse(buffer[:size])
		if query != nil {
			reply = w.resolve(query)
		}
		if reply == nil || !w.isEnabled() {
			return
		}
		_ = c.SetDeadline(time.Now().Add(streamPatience))
		if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(reply))), reply...)); err != nil {
			return
		}
	}
}

// query is a question about one name.
type query struct {
	header   dnsmessage.Header
	question dnsmessage.Question
}

// parse reads a query. What is none gets the reply that is returned, or silence.
func parse(packet []byte) (*query, []byte) {
	var parser dnsmessage.Parser
	header, err := parser.Start(packet)
	if err != nil || header.Response {
		return nil, nil
	}
	q := &query{header: header}
	if header.OpCode != 0 {
		return nil, q.answer(dnsmessage.RCodeNotImplemented, nil)
	}
	questions, err := parser.AllQuestions()
	if err != nil || len(questions) != 1 {
		return nil, q.answer(dnsmessage.RCodeFormatError, nil)
	}
	q.question = questions[0]
	if q.question.Class != dnsmessage.ClassINET {
		return nil, q.answer(dnsmessage.RCodeNotImplemented, nil)
	}
	return q, nil
}

// answer makes a reply, of no addresses or of those.
func (q *query) answer(code dnsmessage.RCode, addrs []netip.Addr) []byte {
	builder := dnsmessage.NewBuilder(make([]byte, 0, 512), dnsmessage.Header{
		ID: q.header.ID, Response: true, OpCode: q.header.OpCode, RecursionDesired: q.header.RecursionDesired, RecursionAvailable: true, RCode: code,
	})
	builder.EnableCompression()
	err := builder.StartQuestions()
	if q.question.Type != 0 {
		err = errors.Join(err, builder.Question(q.question))
	}
	err = errors.Join(err, builder.StartAnswers())
	for _, addr := range addrs {
		ttl := uint32(ttlReachable)
		if unreachable.Contains(addr) || unreachableHere.Contains(addr) {
			ttl = ttlUnreachable
		}
		head := dnsmessage.ResourceHeader{Name: q.question.Name, Class: dnsmessage.ClassINET, TTL: ttl}
		if addr.Is4() {
			err = errors.Join(err, builder.AResource(head, dnsmessage.AResource{A: addr.As4()}))
		} else {
			err = errors.Join(err, builder.AAAAResource(head, dnsmessage.AAAAResource{AAAA: addr.As16()}))
		}
	}
	reply, last := builder.Finish()
	if errors.Join(err, last) != nil {
		return nil // the name came from a packet, and fits into one
	}
	return reply
}

// resolve answers a query. Where nothing may be reached no name exists: to that every C
// library gives up at once, while musl ignores a refusal, and to glibc it is one for now.
func (w *Way) resolve(q *query) []byte {
	name, ok := cleanName(q.question.Name.String())
	switch {
	case !ok, name == "arpa", strings.HasSuffix(name, ".arpa"):
		return q.answer(dnsmessage.RCodeNameError, nil)
	case name == "localhost", strings.HasSuffix(name, ".localhost"):
		return q.answer(dnsmessage.RCodeSuccess, q.only(netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()))
	case !w.isEnabled():
		w.report(name)
		return q.answer(dnsmessage.RCodeNameError, nil)
	}
	switch w.lookups.find(name) {
	case wire.EgressOK:
		return q.answer(dnsmessage.RCodeSuccess, q.of(w.names, name))
	case wire.EgressForbidden:
		return q.answer(dnsmessage.RCodeSuccess, q.of(w.refused, name))
	case wire.EgressNotFound:
		return q.answer(dnsmessage.RCodeNameError, nil)
	default:
		return q.answer(dnsmessage.RCodeServerFailure, nil)
	}
}

// of returns the address of a name, where the query is for one of IPv4. There are no others,
// so that programs go on with it.
func (q *query) of(table *names, name string) []netip.Addr {
	if q.question.Type != dnsmessage.TypeA && q.question.Type != dnsmessage.TypeALL {
		return nil
	}
	return []netip.Addr{table.address(name)}
}

// only returns those addresses that the query is for.
func (q *query) only(four, six netip.Addr) []netip.Addr {
	switch q.question.Type {
	case dnsmessage.TypeA:
		return []netip.Addr{four}
	case dnsmessage.TypeAAAA:
		return []netip.Addr{six}
	}
	return nil
}
