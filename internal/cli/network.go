package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/covehq/cove"
)

func (p *program) networkVerb() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "network",
		Short:   "Show and change what a sandbox may reach",
		Example: "  cove network log build -f\n  cove network set build --allow pip,github.com",
		Args:    arguments(),
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(p.networkShowVerb(), p.networkSetVerb(), p.networkLogVerb(), p.networkPresetsVerb())
	return cmd
}

func (p *program) networkShowVerb() *cobra.Command {
	return &cobra.Command{
		Use:   "show ID",
		Short: "Show what a sandbox may reach, and how much it did",
		Long: `Show what a sandbox may reach, how many connections it has and had, and how many bytes
went each way.

With --json, prints what GET /v1/sandboxes/{id}/network replies.`,
		Example:           "  cove network show build",
		Args:              arguments("ID"),
		ValidArgsFunction: p.completeSandbox,
		RunE: verb(func(ctx context.Context, args []string) error {
			s, err := p.sandbox(ctx, args[0])
			if err != nil {
				return err
			}
			status, err := s.Network(ctx)
			if err != nil {
				return err
			}
			return p.showNetwork(status)
		}),
	}
}

func (p *program) showNetwork(status cove.NetworkStatus) error {
	if p.json {
		return p.writeJSON(status)
	}
	n := status.Network
	rows := [][]string{}
	list := func(name string, words []string) {
		for _, word := range words {
			rows = append(rows, []string{name, word})
			name = ""
		}
	}
	list("allow", n.Allow)
	list("deny", n.Deny)
	list("requests", texts(n.Requests, requestText))
	list("secrets", texts(n.Secrets, secretText))
	limits := fmt.Sprintf("%d connections", n.Limits.Connections)
	if n.Limits.Rate > 0 {
		limits += fmt.Sprintf(", %v a second each way", n.Limits.Rate)
	}
	if n.Limits.Total > 0 {
		limits += fmt.Sprintf(", %v in all", n.Limits.Total)
	}
	rows = append(rows,
		[]string{"limits", limits},
		[]string{"connections", fmt.Sprintf("%d open, %d in all", status.Open, status.Total)},
		[]string{"refused", strconv.FormatInt(status.Refused, 10)},
		[]string{"bytes", fmt.Sprintf("%v in, %v out", status.Received, status.Sent)})
	mode := string(n.Mode)
	if n.Final {
		mode += ", for ever"
	}
	return p.table([]string{"mode", mode}, rows)
}

// reach is a network in one line.
func reach(n cove.Network) string {
	line := string(n.Mode)
	if n.Mode == cove.NetworkAllow {
		line += ": " + dash(strings.Join(n.Allow, " "))
	}
	if len(n.Secrets) > 0 {
		line += ", secrets: " + strings.Join(texts(n.Secrets, func(s cove.SecretUse) string { return s.Name }), " ")
	}
	return line
}

func texts[T any](list []T, text func(T) string) []string {
	words := make([]string, len(list))
	for i, item := range list {
		words[i] = text(item)
	}
	return words
}

// requestText is a rule as --request takes it.
func requestText(r cove.RequestRule) string {
	words := []string{string(cmp.Or(r.Action, cove.RequestAllow))}
	if len(r.Methods) > 0 {
		words = append(words, strings.Join(r.Methods, ","))
	}
	words = append(words, r.Host+strings.Join(r.Paths, " "))
	return strings.Join(words, " ")
}

func secretText(s cove.SecretUse) string {
	line := s.Name + "@" + strings.Join(s.Hosts, ",")
	for _, place := range s.In {
		line += ",in=" + string(place)
	}
	if s.Env != "" && s.Env != s.Name {
		line += ",env=" + s.Env
	}
	return line
}

