package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/covehq/cove"
)

// networkFlags adds the flags of what a sandbox may reach.
func networkFlags(flags *pflag.FlagSet, n *cove.Network) {
	flags.Var(networkMode{&n.Mode}, "network", "what it may reach: none, allow (what --allow lists) or open (public addresses); default allow with --allow, --request or --secret, else none")
	ruleFlags(flags, &n.Allow, &n.Deny)
	flags.Var(repeatable{adder(&n.Requests, parseRequest), "RULE"}, "request", "rule on HTTP requests, as in 'allow GET api.github.com/repos/**', deny or audit; the first that matches decides (repeatable)")
	flags.Var(repeatable{adder(&n.Secrets, parseSecret), "SECRET"}, "secret", "secret that it uses without seeing it: NAME, or NAME@HOST,… for the value of your variable NAME where it is set, else the one of cove secret set; NAME=env:VARIABLE@HOST,… or NAME=@FILE@HOST,… for others (repeatable)")
	flags.BoolVar(&n.Final, "network-final", false, "never change what it may reach")
}

// ruleFlags adds the flags of rules.
func ruleFlags(flags *pflag.FlagSet, allow, deny *[]string) {
	flags.Var(repeatable{lister(allow), "RULE,…"}, "allow", "what it may reach: a name, *.NAME, address or CIDR, with :PORT, :FROM-TO or :* where that is not 80 and 443; a preset, as pip; or sandbox:NAME:PORT (repeatable)")
	flags.Var(repeatable{lister(deny), "RULE,…"}, "deny", "what it may not reach although --allow or open says so; on every port, unless some are named (repeatable)")
}

// completeNetwork offers values for those flags.
func (p *program) completeNetwork(cmd *cobra.Command, mode string) {
	modes := []cobra.Completion{string(cove.NetworkNone), string(cove.NetworkAllow), string(cove.NetworkOpen)}
	must(cmd.RegisterFlagCompletionFunc(mode, cobra.FixedCompletions(modes, cobra.ShellCompDirectiveNoFileComp)))
	for _, flag := range []string{"allow", "deny"} {
		must(cmd.RegisterFlagCompletionFunc(flag, p.completePresets))
	}
	if cmd.Flags().Lookup("secret") != nil {
		must(cmd.RegisterFlagCompletionFunc("secret", p.completeSecrets))
		must(cmd.RegisterFlagCompletionFunc("request", cobra.FixedCompletions([]string{"allow ", "deny ", "audit "}, cobra.ShellCompDirectiveNoFileComp|cobra.ShellCompDirectiveNoSpace)))
	}
}

