// Command generate writes the definitions of the tools to a file.
package main

import (
	"fmt"
	"os"

	"github.com/covehq/cove/tools"
)

func main() {
	if err := generate(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "generate:", err)
		os.Exit(1)
	}
}

func generate(args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("usage: generate FILE")
	}
	data, err := tools.Export(tools.FormatCove, tools.All())
	if err != nil {
		return err
	}
	return os.WriteFile(args[0], data, 0o644)
}
