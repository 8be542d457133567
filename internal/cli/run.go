package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/covehq/cove"
	"github.com/covehq/cove/client"
)

func (p *program) runVerb() *cobra.Command {
	var (
		spec    cove.Spec
		command command
		files   carried
	)
	cmd := &cobra.Command{
		Use:   "run [flags] [-- COMMAND [ARGUMENT…]]",
		Short: "Run one command in a sandbox of its own",
		Long: `Run one command in a sandbox of its own, which is gone when the command ends.

Standard input, output and error are the command's, as they come, and so are signals:
Ctrl-C interrupts it, and a second one kills it. Standard input is passed on when it is
not a terminal, and with -i. The sandbox lives as long as this program does; --ttl
limits that. After --timeout (default 300s; with -t none) the command is killed.

The exit code is the command's, 128+n when signal n ended it, 124 when it timed out,
125 when Cove failed to run it, 126 when its program can't be executed, and 127 when
there is none.

A sandbox reaches nothing unless --allow, --network or --secret says so. What a command that
failed was refused is told on standard error, with what would allow it.

Without a command, runs the ENTRYPOINT and CMD of an image that has them; a command takes
the place of both.

With --in, --out or --patch, the command works on files: a directory or a tar goes into its
working directory, and what it changed comes back, into a directory or as a patch. What it
wrote is shown when it has ended; standard input is not passed on. See docs/run.md.

With --json, prints what POST /v1/sandboxes/{id}/exec replies, when the command is done;
with files, what POST /v1/run replies.`,
		Example: `  cove run -- python3 -c 'print(6*7)'
  tar c src | cove run --memory 2g -- sh -c 'tar x && make -C src test'
  cove run --allow pip -- pip install requests
  cove run --in . --out . -- make format
  cove run --in src.tar.gz --patch=fix.patch -- ruff check --fix .
  cove run -it -- bash`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := command.parse(args, p.json, isFetched(spec.Image) && !files.any()); err != nil {
				return err
			}
			if files.any() {
				return failed(p.runFiles(cmd.Context(), spec, command, files))
			}
			command.timeout = spec.Timeout
			return failed(p.run(cmd.Context(), spec, command))
		},
	}
	flags := cmd.Flags()
	flags.SetInterspersed(false)
	specFlags(flags, &spec)
	command.streamFlags(flags)
	files.flags(flags)
	p.completeSpec(cmd)
	return cmd
}

// run makes a sandbox on a short lease, runs the command in it, and removes it. When
// this program is killed, the daemon ends the command at once and the sandbox with the
// lease.
func (p *program) run(ctx context.Context, spec cove.Spec, c command) error {
	ignoreBrokenPipe()
	relay := newRelay(ctx)
	defer relay.close()
	daemon, err := p.connect(relay.Context)
	if err != nil {
		return interrupted(err, relay)
	}
	if len(c.argv) == 0 || isTerminal(p.Stderr) && !p.json { // for the progress
		image, err := p.provide(relay.Context, daemon, &spec)
		if err == nil && len(c.argv) == 0 {
			c.argv, err = commandOf(image)
		}
		if err != nil {
			return interrupted(err, relay)
		}
	}
	lease := newLease(spec.TTL)
	spec.TTL = lease.next()
	sandbox, err := daemon.Create(relay.Context, spec, client.CreateOptions{})
	if err != nil {
		return interrupted(err, relay)
	}
	p.tellPorts(spec, sandbox)
	release := lease.keep(ctx, sandbox)
	err = p.explain(ctx, sandbox, p.attached(relay.Context, sandbox, c, relay))
	release()
	if relay.status() == 0 {
		p.tellRefused(ctx, daemon, sandbox, err)
	}
	if removal := p.discard(ctx, sandbox); removal != nil {
		fmt.Fprintf(p.Stderr, "cove: %s\n", clean(removal.Error(), "\n"))
	}
	return interrupted(err, relay)
}

// interrupted makes of an error that a signal caused the status that says so.
func interrupted(err error, relay *relay) error {
	if errors.Is(err, context.Canceled) && relay.status() != 0 {
		return &statusError{status: relay.status()}
	}
	return err
}

// explain looks for the reason why a command could not be followed to its end: when
// its sandbox died under it, the sandbox knows why.
func (p *program) explain(ctx context.Context, sandbox *client.Sandbox, err error) error {
	var exit *statusError
	if errors.Is(err, context.Canceled) {
		return err
	}
	lost := errors.Is(err, cove.Unavailable) || errors.Is(err, cove.Gone) || errors.Is(err, cove.NotFound)
	if !lost || errors.As(err, &exit) {
		return err
	}
	wasDead := sandbox.Reason != "" // before the command could begin
	if !p.ended(ctx, sandbox) {
		return err
	}
	died := &cove.Error{Code: cove.Gone, Op: "exec", ID: sandbox.ID, Err: fmt.Errorf("the sandbox ended: %s", sandbox.Reason)}
	if sandbox.Message != "" {
		died.Err = fmt.Errorf("the sandbox ended: %s", sandbox.Message)
	}
	switch sandbox.Reason {
	case cove.ReasonOOM:
		died.Hint = fmt.Sprintf("it had %v: give it more with --memory", sandbox.Spec.Limits.Memory)
		if !wasDead {
			return &statusError{status: exitKilled, err: died}
		}
	case cove.ReasonExpired:
		died.Hint = "give it longer with --ttl"
	case cove.ReasonIdle:
		died.Hint = "give it longer with --idle"
	}
	return died
}

// ended reports whether the sandbox is found to have ended, which the daemon notices
// within 2 s.
func (p *program) ended(ctx context.Context, sandbox *client.Sandbox) bool {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
	defer cancel()
	look := time.NewTicker(50 * time.Millisecond)
	defer look.Stop()
	for sandbox.Refresh(ctx) == nil {
		if sandbox.Reason != "" {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-look.C:
		}
	}
	return false
}

// exitKilled is how a shell shows what the kernel killed for want of memory.
const exitKilled = exitSignal + 9

// discard removes the sandbox, whatever has happened to the context. When the daemon
// died in the meantime, another one is started: nobody else would end the sandbox.
func (p *program) discard(ctx context.Context, sandbox *client.Sandbox) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*requestTime)
	defer cancel()
	err := sandbox.Remove(ctx)
	if !errors.Is(err, cove.Unavailable) || p.host != "" {
		return gone(err)
	}
	daemon, err := p.connect(ctx)
	if err != nil {
		return err
	}
	return gone(daemon.Handle(sandbox.ID).Remove(ctx))
}

// gone is err, unless it says that there is nothing to be removed any more.
func gone(err error) error {
	if errors.Is(err, cove.NotFound) || errors.Is(err, cove.Gone) {
		return nil
	}
	return err
}
