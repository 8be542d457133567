package outward

import (
	"container/list"
	"encoding/binary"
	"net/netip"
	"strings"
	"sync"
)

// names gives names addresses of a prefix. A name keeps its address as long as it is among
// those that were used last, and one that it lost is given away only after all others.
type names struct {
	prefix netip.Prefix // of 16 bits

	mu      sync.Mutex
	next    uint16
	byName  map[string]*list.Element // of *named
	byAddr  map[uint16]*list.Element
	recency *list.List // the first was used last
}

type named struct {
	name string
	host uint16 // the address's last two bytes
}

// maxNames bounds the names that have an address, and with it what a program can make the
// agent remember: 4 MiB or so. A quarter of the prefix, so that addresses rest.
const maxNames = 1 << 14

// firstHost is the first address that is given away. The resolver is below it.
const firstHost = 16

func newNames(prefix netip.Prefix) *names {
	return &names{prefix: prefix, next: firstHost, byName: map[string]*list.Element{}, byAddr: map[uint16]*list.Element{}, recency: list.New()}
}

// address returns the address of a name.
func (n *names) address(name string) netip.Addr {
	n.mu.Lock()
	defer n.mu.Unlock()
	if found := n.byName[name]; found != nil {
		n.recency.MoveToFront(found)
		return n.at(found.Value.(*named).host)
	}
	if len(n.byName) >= maxNames {
		n.forget(n.recency.Back())
	}
	for n.byAddr[n.next] != nil {
		n.advance()
	}
	entry := n.recency.PushFront(&named{name, n.next})
	n.byName[name], n.byAddr[n.next] = entry, entry
	n.advance()
	return n.at(entry.Value.(*named).host)
}

func (n *names) advance() {
	if n.next++; n.next < firstHost || n.next == 1<<16-1 {
		n.next = firstHost
	}
}

func (n *names) forget(entry *list.Element) {
	old := n.recency.Remove(entry).(*named)
	delete(n.byName, old.name)
	delete(n.byAddr, old.host)
}

// name returns the name that has an address, or "".
func (n *names) name(addr netip.Addr) string {
	bytes := addr.As4()
	n.mu.Lock()
	defer n.mu.Unlock()
	found := n.byAddr[binary.BigEndian.Uint16(bytes[2:])]
	if found == nil {
		return ""
	}
	n.recency.MoveToFront(found)
	return found.Value.(*named).name
}

func (n *names) at(host uint16) netip.Addr {
	bytes := n.prefix.Addr().As4()
	binary.BigEndian.PutUint16(bytes[2:], host)
	return netip.AddrFrom4(bytes)
}

// cleanName returns a name in lower case without the dot at its end, and whether it is one
// that a host may have.
func cleanName(name string) (string, bool) {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	if len(name) == 0 || len(name) > 253 {
		return "", false
	}
	for label := range strings.SplitSeq(name, ".") {
		if len(label) == 0 || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return "", false
		}
		for _, c := range []byte(label) {
			if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
				return "", false
			}
		}
	}
	return name, true
}
