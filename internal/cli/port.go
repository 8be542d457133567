package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/covehq/cove"
	"github.com/covehq/cove/client"
)

// portFlags are the flags of port.
type portFlags struct {
	address string
	wait    cove.Duration // 0: do not
	preview bool
	ttl     cove.Duration
	revoke  bool
}

func (p *program) portVerb() *cobra.Command {
	var o portFlags
	cmd := &cobra.Command{
		Use:   "port [flags] ID PORT[:LOCAL]…",
		Short: "Open ports inside a sandbox on this machine",
		Long: `Open TCP ports inside a sandbox on this machine, also when the sandbox is on another one,
and print their addresses. A connection to one becomes a connection to the port inside, until
this program is interrupted or the sandbox ends. LOCAL is the port here: by default the same
one, and 0 for any that is free.

With --preview, print addresses for a browser instead, at which the daemon serves the ports
until the sandbox ends. Who has such an address can use the port; --revoke makes those that
were printed worthless.

With --json, prints one JSON object with what was opened.`,
		Example: `  cove port build 8000
  cove port build 8000:8080 5432:0 --wait=30s
  cove port build 8000 --preview`,
		ValidArgsFunction: p.completeSandbox,
		Args: func(cmd *cobra.Command, args []string) error {
			if err := arguments("ID", "PORT…")(cmd, args); err != nil {
				return err
			}
			return o.check(cmd)
		},
		RunE: verb(func(ctx context.Context, args []string) error { return p.port(ctx, args[0], args[1:], o) }),
	}
	flags := cmd.Flags()
	flags.StringVar(&o.address, "address", "127.0.0.1", "address of this machine to open ports on")
	flags.Var(durationFlag(&o.wait), "wait", "first wait until something inside listens; at most this long, as in --wait=30s, or for ever")
	flags.Lookup("wait").NoOptDefVal = "never"
	flags.BoolVar(&o.preview, "preview", false, "print addresses for a browser instead")
	flags.Var(durationFlag(&o.ttl), "ttl", "with --preview: how long they work; default 24h")
	flags.BoolVar(&o.revoke, "revoke", false, "end the previews of these ports")
	return cmd
}

// check refuses flags that don't go together.
func (o *portFlags) check(cmd *cobra.Command) error {
	switch flags := cmd.Flags(); {
	case o.preview && o.revoke:
		return usage("--preview and --revoke exclude each other", "leave one of them out")
	case flags.Changed("ttl") && !o.preview:
		return usage("--ttl is for --preview", "leave it out, or add --preview")
	case flags.Changed("address") && (o.preview || o.revoke):
		return usage("--address is not for previews", "cove serve --preview-listen says where the daemon serves those")
	case o.revoke && flags.Changed("wait"):
		return usage("--revoke and --wait exclude each other", "leave one of them out")
	}
	return nil
}

// opening is a port inside, and the one that it becomes here.
type opening struct{ port, local int }

func (p *program) port(ctx context.Context, id string, args []string, o portFlags) error {
	openings, err := parseOpenings(args, o.preview || o.revoke)
	if err != nil {
		return err
	}
	s, err := p.sandbox(ctx, id)
	if err != nil {
		return err
	}
	if o.preview || o.revoke {
		return p.previews(ctx, s, openings, o)
	}
	listeners, err := listenAll(ctx, o.address, openings)
	if err != nil {
		return err
	}
	defer closeAll(listeners) // those that nobody serves
	if err := waitAll(ctx, s, openings, o.wait); err != nil {
		return err
	}
	if err := p.tellOpenings(listeners, openings); err != nil {
		return err
	}
	return p.forward(ctx, s, listeners, openings)
}

// parseOpenings reads arguments such as 8000, 8000:8080 and 8000:0.
func parseOpenings(args []string, alone bool) ([]opening, error) {
	var openings []opening
	for _, arg := range args {
		inside, here, two := strings.Cut(arg, ":")
		port, ok := portNumber(inside)
		local := port
		if two && ok {
			local, ok = portNumber(here)
			if here == "0" {
				local, ok = 0, true
			}
		}
		switch {
		case !ok:
			return nil, usage(quote(arg)+" is not PORT[:LOCAL]", "write ports from 1 to 65535, as in 8000 or 8000:8080")
		case two && alone:
			return nil, usage(quote(arg)+" has a port of this machine, and previews have none", "leave it out, as in "+inside)
		}
		openings = append(openings, opening{port, local})
	}
	return openings, nil
}

// portNumber reads a port in the one way in which it is written.
func portNumber(text string) (int, bool) {
	port, err := strconv.Atoi(text)
	return port, err == nil && port >= 1 && port <= 65535 && strconv.Itoa(port) == text
}

