package client_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"strings"

	"github.com/covehq/cove"
	"github.com/covehq/cove/client"
)

// A sandbox for one job: create it, bring a file in, run something, throw it away.
func Example() {
	ctx := context.Background()
	c, err := client.New(client.Options{})
	if err != nil {
		log.Fatal(err)
	}
	sandbox, err := c.Create(ctx, cove.Spec{Limits: cove.Limits{Memory: 256 * cove.MiB}}, client.CreateOptions{})
	if err != nil {
		log.Fatal(err, "\n", cove.HintOf(err))
	}
	defer sandbox.Remove(ctx)
	if _, err := sandbox.Files().WriteFile(ctx, "main.py", strings.NewReader("print(6*7)"), 0o644); err != nil {
		log.Fatal(err)
	}
	out, err := sandbox.CommandContext(ctx, "python3", "main.py").Output()
	var exit *client.ExitError
	if errors.As(err, &exit) {
		log.Fatalf("python ended with %d: %s", exit.ExitCode(), exit.Stderr)
	} else if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s", out)
}

// A command whose input and output are this program's.
func ExampleSandbox_Command() {
	c, err := client.New(client.Options{})
	if err != nil {
		log.Fatal(err)
	}
	cmd := c.Handle("web").Command("sh", "-c", "sort | uniq -c")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		log.Fatal(err)
	}
}

// A process that outlives the program which started it.
func ExampleSandbox_Start() {
	ctx := context.Background()
	c, err := client.New(client.Options{})
	if err != nil {
		log.Fatal(err)
	}
	process, err := c.Handle("web").Start(ctx, cove.ProcessRequest{Command: cove.Command{Line: "make test"}, Tag: "tests"})
	if err != nil {
		log.Fatal(err)
	}
	output, err := process.Output(ctx, cove.FromStart(), true)
	if err != nil {
		log.Fatal(err)
	}
	defer output.Close()
	for {
		next, err := output.Next()
		if err != nil {
			break
		}
		os.Stdout.Write(next.Data)
	}
}
