package outward

import (
	"encoding/binary"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The interface of iptables, before nftables: a table is replaced whole by one setsockopt.
// Its structures are those of linux/netfilter_ipv4/ip_tables.h for processors of 64 bits.
// gVisor has this interface, and Linux as a module that some distributions leave out.
const (
	setReplace = 64 // IPT_SO_SET_REPLACE
	getInfo    = 64 // IPT_SO_GET_INFO

	sizeOfReplace = 96
	sizeOfEntry   = 112
	sizeOfMatch   = 48 // with the part for TCP or UDP
	sizeOfVerdict = 40
	sizeOfError   = 64
	sizeOfRewrite = 56 // a REDIRECT

	accept            = -2 // -NF_ACCEPT - 1
	inverseTarget     = 0x10
	protocolSpecified = 2
)

// The chains of the table nat, by the number of their hook.
var chains = []int{unix.NF_INET_PRE_ROUTING, unix.NF_INET_LOCAL_IN, unix.NF_INET_LOCAL_OUT, unix.NF_INET_POST_ROUTING}

// installLegacy makes rules the table nat, which nobody else has used yet.
func installLegacy(rules []rule) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	before, err := entriesOf(fd)
	if err != nil {
		return err
	}
	// The kernel hands back the counters of the rules that were there.
	counters := make([]byte, 16*before)
	table := encodeTable(rules)
	binary.NativeEndian.PutUint32(table[84:], uint32(before))
	binary.NativeEndian.PutUint64(table[88:], uint64(uintptr(unsafe.Pointer(&counters[0]))))
	_, _, errno := unix.Syscall6(unix.SYS_SETSOCKOPT, uintptr(fd), unix.SOL_IP, setReplace, uintptr(unsafe.Pointer(&table[0])), uintptr(len(table)), 0)
	runtime.KeepAlive(counters)
	if errno != 0 {
		return os.NewSyscallError("setsockopt", errno)
	}
	return nil
}

// entriesOf returns how many rules the table nat has.
func entriesOf(fd int) (int, error) {
	info := make([]byte, 84)
	copy(info, "nat")
	size := uint32(len(info))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_IP, getInfo, uintptr(unsafe.Pointer(&info[0])), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return 0, os.NewSyscallError("getsockopt", errno)
	}
	entries := binary.NativeEndian.Uint32(info[76:])
	if entries == 0 || entries > 1<<16 {
		return 0, fmt.Errorf("the table has %d rules", entries)
	}
	return int(entries), nil
}

// encodeTable returns the table nat with rules for what leaves. Every chain ends in what
// happens to the rest: nothing.
func encodeTable(rules []rule) []byte {
	var entries []byte
	var begin, end [5]uint32
	count, hooks := 0, uint32(0)
	for _, chain := range chains {
		hooks |= 1 << chain
		begin[chain] = uint32(len(entries))
		if chain == unix.NF_INET_LOCAL_OUT {
			for _, r := range rules {
				entries = append(entries, r.encode()...)
				count++
			}
		}
		end[chain] = uint32(len(entries))
		entries = append(entries, encodeEntry(nil, encodeVerdict())...)
		count++
	}
	last := make([]byte, sizeOfError)
	binary.NativeEndian.PutUint16(last, sizeOfError)
	copy(last[2:], "ERROR")
	copy(last[32:], "ERROR")
	entries = append(entries, encodeEntry(nil, last)...)
	count++
	table := make([]byte, sizeOfReplace)
	copy(table, "nat")
	binary.NativeEndian.PutUint32(table[32:], hooks)
	binary.NativeEndian.PutUint32(table[36:], uint32(count))
	binary.NativeEndian.PutUint32(table[40:], uint32(len(entries)))
	for chain := range begin {
		binary.NativeEndian.PutUint32(table[44+4*chain:], begin[chain])
		binary.NativeEndian.PutUint32(table[64+4*chain:], end[chain])
	}
	return append(table, entries...)
}

// encodeEntry returns a rule that matches everything.
func encodeEntry(match, target []byte) []byte {
	entry := make([]byte, sizeOfEntry, sizeOfEntry+len(match)+len(target))
	binary.NativeEndian.PutUint16(entry[88:], uint16(sizeOfEntry+len(match)))
	binary.NativeEndian.PutUint16(entry[90:], uint16(sizeOfEntry+len(match)+len(target)))
	return append(append(entry, match...), target...)
}

func encodeVerdict() []byte {
	target := make([]byte, sizeOfVerdict)
	binary.NativeEndian.PutUint16(target, sizeOfVerdict)
	verdict := int32(accept)
	binary.NativeEndian.PutUint32(target[32:], uint32(verdict))
	return target
}

// encode returns the rule as an entry.
func (r rule) encode() []byte {
	entry := encodeEntry(r.encodeMatch(), r.encodeTarget())
	addr, mask := r.to.Masked().Addr().As4(), maskOf(r.to)
	copy(entry[4:], addr[:])
	copy(entry[12:], mask[:])
	binary.NativeEndian.PutUint16(entry[80:], uint16(r.protocol))
	if r.not {
		entry[83] = inverseTarget
	}
	return entry
}

// encodeMatch returns what the rule wants of ports.
func (r rule) encodeMatch() []byte {
	match := make([]byte, sizeOfMatch)
	binary.NativeEndian.PutUint16(match, sizeOfMatch)
	name := "tcp"
	if r.protocol == unix.IPPROTO_UDP {
		name = "udp"
	}
	copy(match[2:], name)
	low, high := uint16(0), uint16(65535)
	if r.port != 0 {
		low, high = uint16(r.port), uint16(r.port)
	}
	for i, port := range []uint16{0, 65535, low, high} { // of the source, and of the target
		binary.NativeEndian.PutUint16(match[32+2*i:], port)
	}
	return match
}

func (r rule) encodeTarget() []byte {
	target := make([]byte, sizeOfRewrite)
	binary.NativeEndian.PutUint16(target, sizeOfRewrite)
	copy(target[2:], "REDIRECT")
	binary.NativeEndian.PutUint32(target[32:], 1) // range
	binary.NativeEndian.PutUint32(target[36:], protocolSpecified)
	binary.BigEndian.PutUint16(target[48:], uint16(r.redirect))
	binary.BigEndian.PutUint16(target[50:], uint16(r.redirect))
	return target
}
