package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/covehq/cove"
	"github.com/covehq/cove/client"
)

// eventTypes are those that events --type takes.
var eventTypes = []string{
	string(cove.EventCreating), string(cove.EventRunning), string(cove.EventUpdated),
	string(cove.EventStopped), string(cove.EventFailed), string(cove.EventRemoved),
	string(cove.EventPortOpened), string(cove.EventPortClosed),
}

func (p *program) eventsVerb() *cobra.Command {
	var (
		follow bool
		types  []string
	)
	cmd := &cobra.Command{
		Use:   "events [flags] [ID]",
		Short: "Show what happened to sandboxes",
		Long: `Show what happened to sandboxes, or to one: the last thousand events since the daemon
started, and with -f those that come. Ports on which something inside begins or ends to
listen are looked for while somebody follows.

With --json, prints one JSON object a line, each an event of GET /v1/events.`,
		Example: `  cove events
  cove events -f build
  cove events -f --type port.opened build
  cove events -f --type sandbox.failed --json | jq -r .sandbox.message`,
		ValidArgsFunction: p.completeSandbox,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usage("unexpected argument "+quote(args[1]), "name one sandbox, or none")
			}
			for _, kind := range types {
				if !slices.Contains(eventTypes, kind) {
					return usage("there are no events of type "+quote(kind), "use one of "+fmt.Sprint(eventTypes))
				}
			}
			return nil
		},
		RunE: verb(func(ctx context.Context, args []string) error {
			filter := client.EventFilter{NoFollow: !follow}
			if len(args) > 0 {
				filter.Sandbox = args[0]
			}
			for _, kind := range types {
				filter.Types = append(filter.Types, cove.EventType(kind))
			}
			return p.events(ctx, filter)
		}),
	}
	flags := cmd.Flags()
	flags.BoolVarP(&follow, "follow", "f", false, "go on until interrupted")
	flags.StringArrayVar(&types, "type", nil, "only events of this type, as in sandbox.failed (repeatable)")
	must(cmd.RegisterFlagCompletionFunc("type", cobra.FixedCompletions(eventTypes, cobra.ShellCompDirectiveNoFileComp)))
	return cmd
}

func (p *program) events(ctx context.Context, filter client.EventFilter) error {
	ignoreBrokenPipe()
	c, err := p.connect(ctx)
	if err != nil {
		return err
	}
	encoder := json.NewEncoder(p.Stdout)
	for event, err := range c.SelectEvents(ctx, filter) {
		if err != nil {
			return err
		}
		if p.json {
			err = encoder.Encode(event)
		} else {
			_, err = fmt.Fprintln(p.Stdout, eventLine(event))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// eventLine is an event in words, without what a terminal would obey.
func eventLine(event cove.Event) string {
	box := event.Sandbox
	line := event.Time.Local().Format(time.RFC3339) + "  " + string(event.Type) + "  " + box.ID
	if box.Name != "" {
		line += "  " + box.Name
	}
	if port := event.Port; port != nil {
		return clean(line+"  "+listens(*port), "")
	}
	if box.Reason != "" {
		line += "  " + string(box.Reason)
	}
	if box.Message != "" {
		line += ": " + box.Message
	}
	return clean(line, "")
}
