package cli

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/covehq/cove/client"
)

// completionTime is how long somebody who pressed Tab waits.
const completionTime = time.Second

// completeSandbox offers the names, or else ids, of sandboxes for a first argument.
func (p *program) completeSandbox(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return p.sandboxNames(cmd), cobra.ShellCompDirectiveNoFileComp
}

// completeSandboxes offers sandboxes for every argument.
func (p *program) completeSandboxes(cmd *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return p.sandboxNames(cmd), cobra.ShellCompDirectiveNoFileComp
}

// completePath offers files of this machine, and sandboxes followed by a colon.
func (p *program) completePath(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) > 1 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	names := p.sandboxNames(cmd)
	for i := range names {
		names[i] += ":/"
	}
	return names, cobra.ShellCompDirectiveNoSpace
}

func (p *program) sandboxNames(cmd *cobra.Command) []cobra.Completion {
	ctx, cancel := context.WithTimeout(cmd.Context(), completionTime)
	defer cancel()
	c := p.peek(ctx, cmd)
	if c == nil {
		return nil
	}
	sandboxes, err := c.List(ctx, client.Filter{})
	if err != nil {
		return nil
	}
	var names []cobra.Completion
	for _, s := range sandboxes {
		if s.Name != "" {
			names = append(names, s.Name)
		} else {
			names = append(names, s.ID)
		}
	}
	return names
}

func (p *program) completeRuntimes(cmd *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(cmd.Context(), completionTime)
	defer cancel()
	c := p.peek(ctx, cmd)
	if c == nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	runtimes, err := c.Runtimes(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []cobra.Completion
	for _, r := range runtimes {
		if r.Available {
			names = append(names, r.Name)
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// peek returns a client of a running daemon or nil: nobody wants an error, or a daemon,
// for pressing Tab.
func (p *program) peek(ctx context.Context, cmd *cobra.Command) *client.Client {
	if p.configure(cmd.Flags()) != nil {
		return nil
	}
	c, err := p.running(ctx)
	if err != nil {
		return nil
	}
	return c
}
