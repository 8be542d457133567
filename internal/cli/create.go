package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/covehq/cove"
	"github.com/covehq/cove/client"
)

func (p *program) createVerb() *cobra.Command {
	var spec cove.Spec
	cmd := &cobra.Command{
		Use:   "create [flags]",
		Short: "Make a sandbox and print its id",
		Long: `Make a sandbox that stays until it is removed or its time is over, and print its id.

With --json, prints the sandbox as GET /v1/sandboxes/{id} does.`,
		Example: `  cove create
  cove create --name build --memory 2g --cpus 2 --ttl 8h --env TOKEN --label team=ml`,
		Args: arguments(),
		RunE: verb(func(ctx context.Context, _ []string) error { return p.create(ctx, spec) }),
	}
	// The closure above reads spec when the verb runs, after the flags are parsed.
	specFlags(cmd.Flags(), &spec)
	p.completeSpec(cmd)
	return cmd
}

func (p *program) create(ctx context.Context, spec cove.Spec) error {
	c, err := p.connect(ctx)
	if err != nil {
		return err
	}
	if isTerminal(p.Stderr) && !p.json { // for the progress
		if _, err := p.provide(ctx, c, &spec); err != nil {
			return err
		}
	}
	sandbox, err := c.Create(ctx, spec, client.CreateOptions{})
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
	_, err = fmt.Fprintln(p.Stdout, sandbox.ID)
	return err
}