func (p *program) completePresets(cmd *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(cmd.Context(), completionTime)
	defer cancel()
	var names []cobra.Completion
	if c := p.peek(ctx, cmd); c != nil {
		presets, _ := c.NetworkPresets(ctx) // none is what to offer after an error
		for _, preset := range presets {
			if preset.Error == "" {
				names = append(names, preset.Name)
			}
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

func (p *program) completeSecrets(cmd *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(cmd.Context(), completionTime)
	defer cancel()
	var names []cobra.Completion
	if c := p.peek(ctx, cmd); c != nil {
		secrets, _ := c.Secrets(ctx)
		for _, secret := range secrets {
			names = append(names, secret.Name)
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
}

// networkMode is a flag: one of the modes.
type networkMode struct{ to *cove.NetworkMode }

// Set implements pflag.Value.
func (m networkMode) Set(text string) error {
	switch mode := cove.NetworkMode(text); mode {
	case cove.NetworkNone, cove.NetworkAllow, cove.NetworkOpen:
		*m.to = mode
		return nil
	}
	return fmt.Errorf("%s is none of none, allow and open", quote(text))
}

// String implements pflag.Value.
func (m networkMode) String() string {
	if m.to == nil {
		return ""
	}
	return string(*m.to)
}

// Type implements pflag.Value.
func (networkMode) Type() string { return "mode" }

// lister adds the rules of a list with commas; an empty one takes all away. The daemon knows what a rule may be; what
// people paste is told here.
func lister(to *[]string) func(string) error {
	return func(text string) error {
		if text == "" {
			*to = nil // for network set: a list that is empty
			return nil
		}
		for rule := range strings.SplitSeq(text, ",") {
			rule = strings.TrimSpace(rule)
			if rule == "" {
				return errors.New("a rule is empty")
			}
			if _, name, ok := strings.Cut(rule, "://"); ok {
				name, _, _ = strings.Cut(name[strings.LastIndex(name, "@")+1:], "/")
				return fmt.Errorf("a rule is a name and not an URL, as in %s", quote(name))
			}
			*to = append(*to, rule)
		}
		return nil
	}
}

// parseRequest reads --request: [allow|deny|audit] [METHOD,…] HOST[:PORT][/PATH].
func parseRequest(text string) (cove.RequestRule, error) {
	bad := fmt.Errorf("%s is not [allow|deny|audit] [METHOD,…] HOST[:PORT][/PATH], as in 'allow GET api.github.com/repos/**'", quote(text))
	words := strings.Fields(text)
	if len(words) == 0 {
		return cove.RequestRule{}, bad
	}
	var rule cove.RequestRule
	target := words[len(words)-1]
	words = words[:len(words)-1]
	if len(words) > 0 {
		switch action := cove.RequestAction(words[0]); action {
		case cove.RequestAllow, cove.RequestDeny, cove.RequestAudit:
			rule.Action, words = action, words[1:]
		}
	}
	if len(words) > 1 || strings.Contains(target, "://") {
		return cove.RequestRule{}, bad
	}
	if len(words) == 1 && words[0] != "*" {
		for method := range strings.SplitSeq(words[0], ",") {
			if method == "" || strings.ContainsFunc(method, func(r rune) bool { return (r < 'A' || r > 'Z') && r != '-' && r != '_' }) {
				return cove.RequestRule{}, fmt.Errorf("%s is neither allow, deny or audit nor a method, which has capital letters", quote(method))
			}
			rule.Methods = append(rule.Methods, method)
		}
	}
	host, path, found := strings.Cut(target, "/")
	if host == "" {
		return cove.RequestRule{}, bad
	}
	rule.Host = host
	if found {
		rule.Paths = []string{"/" + path}
	}
	return rule, nil
}

// maxSecret bounds a secret's value, as the daemon does.
const maxSecret = 64 << 10

// parseSecret reads --secret: NAME[=env:VARIABLE|=@FILE][@HOST,…]. Beside hosts, in=query
// says where in a request it goes, and env=VARIABLE where the placeholder is inside. The
// value itself can't be written: everybody on the machine sees the arguments of a program.
func parseSecret(text string) (cove.SecretUse, error) {
	name, list, bound := cutLast(text, "@")
	name, source, given := strings.Cut(name, "=")
	if given && source == "" && bound { // NAME=@FILE: the last @ is the file's
		source, list, bound = "@"+list, "", false
	}
	use := cove.SecretUse{Name: name}
	if name == "" || strings.ContainsAny(name, ":/,") {
		return use, errors.New("a secret has a name, as in GITHUB_TOKEN@api.github.com")
	}
	for word := range strings.SplitSeq(list, ",") {
		key, value, option := strings.Cut(word, "=")
		switch {
		case word == "" && !bound:
		case word == "":
			return use, fmt.Errorf("secret %s is bound to an empty name", name)
		case option && key == "in":
			use.In = append(use.In, cove.SecretPlace(value))
		case option && key == "env":
			use.Env = value
		case option:
			return use, fmt.Errorf("secret %s: %s is none of in and env", name, quote(key))
		default:
			use.Hosts = append(use.Hosts, word)
		}
	}
	var err error
	use.Value, err = secretValue(name, source, given, len(use.Hosts) > 0)
	return use, err
}

// secretValue is that of the caller's, or "" for the daemon's.
func secretValue(name, source string, given, bound bool) (string, error) {
	if !given {
		if !bound {
			return "", nil // which is bound in the daemon's store
		}
		return os.Getenv(name), nil
	}
	if !bound {
		return "", fmt.Errorf("secret %s says where it comes from, and not where it may go: add @HOST", name)
	}
	if variable, ok := strings.CutPrefix(source, "env:"); ok {
		value := os.Getenv(variable)
		if value == "" {
			return "", fmt.Errorf("secret %s: your variable %s is not set", name, quote(variable))
		}
		return value, nil
	}
	if path, ok := strings.CutPrefix(source, "@"); ok {
		return readSecret(name, path)
	}
	return "", fmt.Errorf("the value of secret %s can't be an argument, which everybody on this machine sees: write %s=env:VARIABLE@HOST or %s=@FILE@HOST", name, name, name)
}

// readSecret reads a value from a file, without the newline at its end.
func readSecret(name, path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("secret %s: %w", name, err)
	}
	defer file.Close()
	return secretFrom(name, file)
}

func secretFrom(name string, from io.Reader) (string, error) {
	content, err := io.ReadAll(io.LimitReader(from, maxSecret+3)) // and a newline of two bytes
	if err != nil {
		return "", fmt.Errorf("secret %s: %w", name, err)
	}
	value := strings.TrimSuffix(strings.TrimSuffix(string(content), "\n"), "\r")
	switch {
	case value == "":
		return "", fmt.Errorf("secret %s is empty", name)
	case len(value) > maxSecret:
		return "", fmt.Errorf("secret %s is larger than 64KiB", name)
	}
	return value, nil
}

func cutLast(text, separator string) (before, after string, found bool) {
	i := strings.LastIndex(text, separator)
	if i < 0 {
		return text, "", false
	}
	return text[:i], text[i+len(separator):], true
}

// changed returns what a list was set to, or nil where its flag was not given; "" empties
// the list.
func changed[T any](flags *pflag.FlagSet, flag string, list []T) *[]T {
	if !flags.Changed(flag) {
		return nil
	}
	list = append([]T{}, slices.Clip(list)...)
	return &list
}
