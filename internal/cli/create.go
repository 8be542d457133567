package cli

import (
	"context"
	"fmt"
	"net"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/covehq/cove"
	"github.com/covehq/cove/client"
)

func (p *program) createVerb() *cobra.Command {
	var (
		spec  cove.Spec
		reuse bool
	)
	cmd := &cobra.Command{
		Use:   "create [flags]",
		Short: "Make a sandbox and print its id",
		Long: `Make a sandbox that stays until it is removed or its time is over, and print its id.

With --json, prints the sandbox as GET /v1/sandboxes/{id} does.`,
		Example: `  cove create
  cove create --name build --memory 2g --cpus 2 --ttl 8h --env TOKEN --label team=ml
  id=$(cove create --name build --reuse -p 8080:8000 -v ./src:/workspace/src:ro)`,
		Args: arguments(),
		RunE: verb(func(ctx context.Context, _ []string) error { return p.create(ctx, spec, reuse) }),
	}
	// The closure above reads spec when the verb runs, after the flags are parsed.
	specFlags(cmd.Flags(), &spec)
	cmd.Flags().BoolVar(&reuse, "reuse", false, "take the sandbox that has the --name already, if it was created with the same flags")
	p.completeSpec(cmd)
	return cmd
}

func (p *program) create(ctx context.Context, spec cove.Spec, reuse bool) error {
	if reuse && spec.Name == "" {
		return usage("--reuse needs --name", "as in: cove create --name build --reuse")
	}
	c, err := p.connect(ctx)
	if err != nil {
		return err
	}
	if isTerminal(p.Stderr) && !p.json { // for the progress
		if _, err := p.provide(ctx, c, &spec); err != nil {
			return err
		}
	}
	sandbox, err := c.Create(ctx, spec, client.CreateOptions{Reuse: reuse})
	if err != nil {
		return err
	}
	if p.json {
		return p.writeJSON(sandbox.Sandbox)
	}
	for _, degree := range []cove.Enforcement{cove.Degraded, cove.Unsupported} {
		if names := controls(sandbox.Controls, degree); names != "" {
			fmt.Fprintf(p.Stderr, "cove: %s on this machine: %s\n", degree, names)
		}
	}
	p.tellPorts(spec, sandbox)
	_, err = fmt.Fprintln(p.Stdout, sandbox.ID)
	return err
}

// tellPorts says which ports are open of those that were left to the daemon.
func (p *program) tellPorts(asked cove.Spec, sandbox *client.Sandbox) {
	for i, port := range sandbox.Spec.Ports {
		if i < len(asked.Ports) && asked.Ports[i].HostPort == 0 {
			fmt.Fprintf(p.Stderr, "cove: port %d is open as %s\n", port.Port, portText(port))
		}
	}
}

func portText(port cove.Port) string {
	return net.JoinHostPort(port.Address, strconv.Itoa(port.HostPort))
}
