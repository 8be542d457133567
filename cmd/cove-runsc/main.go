// Command cove-runsc is gVisor's runsc from the module pinned in go.mod: an OCI
// runtime for Cove, and for any engine that takes one. It is a program of its own so
// that gVisor's start-up code never runs in Cove, nor Cove's in gVisor.
package main

import (
	"os"

	"gvisor.dev/gvisor/runsc/cli/maincli"
)

func main() {
	os.Args = withOwn(os.Args)
	maincli.Main()
}
