package intercept

import "github.com/covehq/cove/guest/wire"

// maxText is how much of the words of a guest or a server is shown.
const maxText = 512

// printable makes them fit for a terminal and a log.
func printable(s string) string { return wire.Printable(s, maxText) }