func (p *program) networkSetVerb() *cobra.Command {
	var n cove.Network
	cmd := &cobra.Command{
		Use:   "set ID [flags]",
		Short: "Change what a running sandbox may reach",
		Long: `Change what a running sandbox may reach. What is not given stays as it is; a list that is
given takes the place of the one before, and an empty one, as in --deny '', takes it away.
Connections that are no longer allowed are closed. Allowing something turns a network on
that was off; --mode none takes all away that was allowed.

With --json, prints what PATCH /v1/sandboxes/{id}/network replies.`,
		Example: `  cove network set build --allow pip,github.com
  cove network set build --mode none`,
		ValidArgsFunction: p.completeSandbox,
	}
	flags := cmd.Flags()
	flags.Var(networkMode{&n.Mode}, "mode", "none, allow (what --allow lists) or open (public addresses)")
	ruleFlags(flags, &n.Allow, &n.Deny)
	flags.Var(repeatable{emptied(&n.Requests, adder(&n.Requests, parseRequest)), "RULE"}, "request", "rule on HTTP requests, as in 'allow GET api.github.com/repos/**', deny or audit; the first that matches decides (repeatable)")
	flags.Var(repeatable{emptied(&n.Secrets, adder(&n.Secrets, parseSecret)), "SECRET"}, "secret", "secret that it uses without seeing it, as cove run takes it; programs that run already have no placeholder (repeatable)")
	p.completeNetwork(cmd, "mode")
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if err := arguments("ID")(cmd, args); err != nil {
			return err
		}
		if _, some := update(flags, n); !some {
			return usage("nothing to change", "give --mode, --allow, --deny, --request or --secret")
		}
		return nil
	}
	cmd.RunE = verb(func(ctx context.Context, args []string) error {
		change, _ := update(flags, n)
		return p.setNetwork(ctx, args[0], change)
	})
	return cmd
}

// emptied lets an empty value take a list away.
func emptied[T any](list *[]T, add func(string) error) func(string) error {
	return func(text string) error {
		if text == "" {
			*list = nil
			return nil
		}
		return add(text)
	}
}

// update returns what the flags change, and whether they do.
func update(flags *pflag.FlagSet, n cove.Network) (change cove.NetworkUpdate, some bool) {
	change = cove.NetworkUpdate{
		Allow: changed(flags, "allow", n.Allow), Deny: changed(flags, "deny", n.Deny),
		Requests: changed(flags, "request", n.Requests), Secrets: changed(flags, "secret", n.Secrets),
	}
	if flags.Changed("mode") {
		change.Mode = &n.Mode
	}
	return change, change != cove.NetworkUpdate{}
}

func (p *program) setNetwork(ctx context.Context, id string, change cove.NetworkUpdate) error {
	s, err := p.sandbox(ctx, id)
	if err != nil {
		return err
	}
	if change.Mode != nil && *change.Mode == cove.NetworkNone {
		change.Allow, change.Requests, change.Secrets = none(change.Allow), none(change.Requests), none(change.Secrets)
	}
	status, err := s.SetNetwork(ctx, change)
	if err != nil {
		return err
	}
	return p.showNetwork(status)
}

// none is an empty list where none was given.
func none[T any](list *[]T) *[]T {
	if list == nil {
		list = &[]T{}
	}
	return list
}

