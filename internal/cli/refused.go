package cli

import (
	"cmp"
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/client"
)

const (
	// maxRefused bounds the lines about refused names after a command.
	maxRefused = 10
	// refusedTime is how long a command's end may be held up for them: presets may have to
	// be found out, which runs their clients.
	refusedTime = 2 * time.Second
)

// tellRefused says on standard error what the sandbox was refused to reach, each name on
// one line with what would allow it. It is for people, so that there is nothing without a
// terminal after a command that went well, and nothing with --json; and it is no reason to
// fail.
func (p *program) tellRefused(ctx context.Context, daemon *client.Client, sandbox *client.Sandbox, ended error) {
	if p.json || ended == nil && !isTerminal(p.Stderr) {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), refusedTime)
	defer cancel()
	events, _, err := sandbox.NetworkEvents(ctx, 0)
	if err != nil {
		return
	}
	var presets []cove.NetworkPreset
	refused := refusals(events)
	for _, event := range refused {
		if strings.Contains(event.Reason, "--allow") {
			presets, _ = daemon.NetworkPresets(ctx) // without them, there is less to say
			break
		}
	}
	for i, event := range refused {
		if i == maxRefused {
			fmt.Fprintf(p.Stderr, "cove: refused: %d more\n", len(refused)-i)
			return
		}
		fmt.Fprintf(p.Stderr, "cove: refused: %s\n", clean(refusal(event, presets), ""))
	}
}

// refusals returns the first refusal of each name.
func refusals(events []cove.NetworkEvent) []cove.NetworkEvent {
	var refused []cove.NetworkEvent
	seen := map[string]bool{}
	for _, event := range events {
		name := cmp.Or(event.Name, event.Address)
		if event.Allowed || name == "" || seen[name] {
			continue
		}
		seen[name] = true
		refused = append(refused, event)
	}
	return refused
}

// refusal is one line: NAME (why, and what would allow it).
func refusal(event cove.NetworkEvent, presets []cove.NetworkPreset) string {
	line := cmp.Or(event.Name, event.Address)
	if event.Reason == "" {
		return line
	}
	line += " (" + event.Reason
	if strings.Contains(event.Reason, "--allow") {
		for _, preset := range presets {
			if presetAllows(preset, event.Name, event.Port) {
				line += " or --allow " + preset.Name
			}
		}
	}
	return line + ")"
}

// presetAllows reports whether one of a preset's rules is for the name; port 0 is any.
func presetAllows(preset cove.NetworkPreset, name string, port int) bool {
	name = strings.TrimSuffix(strings.ToLower(name), ".")
	for _, rule := range preset.Rules {
		host, ports, given := strings.Cut(rule, ":")
		host = strings.TrimSuffix(host, ".")
		below, isBelow := strings.CutPrefix(host, "*")
		if name == "" || host != name && !(isBelow && strings.HasSuffix(name, below)) {
			continue
		}
		if port == 0 || ports == "*" || ports == strconv.Itoa(port) || !given && (port == 80 || port == 443) {
			return true
		}
	}
	return false
}
