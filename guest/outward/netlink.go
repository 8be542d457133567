package outward

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// everything are the networks that make up IPv4, but for loopback's own, in pieces that
// Linux takes: it ignores 0.0.0.0/1. An interface of loopback's owns the whole of each.
var everything = []netip.Prefix{
	netip.MustParsePrefix("1.0.0.1/8"), netip.MustParsePrefix("2.0.0.1/7"), netip.MustParsePrefix("4.0.0.1/6"), netip.MustParsePrefix("8.0.0.1/5"),
	netip.MustParsePrefix("16.0.0.1/4"), netip.MustParsePrefix("32.0.0.1/3"), netip.MustParsePrefix("64.0.0.1/2"), netip.MustParsePrefix("128.0.0.1/1"),
}

// ownEverything makes every address of IPv4 one of loopback's. It refuses a network that has
// anything else: that would not be the sandbox's own, and lose all that it reaches.
func ownEverything() error {
	interfaces, err := net.Interfaces()
	if err != nil {
		return err
	}
	for _, i := range interfaces {
		if i.Flags&net.FlagUp != 0 && i.Flags&net.FlagLoopback == 0 {
			return fmt.Errorf("there is another interface, %s", i.Name)
		}
	}
	index, err := raiseLoopback()
	if err != nil {
		return err
	}
	socket, err := openNetlink(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer socket.close()
	for _, prefix := range everything {
		addr := prefix.Addr().As4()
		body := make([]byte, unix.SizeofIfAddrmsg)
		body[0], body[1], body[3] = unix.AF_INET, byte(prefix.Bits()), unix.RT_SCOPE_UNIVERSE
		binary.NativeEndian.PutUint32(body[4:], uint32(index))
		body = appendAttribute(body, unix.IFA_LOCAL, addr[:])
		body = appendAttribute(body, unix.IFA_ADDRESS, addr[:])
		socket.add(unix.RTM_NEWADDR, unix.NLM_F_ACK|unix.NLM_F_CREATE|unix.NLM_F_EXCL, body)
	}
	return socket.send(unix.EEXIST)
}

// raiseLoopback brings lo up, where the runtime has not, and returns its index.
func raiseLoopback() (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	request, err := unix.NewIfreq("lo")
	if err != nil {
		return 0, err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, request); err != nil {
		return 0, fmt.Errorf("index of lo: %w", err)
	}
	index := int(request.Uint32())
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, request); err != nil {
		return 0, fmt.Errorf("flags of lo: %w", err)
	}
	if flags := request.Uint16(); flags&unix.IFF_UP == 0 {
		request.SetUint16(flags | unix.IFF_UP)
		if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, request); err != nil {
			return 0, fmt.Errorf("bring lo up: %w", err)
		}
	}
	return index, nil
}

// netlink is a socket to a part of the kernel, and the messages that are to be sent.
type netlink struct {
	fd       int
	messages []byte
	sequence uint32
	acks     int // that will come
}

func openNetlink(family int) (*netlink, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, family)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	patience := unix.NsecToTimeval(int64(5 * time.Second))
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &patience); err != nil {
		_ = unix.Close(fd)
		return nil, os.NewSyscallError("setsockopt", err)
	}
	return &netlink{fd: fd}, nil
}

func (n *netlink) close() { _ = unix.Close(n.fd) }

// add appends a message.
func (n *netlink) add(kind, flags int, body []byte) {
	n.sequence++
	if flags&unix.NLM_F_ACK != 0 {
		n.acks++
	}
	n.messages = binary.NativeEndian.AppendUint32(n.messages, uint32(unix.SizeofNlMsghdr+len(body)))
	n.messages = binary.NativeEndian.AppendUint16(n.messages, uint16(kind))
	n.messages = binary.NativeEndian.AppendUint16(n.messages, uint16(flags|unix.NLM_F_REQUEST))
	n.messages = binary.NativeEndian.AppendUint32(n.messages, n.sequence)
	n.messages = binary.NativeEndian.AppendUint32(n.messages, 0)
	n.messages = align(append(n.messages, body...))
}

// send sends the messages in one go, and returns the first error that the kernel has for one
// of them, but for one.
func (n *netlink) send(ignored error) error {
	if err := unix.Sendto(n.fd, n.messages, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return os.NewSyscallError("send", err)
	}
	buffer := make([]byte, 8<<10)
	for n.acks > 0 {
		size, _, err := unix.Recvfrom(n.fd, buffer, 0)
		if err != nil {
			return os.NewSyscallError("receive", err)
		}
		if err := n.acknowledge(buffer[:size], ignored); err != nil {
			return err
		}
	}
	return nil
}

// acknowledge reads what the kernel says.
func (n *netlink) acknowledge(messages []byte, ignored error) error {
	for len(messages) >= unix.SizeofNlMsghdr {
		size := int(binary.NativeEndian.Uint32(messages))
		if size < unix.SizeofNlMsghdr || size > len(messages) {
			return errors.New("a message of the kernel's is cut off")
		}
		if binary.NativeEndian.Uint16(messages[4:]) == unix.NLMSG_ERROR && size >= unix.SizeofNlMsghdr+4 {
			n.acks--
			errno := unix.Errno(-int32(binary.NativeEndian.Uint32(messages[unix.SizeofNlMsghdr:])))
			if errno != 0 && errno != ignored {
				return errno
			}
		}
		messages = messages[min((size+3)&^3, len(messages)):]
	}
	return nil
}

// appendAttribute appends an attribute to a message's body.
func appendAttribute(body []byte, kind int, value []byte) []byte {
	body = binary.NativeEndian.AppendUint16(body, uint16(unix.SizeofNlAttr+len(value)))
	body = binary.NativeEndian.AppendUint16(body, uint16(kind))
	return align(append(body, value...))
}

// align pads to a multiple of four bytes.
func align(b []byte) []byte {
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}
