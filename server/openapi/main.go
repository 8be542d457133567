// Command openapi writes the API's OpenAPI document, which is generated from the handlers,
// to the file that its argument names.
package main

import (
	"fmt"
	"os"

	"github.com/covehq/cove/server"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: openapi FILE")
		os.Exit(2)
	}
	document, err := server.OpenAPI()
	if err == nil {
		err = os.WriteFile(os.Args[1], document, 0o644)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "openapi:", err)
		os.Exit(1)
	}
}
