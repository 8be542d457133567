package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/covehq/cove"
	"github.com/covehq/cove/client"
)

func (p *program) lsVerb() *cobra.Command {
	var (
		filter client.Filter
		quiet  bool
	)
	cmd := &cobra.Command{
		Use:   "ls [flags]",
		Short: "List sandboxes",
		Long: `List sandboxes, oldest first.

With --json, prints what GET /v1/sandboxes replies.`,
		Example: `  cove ls
  cove ls --label team=ml --state running
  cove rm $(cove ls -q --label team=ml)`,
		Args: arguments(),
		RunE: verb(func(ctx context.Context, _ []string) error { return p.list(ctx, filter, quiet) }),
	}
	flags := cmd.Flags()
	flags.BoolVarP(&quiet, "quiet", "q", false, "print ids only")
	flags.Var(labels{&filter.Labels}, "label", "only sandboxes with this label (repeatable)")
	flags.StringVar((*string)(&filter.State), "state", "", "only sandboxes in this state: creating, running, paused, stopped or failed")
	must(cmd.RegisterFlagCompletionFunc("state", cobra.FixedCompletions([]string{
		string(cove.StateCreating), string(cove.StateRunning), string(cove.StatePaused), string(cove.StateStopped), string(cove.StateFailed),
	}, cobra.ShellCompDirectiveNoFileComp)))
	return cmd
}

func (p *program) list(ctx context.Context, filter client.Filter, quiet bool) error {
	c, err := p.connect(ctx)
	if err != nil {
		return err
	}
	sandboxes, err := c.List(ctx, filter)
	if err != nil {
		return err
	}
	if p.json {
		return p.writeJSON(map[string][]cove.Sandbox{"sandboxes": append([]cove.Sandbox{}, sandboxes...)})
	}
	var rows [][]string
	for _, s := range sandboxes {
		if quiet {
			if _, err := fmt.Fprintln(p.Stdout, s.ID); err != nil {
				return err
			}
			continue
		}
		rows = append(rows, []string{
			s.ID, dash(s.Name), stateText(s), s.Runtime, s.Spec.Image, span(time.Since(s.CreatedAt)), until(s.ExpiresAt),
		})
	}
	if quiet {
		return nil
	}
	return p.table([]string{"ID", "NAME", "STATE", "RUNTIME", "IMAGE", "AGE", "EXPIRES"}, rows)
}

// stateText is a state with its reason: "failed (oom)".
func stateText(s cove.Sandbox) string {
	if s.Reason == "" {
		return string(s.State)
	}
	return fmt.Sprintf("%s (%s)", s.State, s.Reason)
}