// listenAll opens the ports on this machine. On error none is open.
func listenAll(ctx context.Context, address string, openings []opening) ([]net.Listener, error) {
	var listeners []net.Listener
	for _, o := range openings {
		at := net.JoinHostPort(address, strconv.Itoa(o.local))
		listener, err := new(net.ListenConfig).Listen(ctx, "tcp", at)
		if err != nil {
			closeAll(listeners)
			return nil, localError(at, o, err)
		}
		listeners = append(listeners, listener)
	}
	return listeners, nil
}

func closeAll(listeners []net.Listener) {
	for _, listener := range listeners {
		listener.Close()
	}
}

func localError(at string, o opening, err error) error {
	failed := &cove.Error{Code: cove.Conflict, Err: fmt.Errorf("port %s of this machine can't be opened: %w", at, err), Hint: "see cove port --help for how to choose another"}
	var errno syscall.Errno
	if errors.As(err, &errno) {
		failed.Err = fmt.Errorf("port %s of this machine can't be opened: %w", at, errno)
	}
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		failed.Err = fmt.Errorf("port %s of this machine is taken", at)
		failed.Hint = fmt.Sprintf("choose another, as in %d:0 for one that is free", o.port)
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		failed.Code = cove.Forbidden
		failed.Hint = fmt.Sprintf("choose one from 1024 on, as in %d:%d", o.port, 8000+o.local%1000)
	case errors.Is(err, syscall.EADDRNOTAVAIL), errors.Is(err, syscall.EAFNOSUPPORT):
		failed.Code = cove.Invalid
		failed.Hint = "choose an --address that this machine has, such as 127.0.0.1"
	}
	return failed
}

// waitAll waits until something inside listens on every port.
func waitAll(ctx context.Context, s *client.Sandbox, openings []opening, wait cove.Duration) error {
	if wait == 0 {
		return nil
	}
	if wait != cove.Never {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(wait))
		defer cancel()
	}
	for _, o := range openings {
		err := s.WaitPort(ctx, o.port)
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return cove.Errorf(cove.Timeout, "wait for port", strconv.Itoa(o.port), fmt.Sprintf("nothing listened there within %v", wait),
				"look at what it runs with cove ps and cove logs, or wait longer")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (p *program) tellOpenings(listeners []net.Listener, openings []opening) error {
	opened := []cove.Port{}
	for i, listener := range listeners {
		at := listener.Addr().(*net.TCPAddr)
		opened = append(opened, cove.Port{Port: openings[i].port, HostPort: at.Port, Address: at.IP.String()})
	}
	if p.json {
		return p.writeJSON(map[string][]cove.Port{"ports": opened})
	}
	for _, port := range opened {
		if _, err := fmt.Fprintf(p.Stdout, "%s -> %d\n", net.JoinHostPort(port.Address, strconv.Itoa(port.HostPort)), port.Port); err != nil {
			return err
		}
	}
	return nil
}

// forward serves the open ports until ctx ends, or the sandbox.
func (p *program) forward(ctx context.Context, s *client.Sandbox, listeners []net.Listener, openings []opening) error {
	serving, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var group sync.WaitGroup
	told := &complaints{to: p.Stderr}
	for i, listener := range listeners {
		group.Go(func() {
			if err := s.Forward(serving, listener, openings[i].port, told.add); err != nil {
				stop(err)
			}
		})
	}
	group.Go(func() {
		if err := p.untilEnded(serving, s.ID); err != nil {
			stop(err)
		}
	})
	group.Wait()
	return context.Cause(serving)
}

// untilEnded returns an error once the sandbox has ended, and nil when ctx has. A daemon
// that restarts is waited for: sandboxes outlive it.
func (p *program) untilEnded(ctx context.Context, id string) error {
	const pause = time.Second
	filter := client.EventFilter{Sandbox: id, Types: []cove.EventType{cove.EventStopped, cove.EventFailed, cove.EventRemoved}}
	for ctx.Err() == nil {
		if c, err := p.running(ctx); err == nil && c != nil {
			for event, err := range c.SelectEvents(ctx, filter) { // also what happened before
				if err == nil {
					return cove.Errorf(cove.Gone, "port", id, "the sandbox has ended: "+event.Sandbox.Message, "create a new one")
				}
			}
			if _, err := c.Get(ctx, id); errors.Is(err, cove.NotFound) || errors.Is(err, cove.Gone) {
				return err
			}
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
	return nil
}

// complaints says why connections failed, and nothing twice in a row: a browser tries
// again and again.
type complaints struct {
	mu   sync.Mutex
	to   io.Writer
	last string
}

func (c *complaints) add(err error) {
	line := "cove: " + clean(err.Error(), "") + "\n"
	c.mu.Lock()
	defer c.mu.Unlock()
	if line != c.last {
		c.last = line
		_, _ = c.to.Write([]byte(line)) // who closed it does not want to know
	}
}