func (p *program) networkLogVerb() *cobra.Command {
	var follow bool
	cmd := &cobra.Command{
		Use:   "log ID",
		Short: "Show what a sandbox wanted to reach, and what became of it",
		Long: `Show every connection and request of a sandbox, and every name that was refused, with the
rule that decided: the last few thousand, and with -f those that come.

With --json, prints one JSON object a line, each an event of
GET /v1/sandboxes/{id}/network/log.`,
		Example:           "  cove network log build\n  cove network log build -f --json | jq -r 'select(.allowed|not).name'",
		Args:              arguments("ID"),
		ValidArgsFunction: p.completeSandbox,
		RunE: verb(func(ctx context.Context, args []string) error {
			return p.networkLog(ctx, args[0], follow)
		}),
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on until interrupted")
	return cmd
}

func (p *program) networkLog(ctx context.Context, id string, follow bool) error {
	ignoreBrokenPipe()
	s, err := p.sandbox(ctx, id)
	if err != nil {
		return err
	}
	encoder := json.NewEncoder(p.Stdout)
	encoder.SetEscapeHTML(false)
	show := func(event cove.NetworkEvent) error {
		if p.json {
			return encoder.Encode(event)
		}
		_, err := fmt.Fprintln(p.Stdout, networkLine(event))
		return err
	}
	if follow {
		for event, err := range s.FollowNetwork(ctx, 0) {
			if err == nil {
				err = show(event)
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
	events, lost, err := s.NetworkEvents(ctx, 0)
	if err != nil {
		return err
	}
	if lost {
		fmt.Fprintln(p.Stderr, "cove: earlier events were not kept")
	}
	for _, event := range events {
		if err := show(event); err != nil {
			return err
		}
	}
	return nil
}

// networkLine is an event in words, without what a terminal would obey: names, methods and
// paths are the guest's.
func networkLine(e cove.NetworkEvent) string {
	verdict := "allowed"
	switch {
	case !e.Allowed:
		verdict = "refused"
	case e.Kind == cove.NetworkClosed:
		verdict = "closed"
	}
	words := []string{e.Time.Local().Format(time.RFC3339), verdict, string(e.Kind), target(e)}
	if e.Kind == cove.NetworkRequest {
		words = append(words[:3], e.Method, target(e)+e.Path)
		if e.Status > 0 {
			words = append(words, strconv.Itoa(e.Status))
		}
	}
	if e.Kind == cove.NetworkConnection && e.Name != "" && e.Address != "" {
		words = append(words, "at "+e.Address)
	}
	if e.Kind == cove.NetworkClosed {
		words = append(words, fmt.Sprintf("%v in, %v out", e.Received, e.Sent))
	}
	if e.Rule != "" {
		words = append(words, "by "+e.Rule)
	}
	if len(e.Secrets) > 0 {
		words = append(words, "with "+strings.Join(e.Secrets, " "))
	}
	line := strings.Join(words, "  ")
	if e.Reason != "" {
		line += ": " + e.Reason
	}
	return clean(line, "")
}

// target is what an event is about: a name, or else an address, with its port.
func target(e cove.NetworkEvent) string {
	host := cmp.Or(e.Name, e.Address, "?")
	if e.Port == 0 {
		return host
	}
	return net.JoinHostPort(host, strconv.Itoa(e.Port))
}

func (p *program) networkPresetsVerb() *cobra.Command {
	return &cobra.Command{
		Use:   "presets",
		Short: "Show the names for rules, and what each means here",
		Long: `Show the presets: names that --allow takes for the servers of a package manager, as this
machine's own client is set up to use them, mirrors included, and those of the operator.

With --json, prints what GET /v1/network/presets replies.`,
		Example: "  cove network presets",
		Args:    arguments(),
		RunE:    verb(p.presets),
	}
}

func (p *program) presets(ctx context.Context, _ []string) error {
	c, err := p.connect(ctx)
	if err != nil {
		return err
	}
	presets, err := c.NetworkPresets(ctx)
	if err != nil {
		return err
	}
	if p.json {
		return p.writeJSON(map[string][]cove.NetworkPreset{"presets": presets})
	}
	var rows [][]string
	for _, preset := range presets {
		meaning := strings.Join(preset.Rules, " ")
		if preset.Error != "" {
			meaning = "can't be used: " + preset.Error
		}
		rows = append(rows, []string{preset.Name, dash(meaning), preset.Source})
		for _, warning := range preset.Warnings {
			rows = append(rows, []string{"", "warning: " + warning, ""})
		}
	}
	return p.table([]string{"NAME", "RULES", "SOURCE"}, rows)
}
