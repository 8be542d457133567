// Command cove gives every agent a computer of its own: it runs commands in sandboxes,
// and is the daemon that keeps them.
package main

import (
	"context"
	"os"

	"github.com/covehq/cove/internal/cli"
	"github.com/covehq/cove/runtime/oci"
)

func main() {
	oci.Stage()
	app := cli.App{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Serve: serve, Conform: conform, Install: install}
	os.Exit(app.Run(context.Background(), os.Args[1:]))
}
