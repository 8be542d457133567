package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/covehq/cove"
	"github.com/covehq/cove/client"
)

func (p *program) execVerb() *cobra.Command {
	var (
		command command
		detach  bool
	)
	cmd := &cobra.Command{
		Use:   "exec [flags] ID -- COMMAND [ARGUMENT…]",
		Short: "Run a command in a sandbox",
		Long: `Run a command in a sandbox, given by its id or name.

Streams, signals and exit codes are as in cove run; when this program ends, so does the
command. With -d the command stays behind: its pid is printed, for cove ps and cove logs.

With --json, prints what POST /v1/sandboxes/{id}/exec replies, when the command is done;
with -d what POST …/processes replies.`,
		Example: `  cove exec build -- make test
  cove exec -it build -- bash
  pid=$(cove exec -d build -- python3 -m http.server) && cove logs -f build $pid`,
		ValidArgsFunction: p.completeSandbox,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usage("missing ID", "as in: cove exec build -- make test")
			}
			if len(args) > 1 && args[1] != "--" && strings.HasPrefix(args[1], "-") {
				return usage("flag "+quote(args[1])+" comes after the id", "write flags before it, as in: cove exec "+args[1]+" "+quote(args[0])+" -- COMMAND; a command that begins with - goes after --")
			}
			if err := command.parse(args[1:], p.json, false); err != nil {
				return err
			}
			if detach && (command.interactive || command.tty) {
				return usage("-d excludes -i and -t", "leave -d out to stay attached")
			}
			if detach {
				return failed(verb(func(ctx context.Context, args []string) error {
					return p.start(ctx, args[0], command)
				})(cmd, args))
			}
			return failed(p.exec(cmd.Context(), args[0], command))
		},
	}
	flags := cmd.Flags()
	flags.SetInterspersed(false)
	command.streamFlags(flags)
	flags.BoolVarP(&detach, "detach", "d", false, "leave the command running and print its pid")
	flags.VarP(environment{&command.env}, "env", "e", "variable of the command; KEY alone copies yours (repeatable)")
	flags.StringVarP(&command.user, "user", "u", "", "user to run as; default the sandbox's")
	flags.StringVarP(&command.dir, "workdir", "w", "", "directory to run in; default the sandbox's")
	flags.Var(durationFlag(&command.timeout), "timeout", "longest time it may take, or never; default the sandbox's, and with -t or -d never")
	return cmd
}

func (p *program) exec(ctx context.Context, id string, c command) error {
	ignoreBrokenPipe()
	relay := newRelay(ctx)
	defer relay.close()
	sandbox, err := p.sandbox(relay.Context, id)
	if err != nil {
		return interrupted(err, relay)
	}
	return interrupted(p.explain(ctx, sandbox, p.attached(relay.Context, sandbox, c, relay)), relay)
}

func (p *program) start(ctx context.Context, id string, c command) error {
	sandbox, err := p.sandbox(ctx, id)
	if err != nil {
		return err
	}
	process, err := sandbox.Start(ctx, cove.ProcessRequest{
		Command: cove.Command{Argv: c.argv}, Cwd: c.dir, Env: c.env, User: c.user, Timeout: c.timeout,
	})
	if err != nil {
		return err
	}
	return p.printStarted(ctx, process)
}

func (p *program) printStarted(ctx context.Context, process *client.Process) error {
	if !p.json {
		_, err := fmt.Fprintln(p.Stdout, process.PID)
		return err
	}
	info, err := process.Info(ctx)
	if err != nil {
		return err
	}
	return p.writeJSON(info)
}
