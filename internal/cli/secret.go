package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/covehq/cove"
)

func (p *program) secretVerb() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "secret",
		Short:   "Keep secrets that sandboxes use without seeing them",
		Example: "  cove secret set GITHUB_TOKEN --host api.github.com < token",
		Args:    arguments(),
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(p.secretSetVerb(), p.secretLsVerb(), p.secretRmVerb())
	return cmd
}

func (p *program) secretSetVerb() *cobra.Command {
	var (
		hosts, places []string
		variable      string
		file          string
	)
	cmd := &cobra.Command{
		Use:   "set NAME --host HOST [flags]",
		Short: "Store a secret, or change it",
		Long: `Store a secret in the daemon, encrypted, or change the one of that name. Sandboxes that are
made with --secret NAME have a placeholder in its place, which becomes the secret on the way
to the hosts that it is bound to, and nowhere else.

On the daemon's machine, or with a key of the scope admin, the secret is for everybody's
sandboxes. With another key it is for those of the key's owner alone, also in place of one
that everybody has by that name.

The value is standard input, without the newline at its end, and on a terminal asked for
without showing it; or it is that of a variable or a file. It can't be an argument, which
everybody on this machine would see.

With --json, prints what PUT /v1/secrets/{name} replies, which has no value in it.`,
		Example: `  cove secret set GITHUB_TOKEN --host api.github.com < token
  cove secret set API_KEY --host '*.example.org:8443' --in query --from-env API_KEY`,
		Args: func(cmd *cobra.Command, args []string) error {
			if err := arguments("NAME")(cmd, args); err != nil {
				return err
			}
			switch {
			case strings.Contains(args[0], "="):
				return usage("a secret's value can't be an argument, which everybody on this machine sees", "give it on standard input, or with --from-env or --from-file")
			case len(hosts) == 0:
				return usage("missing --host", "name the hosts that the secret may go to, as in: "+firstLine(cmd.Example))
			case variable != "" && file != "":
				return usage("--from-env and --from-file exclude each other", "leave one of them out")
			}
			return nil
		},
		RunE: verb(func(ctx context.Context, args []string) error {
			value, err := p.secretInput(args[0], variable, file)
			if err != nil {
				return err
			}
			in := cove.SecretInput{Value: value, Hosts: hosts}
			for _, place := range places {
				in.In = append(in.In, cove.SecretPlace(place))
			}
			return p.setSecret(ctx, args[0], in)
		}),
	}
	flags := cmd.Flags()
	flags.Var(repeatable{lister(&hosts), "HOST,…"}, "host", "where it may go: a name or *.NAME, with :PORT where that is not 443 (repeatable)")
	flags.StringSliceVar(&places, "in", nil, "where in a request: header, query or body; default header (repeatable)")
	flags.StringVar(&variable, "from-env", "", "take the value of this variable of yours")
	flags.StringVar(&file, "from-file", "", "take the value from this file")
	must(cmd.RegisterFlagCompletionFunc("in", cobra.FixedCompletions([]string{"header", "query", "body"}, cobra.ShellCompDirectiveNoFileComp)))
	return cmd
}

// secretInput reads the value from where it was said to be.
func (p *program) secretInput(name, variable, file string) (value string, err error) {
	switch {
	case variable != "":
		value, err = secretValue(name, "env:"+variable, true, true)
	case file != "":
		value, err = readSecret(name, file)
	case isTerminal(p.Stdin):
		fmt.Fprintf(p.Stderr, "Value of %s, which is not shown: ", quote(name))
		var typed []byte
		typed, err = term.ReadPassword(int(p.Stdin.(*os.File).Fd()))
		fmt.Fprintln(p.Stderr)
		if err == nil {
			value, err = secretFrom(name, strings.NewReader(string(typed)))
		}
	default:
		value, err = secretFrom(name, p.Stdin)
	}
	if err != nil {
		return "", problem("secret set", "", err.Error(), "give it on standard input, or with --from-env or --from-file")
	}
	return value, nil
}

func (p *program) setSecret(ctx context.Context, name string, in cove.SecretInput) error {
	c, err := p.connect(ctx)
	if err != nil {
		return err
	}
	secret, err := c.SetSecret(ctx, name, in)
	if err != nil {
		return err
	}
	if p.json {
		return p.writeJSON(secret)
	}
	return nil
}

func (p *program) secretLsVerb() *cobra.Command {
	return &cobra.Command{
		Use:   "ls",
		Short: "List the stored secrets, without their values",
		Long: `List the stored secrets, without their values, which nobody gets: everybody's, and those of
the owner of your key. On the daemon's machine, or with a key of the scope admin, those of
all owners.

With --json, prints what GET /v1/secrets replies.`,
		Example: "  cove secret ls",
		Args:    arguments(),
		RunE: verb(func(ctx context.Context, _ []string) error {
			c, err := p.connect(ctx)
			if err != nil {
				return err
			}
			secrets, err := c.Secrets(ctx)
			if err != nil {
				return err
			}
			if p.json {
				return p.writeJSON(map[string][]cove.Secret{"secrets": secrets})
			}
			var rows [][]string
			for _, s := range secrets {
				places := texts(s.In, func(place cove.SecretPlace) string { return string(place) })
				owner := cmp.Or(s.Owner, "-")
				rows = append(rows, []string{s.Name, owner, strings.Join(s.Hosts, " "), strings.Join(places, " "), span(time.Since(s.UpdatedAt)) + " ago"})
			}
			return p.table([]string{"NAME", "OWNER", "HOSTS", "IN", "CHANGED"}, rows)
		}),
	}
}

func (p *program) secretRmVerb() *cobra.Command {
	var owner string
	cmd := &cobra.Command{
		Use:   "rm NAME…",
		Short: "Remove stored secrets",
		Long: `Remove stored secrets. Placeholders of them in sandboxes that run become nothing from then
on. Those of everybody are removed on the daemon's machine, or with a key of the scope admin.`,
		Example: "  cove secret rm GITHUB_TOKEN",
		Args:    arguments("NAME…"),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
			return p.completeSecrets(cmd, args, word)
		},
		RunE: verb(func(ctx context.Context, args []string) error {
			c, err := p.connect(ctx)
			if err != nil {
				return err
			}
			for _, name := range args {
				if err := c.RemoveSecretOf(ctx, owner, name); err != nil {
					return err
				}
				if _, err := io.WriteString(p.Stdout, name+"\n"); err != nil {
					return err
				}
			}
			return nil
		}),
	}
	cmd.Flags().StringVar(&owner, "owner", "", "remove secrets of this owner; for admins")
	return cmd
}
