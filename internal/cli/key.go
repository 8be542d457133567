package cli

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/covehq/cove"
)

func (p *program) keyVerb() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "key",
		Short:   "Let programs elsewhere call this daemon",
		Example: "  cove key create ci --expires 720h",
		Args:    arguments(),
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(p.keyCreateVerb(), p.keyLsVerb(), p.keyRmVerb())
	return cmd
}

func (p *program) keyCreateVerb() *cobra.Command {
	in := cove.KeyInput{}
	scope := string(cove.ScopeRun)
	cmd := &cobra.Command{
		Use:   "create NAME [flags]",
		Short: "Make a key",
		Long: `Make a key, for a daemon that is served with --listen, and print it. It is shown this once:
the daemon keeps its hash. Who has it sets COVE_URL to the daemon's address and COVE_API_KEY
to the key.

A key sees the sandboxes of its owner, and none of others. With the scope read it looks at
them, with run it makes and uses them, and with admin it does everything with everybody's,
and with keys, secrets and images.

With --json, prints what POST /v1/keys replies.`,
		Example: `  cove key create ci
  cove key create ci-2 --owner ci --scope read --expires 720h`,
		Args: arguments("NAME"),
		RunE: verb(func(ctx context.Context, args []string) error {
			in.Name, in.Scope = args[0], cove.Scope(scope)
			return p.createKey(ctx, in)
		}),
	}
	flags := cmd.Flags()
	flags.StringVar(&scope, "scope", scope, "what it may do: read, run or admin")
	flags.Var(durationFlag(&in.Expires), "expires", "time until it is worthless, as in 720h; default never")
	flags.StringVar(&in.Owner, "owner", "", "whose sandboxes it sees and makes; default NAME")
	must(cmd.RegisterFlagCompletionFunc("scope", cobra.FixedCompletions([]string{"read", "run", "admin"}, cobra.ShellCompDirectiveNoFileComp)))
	return cmd
}

func (p *program) createKey(ctx context.Context, in cove.KeyInput) error {
	c, err := p.connect(ctx)
	if err != nil {
		return err
	}
	made, err := c.CreateKey(ctx, in)
	if err != nil {
		return err
	}
	if p.json {
		return p.writeJSON(made)
	}
	if isTerminal(p.Stdout) {
		fmt.Fprintln(p.Stderr, "This is the key, and it is not shown again:")
	}
	_, err = io.WriteString(p.Stdout, made.Secret+"\n")
	return err
}

func (p *program) keyLsVerb() *cobra.Command {
	return &cobra.Command{
		Use:   "ls",
		Short: "List the keys, without themselves",
		Long: `List the keys, without themselves, which nobody gets.

With --json, prints what GET /v1/keys replies.`,
		Example: "  cove key ls",
		Args:    arguments(),
		RunE: verb(func(ctx context.Context, _ []string) error {
			c, err := p.connect(ctx)
			if err != nil {
				return err
			}
			keys, err := c.Keys(ctx)
			if err != nil {
				return err
			}
			if p.json {
				return p.writeJSON(map[string][]cove.Key{"keys": keys})
			}
			var rows [][]string
			for _, k := range keys {
				rows = append(rows, []string{k.Name, k.Owner, string(k.Scope), span(time.Since(k.CreatedAt)) + " ago", expiry(k.ExpiresAt), k.ID})
			}
			return p.table([]string{"NAME", "OWNER", "SCOPE", "CREATED", "EXPIRES", "ID"}, rows)
		}),
	}
}

// expiry says when something is worthless.
func expiry(at *time.Time) string {
	switch {
	case at == nil:
		return "never"
	case !time.Now().Before(*at):
		return "expired"
	}
	return "in " + span(time.Until(*at))
}

func (p *program) keyRmVerb() *cobra.Command {
	return &cobra.Command{
		Use:   "rm NAME…",
		Short: "Revoke keys",
		Long: `Revoke keys, by name or id. What is open with them ends at once. Sandboxes that were made
with them stay, and stay their owner's.`,
		Example: "  cove key rm ci",
		Args:    arguments("NAME…"),
		RunE: verb(func(ctx context.Context, args []string) error {
			c, err := p.connect(ctx)
			if err != nil {
				return err
			}
			for _, name := range args {
				if err := c.RemoveKey(ctx, name); err != nil {
					return err
				}
				if _, err := io.WriteString(p.Stdout, name+"\n"); err != nil {
					return err
				}
			}
			return nil
		}),
	}
}
