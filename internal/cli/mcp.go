package cli

import (
	"context"
	"errors"
	"sync"

	"github.com/spf13/cobra"

	"github.com/covehq/cove"
	"github.com/covehq/cove/client"
	"github.com/covehq/cove/server/mcp"
	"github.com/covehq/cove/tools"
)

func (p *program) mcpVerb() *cobra.Command {
	var given mcp.Session
	cmd := &cobra.Command{
		Use:   "mcp [flags]",
		Short: "Give a client of the Model Context Protocol a sandbox",
		Long: `Speak the Model Context Protocol on standard input and output, for the client that
started this: Claude, Cursor, VS Code, Codex and others; docs/mcp.md says what to tell each.

The client's model gets the tools of cove tools and a sandbox to use them in, which is
made when it uses the first and removed when the client leaves. The flags say what the
sandbox is. The model can make more of the same, and reaches no other sandboxes, unless
--all says so. With --name, the sandbox of that name is taken where there is one, and
stays; --sandbox takes one that is there.`,
		Example: `  cove mcp
  cove mcp --image python:3.12 --allow pip --memory 2g
  cove mcp --name work -v ./src:/workspace/src`,
		Args: arguments(),
		RunE: verb(func(ctx context.Context, _ []string) error { return p.mcp(ctx, given) }),
	}
	flags := cmd.Flags()
	specFlags(flags, &given.Spec)
	flags.StringVar(&given.Sandbox, "sandbox", "", "id or name of a sandbox to use in place of making one")
	flags.BoolVar(&given.All, "all", false, "let the model use, see and kill every sandbox that you can")
	p.completeSpec(cmd)
	must(cmd.RegisterFlagCompletionFunc("sandbox", p.completeSandbox))
	return cmd
}

func (p *program) mcp(ctx context.Context, given mcp.Session) error {
	if given.Sandbox != "" && given.Spec.Name != "" {
		return usage("--sandbox and --name exclude each other", "leave one of them out")
	}
	daemon := &mcpDaemon{program: p, until: context.WithoutCancel(ctx), releases: map[string]func(){}}
	defer daemon.close()
	return mcp.New(mcp.Options{Daemon: daemon, Version: cove.Version}).Serve(ctx, p.Stdin, p.Stdout, given)
}

// mcpDaemon is the daemon that this program speaks to. What it makes is on a lease, so
// that it is gone soon after this program was killed.
type mcpDaemon struct {
	*program
	until context.Context // of the leases

	mu       sync.Mutex
	client   *client.Client    // nil before the first call
	releases map[string]func() // of the leases, by id
}

// do calls the daemon, and starts another where it has left in the meantime, as one does
// that nobody uses.
func (d *mcpDaemon) do(ctx context.Context, call func(*client.Client) error) error {
	c, fresh, err := d.dialed(ctx)
	if err != nil {
		return err
	}
	if err = call(c); fresh || !errors.Is(err, cove.Unavailable) || ctx.Err() != nil {
		return err
	}
	d.hangUp(c)
	if c, _, err = d.dialed(ctx); err != nil {
		return err
	}
	return call(c)
}

// dialed returns a client of the daemon; fresh says that it has just answered.
func (d *mcpDaemon) dialed(ctx context.Context) (c *client.Client, fresh bool, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.client != nil {
		return d.client, false, nil
	}
	d.client, err = d.connect(ctx)
	return d.client, true, err
}

// hangUp makes the next call dial anew.
func (d *mcpDaemon) hangUp(c *client.Client) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.client == c {
		d.client = nil
		c.Close()
	}
}

// Create implements mcp.Daemon.
func (d *mcpDaemon) Create(ctx context.Context, spec cove.Spec, reuse bool) (view cove.Sandbox, err error) {
	lease := newLease(spec.TTL)
	if !reuse {
		spec.TTL = lease.next()
	}
	err = d.do(ctx, func(c *client.Client) error {
		made, err := c.Create(ctx, spec, client.CreateOptions{Reuse: reuse})
		if err != nil {
			return err
		}
		view = made.Sandbox
		if !reuse {
			d.mu.Lock()
			defer d.mu.Unlock()
			d.releases[made.ID] = lease.keep(d.until, made)
		}
		return nil
	})
	return view, err
}

// Open implements mcp.Daemon.
func (d *mcpDaemon) Open(ctx context.Context, idOrName string) (view cove.Sandbox, on tools.Sandbox, err error) {
	err = d.do(ctx, func(c *client.Client) error {
		s, err := c.Get(ctx, idOrName)
		if err == nil {
			view, on = s.Sandbox, s.Toolbox()
		}
		return err
	})
	return view, on, err
}

// List implements mcp.Daemon.
func (d *mcpDaemon) List(ctx context.Context) (list []cove.Sandbox, err error) {
	err = d.do(ctx, func(c *client.Client) error {
		list, err = c.List(ctx, client.Filter{})
		return err
	})
	return list, err
}

// Remove implements mcp.Daemon.
func (d *mcpDaemon) Remove(ctx context.Context, id string) error {
	d.release(id)
	return d.do(ctx, func(c *client.Client) error { return gone(c.Handle(id).Remove(ctx)) })
}

func (d *mcpDaemon) release(id string) {
	d.mu.Lock()
	release := d.releases[id]
	delete(d.releases, id)
	d.mu.Unlock()
	if release != nil {
		release()
	}
}

// close ends the leases, and hangs up.
func (d *mcpDaemon) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, release := range d.releases {
		release()
	}
	clear(d.releases)
	if d.client != nil {
		d.client.Close()
	}
}
