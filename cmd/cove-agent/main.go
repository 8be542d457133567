// Command cove-agent is process 1 of every sandbox. It serves whoever holds its standard
// input; "cove-agent connect", run inside, leads another stream to it.
package main

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"

	"github.com/covehq/cove"
	"github.com/covehq/cove/guest"
)

const usage = `usage: cove-agent          serve standard input and the sockets in ` + guest.RunDir + `
       cove-agent connect  hand standard input over to the running agent, or bridge to it
       cove-agent version  print the version`

func main() {
	guest.Limit()
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "cove-agent: %v\n", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 0:
		economize()
		return guest.Boot(guest.RunDir, os.Stderr)
	case len(args) == 1 && args[0] == "connect":
		return guest.Connect(guest.RunDir, os.Stdin, os.Stdout)
	case len(args) == 1 && args[0] == "version":
		fmt.Println(cove.Version)
		return nil
	}
	return fmt.Errorf("unknown arguments %q\n%s", args, usage)
}

// economize keeps the agent small beside what the sandbox is for: little garbage waits to
// be collected, and its threads, which the sandbox's limit on processes counts, are few.
func economize() {
	debug.SetGCPercent(50)
	runtime.GOMAXPROCS(min(runtime.GOMAXPROCS(0), 4))
}
