package egress

import (
	"net/netip"

	"github.com/covehq/cove/guest/wire"
)

// peerSuffix ends the names of other sandboxes. It is no top-level domain, and such names
// are never asked of a name server.
const peerSuffix = ".sandbox"

// maxText is how much of the words of a guest or a server is shown.
const maxText = 512

// printable makes them fit for a terminal and a log.
func printable(s string) string { return wire.Printable(s, maxText) }

// target writes where a connection goes: to a name, or to an address where name is "".
func target(name string, addr netip.Addr) string {
	if name != "" {
		return name
	}
	return addr.String()
}
