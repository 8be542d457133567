package cli

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"io"
	"strings"

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
	cmd.AddCommand(p.installVerb())
	return cmd
}

func (p *program) installVerb() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use:   "install docker-gvisor",
		Short: "Make a runtime available: gVisor in Docker",
		Long: `Make a runtime available: gVisor in Docker.

docker-gvisor registers cove-runsc with the Docker engine of this machine, for
--runtime docker:gvisor. It says first what it will change, and asks.`,
		Example: "  sudo cove runtime install docker-gvisor",
		Args:    arguments("NAME"),
		RunE: verb(func(_ context.Context, args []string) error {
			return p.install(args[0], yes)
		}),
	}
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "change it without asking")
	return cmd
}

func (p *program) install(name string, yes bool) error {
	if p.Install == nil {
		return cove.Errorf(cove.NotSupported, "runtime install", name, "this program installs nothing", "use cove")
	}
	plan, err := p.Install(name)
	if err != nil {
		return err
	}
	if len(plan.Changes) == 0 {
		_, err := fmt.Fprintf(p.Stdout, "%s is there already\n", name)
		return err
	}
	for _, change := range plan.Changes {
		if _, err := fmt.Fprintln(p.Stdout, change); err != nil {
			return err
		}
	}
	if !yes {
		if agreed, err := p.agreed("Change that? [y/N] "); err != nil || !agreed {
			return cmp.Or(err, error(cove.Errorf(cove.Conflict, "runtime install", name, "nothing was changed", "answer y, or give --yes")))
		}
	}
	if err := plan.Apply(); err != nil {
		return err
	}
	_, err = fmt.Fprintln(p.Stdout, plan.Then)
	return err
}

// agreed asks, and reads a line.
func (p *program) agreed(question string) (bool, error) {
	if _, err := io.WriteString(p.Stdout, question); err != nil {
		return false, err
	}
	const longest = 16
	line, err := bufio.NewReader(io.LimitReader(p.Stdin, longest)).ReadString('\n')
	if err != nil && err != io.EOF {
		return false, err
	}
	answer := strings.ToLower(strings.TrimSpace(line))
	return answer == "y" || answer == "yes", nil
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
