package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/covehq/cove"
)

func (p *program) runtimeVerb() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "runtime",
		Short:   "Show what can isolate sandboxes here",
		Example: "  cove runtime ls",
		Args:    arguments(),
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(&cobra.Command{
		Use:   "ls",
		Short: "List runtimes, also those that can't run here, with the reason",
		Long: `List runtimes, also those that can't run here, with the reason.

With --json, prints what GET /v1/runtimes replies.`,
		Example: "  cove runtime ls",
		Args:    arguments(),
		RunE:    verb(p.runtimes),
	})
	return cmd
}

func (p *program) runtimes(ctx context.Context, _ []string) error {
	runtimes, err := p.probe(ctx)
	if err != nil {
		return err
	}
	if p.json {
		return p.writeJSON(map[string][]cove.Runtime{"runtimes": runtimes})
	}
	var rows [][]string
	for _, r := range runtimes {
		name := r.Name
		if r.Default {
			name += " (default)"
		}
		rows = append(rows, []string{name, availability(r), dash(string(r.Isolation)), dash(r.Version), dash(r.Reason)})
	}
	return p.table([]string{"NAME", "AVAILABLE", "ISOLATION", "VERSION", "REASON"}, rows)
}

func (p *program) probe(ctx context.Context) ([]cove.Runtime, error) {
	c, err := p.connect(ctx)
	if err != nil {
		return nil, err
	}
	return c.Runtimes(ctx)
}

func availability(r cove.Runtime) string {
	if r.Available {
		return "yes"
	}
	return "no"
}
