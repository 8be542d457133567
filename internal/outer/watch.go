package outer

import (
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

type syscallConn = syscall.RawConn

// watch begins to write down what arrives by the wire.
func (w *World) watch() error {
	err := w.In(func() error {
		link, err := net.InterfaceByName("wire")
		if err != nil {
			return err
		}
		all := int(binary.NativeEndian.Uint16([]byte{0, unix.ETH_P_ALL})) // in network order
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, all)
		if err != nil {
			return os.NewSyscallError("socket", err)
		}
		w.capture = fd
		return os.NewSyscallError("bind", unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: uint16(all), Ifindex: link.Index}))
	})
	if err != nil {
		return err
	}
	w.capturing.Go(func() {
		buffer := make([]byte, 1<<16)
		for {
			n, from, err := unix.Recvfrom(w.capture, buffer, 0)
			if err == unix.EINTR {
				continue
			}
			if err != nil || n == 0 && from == nil {
				return
			}
			if link, ok := from.(*unix.SockaddrLinklayer); ok && link.Pkttype != unix.PACKET_OUTGOING {
				w.note(buffer[:n])
			}
		}
	})
	return nil
}

// note writes down a packet, unless one like it has come before.
func (w *World) note(packet []byte) {
	p, ok := parse(packet)
	if !ok {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if !slices.Contains(w.packets, p) {
		w.packets = append(w.packets, p)
	}
}

// parse reads the heads of a packet of IPv4 or IPv6. ok is false for what machines on a
// wire say to find each other.
func parse(packet []byte) (p Packet, ok bool) {
	if len(packet) < 20 {
		return p, false
	}
	var (
		protocol byte
		to       netip.Addr
		body     []byte
	)
	switch packet[0] >> 4 {
	case 4:
		head := int(packet[0]&15) * 4
		if len(packet) < head {
			return p, false
		}
		protocol, to, body = packet[9], netip.AddrFrom4([4]byte(packet[16:20])), packet[head:]
	case 6:
		if len(packet) < 40 {
			return p, false
		}
		protocol, to, body = packet[6], netip.AddrFrom16([16]byte(packet[24:40])), packet[40:]
	default:
		return p, false // ARP
	}
	p = Packet{Protocol: strconv.Itoa(int(protocol)), To: to.String()}
	switch protocol {
	case unix.IPPROTO_TCP, unix.IPPROTO_UDP:
		p.Protocol = map[byte]string{unix.IPPROTO_TCP: "tcp", unix.IPPROTO_UDP: "udp"}[protocol]
		if len(body) >= 4 {
			p.Port = int(binary.BigEndian.Uint16(body[2:]))
		}
	case unix.IPPROTO_ICMP:
		p.Protocol = "icmp"
	case unix.IPPROTO_ICMPV6:
		p.Protocol = "icmp6"
		if len(body) > 0 && body[0] >= 130 { // of multicast listeners, routers and neighbours
			return p, false
		}
	case 0: // hop by hop: reports of multicast listeners
		return p, false
	}
	return p, true
}
