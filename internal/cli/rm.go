package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/covehq/cove"
	"github.com/covehq/cove/client"
)

func (p *program) rmVerb() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "rm ID… | --all",
		Short: "Destroy sandboxes",
		Long: `Destroy sandboxes with everything in them, and print the ids of those that are gone.

With --json, prints the sandboxes as they were, as GET /v1/sandboxes lists them.`,
		Example: `  cove rm build
  cove rm --all`,
		ValidArgsFunction: p.completeSandboxes,
		Args: func(cmd *cobra.Command, args []string) error {
			if all && len(args) > 0 {
				return usage("--all and ids exclude each other", "leave one of them out")
			}
			if all {
				return nil
			}
			return arguments("ID…")(cmd, args)
		},
		RunE: verb(func(ctx context.Context, args []string) error { return p.remove(ctx, args, all) }),
	}
	cmd.Flags().BoolVar(&all, "all", false, "destroy every sandbox")
	return cmd
}

func (p *program) remove(ctx context.Context, ids []string, all bool) error {
	c, err := p.connect(ctx)
	if err != nil {
		return err
	}
	if all {
		sandboxes, err := c.List(ctx, client.Filter{})
		if err != nil {
			return err
		}
		for _, s := range sandboxes {
			ids = append(ids, s.ID)
		}
	}
	removed := []cove.Sandbox{}
	var failures []error
	for _, id := range ids {
		s, err := p.removeOne(ctx, c, id)
		switch {
		case err == nil:
			removed = append(removed, s)
		case all && cove.CodeOf(err) == cove.NotFound: // somebody else was faster
		default:
			failures = append(failures, err)
		}
	}
	if p.json {
		failures = append(failures, p.writeJSON(map[string][]cove.Sandbox{"sandboxes": removed}))
	}
	return errors.Join(failures...)
}

func (p *program) removeOne(ctx context.Context, c *client.Client, id string) (cove.Sandbox, error) {
	s, err := c.Get(ctx, id)
	if err != nil {
		return cove.Sandbox{}, cove.Wrap(err, "remove", id)
	}
	if err := s.Remove(ctx); err != nil {
		return cove.Sandbox{}, cove.Wrap(err, "remove", id)
	}
	if !p.json {
		_, err = fmt.Fprintln(p.Stdout, s.ID)
	}
	return s.Sandbox, err
}
