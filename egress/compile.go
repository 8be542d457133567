package egress

import (
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"

	"github.com/covehq/cove"
	"github.com/covehq/cove/egress/domain"
)

// CompileOptions are what rules mean on this machine.
type CompileOptions struct {
	// Presets returns what a preset stands for; its errors are told to the user. nil is a
	// machine without presets.
	Presets func(name string) (rules []string, err error)
	// Private are Options.Private, which rules may name.
	Private []netip.Prefix
}

// Bounds of what one policy may have, after presets are written out.
const (
	maxRules    = 4096
	maxProblems = 20
	maxNotes    = 20
)

// compiler collects what a policy says, and what is wrong with it.
type compiler struct {
	o        CompileOptions
	r        *Rules
	problems cove.Problems
	hints    []string
	withheld int // problems that are the operator's to allow
}

// Compile checks a policy. Its error lists all that is wrong; it is cove.Invalid, or
// cove.Forbidden where nothing is but what the operator might allow.
func Compile(n cove.Network, o CompileOptions) (*Rules, error) {
	c := &compiler{o: o, r: &Rules{mode: n.Mode, limits: n.Limits}}
	if c.r.mode == "" {
		c.r.mode = cove.NetworkNone
		if len(n.Allow)+len(n.Requests)+len(n.Secrets) > 0 {
			c.r.mode = cove.NetworkAllow
		}
	}
	if !slices.Contains([]cove.NetworkMode{cove.NetworkNone, cove.NetworkAllow, cove.NetworkOpen}, c.r.mode) {
		c.problem("use none, allow or open", "there is no network mode %q", short(string(n.Mode)))
	}
	c.list("allow", n.Allow, webPorts, &c.r.allow)
	c.list("deny", n.Deny, allPorts, &c.r.deny)
	c.overlaps()
	for i, q := range n.Requests {
		c.request(i, q)
	}
	for _, use := range n.Secrets {
		c.secret(use)
	}
	if l := n.Limits; l.Connections < 0 || l.Rate < 0 || l.Total < 0 {
		c.problem("leave a limit out, or use 0, for the default", "a limit of the network is negative")
	}
	if err := c.err(); err != nil {
		return nil, err
	}
	return c.r, nil
}

// problem notes what is wrong, and what to do about it.
func (c *compiler) problem(hint, format string, args ...any) {
	c.problems.Add(fmt.Sprintf(format, args...))
	if hint != "" && !slices.Contains(c.hints, hint) {
		c.hints = append(c.hints, hint)
	}
}

// note notes what is odd, but valid.
func (c *compiler) note(format string, args ...any) {
	if len(c.r.notes) < maxNotes {
		c.r.notes = append(c.r.notes, fmt.Sprintf(format, args...))
	}
}

// err returns nil, or one error that lists the problems.
func (c *compiler) err() error {
	texts := c.problems
	if more := len(texts) - maxProblems; more > 0 {
		texts = append(texts[:maxProblems:maxProblems], fmt.Sprintf("and %d more problems", more))
	}
	hints := c.hints[:min(len(c.hints), maxProblems)]
	code := cove.Invalid
	if c.withheld == len(c.problems) {
		code = cove.Forbidden
	}
	return texts.Err(code, "network", strings.Join(hints, "; "))
}

// list reads the rules of one list into a table.
func (c *compiler) list(which string, texts []string, defaults []portRange, into *table) {
	for _, text := range texts {
		if !isPreset(text) {
			c.rule(which, text, text, defaults, into)
			continue
		}
		if c.o.Presets == nil {
			c.problem("write a host's name, as in pypi.org", "%s: there is no preset %q here", which, short(text))
			continue
		}
		expanded, err := c.o.Presets(text)
		if err != nil {
			c.problem(cove.HintOf(err), "%s: %s: %v", which, short(text), err)
			continue
		}
		before, wrong := len(into.all), len(c.problems)
		for _, inner := range expanded {
			if isPreset(inner) {
				c.problem("let presets stand for names", "%s: the preset %s stands for %q, which is no name", which, short(text), short(inner))
				continue
			}
			c.rule(which, inner, text, defaults, into)
		}
		if len(into.all) == before && len(c.problems) == wrong {
			c.problem("run cove network presets to see what each means here", "%s: the preset %s stands for nothing that can be reached", which, short(text))
		}
	}
}

// rule reads one rule, which the user knows as written.
func (c *compiler) rule(which, text, written string, defaults []portRange, into *table) {
	label := fmt.Sprintf("%s: %q", which, short(text))
	if text != written {
		label = fmt.Sprintf("%s: %s: %q", which, short(written), short(text))
	}
	r, flaw := parseRule(text, defaults)
	if flaw != nil {
		c.problem(flaw.hint, "%s %s", label, flaw.text)
		return
	}
	if r.kind == addresses && into == &c.r.allow {
		if flaw := c.unreachable(r.prefix); flaw != nil && text != written {
			c.note("%s %s, and is left out", label, flaw.text)
			return
		} else if flaw != nil {
			if flaw.operators {
				c.withheld++
			}
			c.problem(flaw.hint, "%s %s", label, flaw.text)
			return
		}
	}
	if len(into.all) >= maxRules {
		if len(into.all) == maxRules {
			c.problem("use *.NAME or ranges of addresses", "%s: there are more than %d rules", which, maxRules)
		}
		return
	}
	r.text = written
	into.add(&r)
}

// unreachable returns why addresses can't be allowed, or nil, and notes what has no effect.
func (c *compiler) unreachable(prefix netip.Prefix) *flaw {
	if prefix.Addr().Is6() {
		return &flaw{text: "is IPv6, which has no way out of a sandbox", hint: "allow the host by its name: the daemon uses IPv6 where it leads there"}
	}
	flaw, note := withheld(prefix, c.o.Private)
	if note != "" {
		c.note("%s", note)
	}
	return flaw
}

// host reads the host of a request rule.
func (c *compiler) host(label, written, text string) (rule, bool) {
	r, flaw := parseRule(text, webPorts)
	if flaw == nil && r.kind != wholeName && r.kind != belowName {
		flaw = &notAName
	}
	return c.opened(label, written, text, r, flaw)
}

// binding reads a host that a secret is bound to.
func (c *compiler) binding(label, text string) (rule, bool) {
	host, problem := domain.ParseHost(text)
	if problem != nil {
		return c.opened(label, label, text, rule{}, &flaw{text: problem.Text, hint: problem.Hint})
	}
	r, flaw := rule{ports: []portRange{{host.Port, host.Port}}}.of(host.Pattern)
	return c.opened(label, label, text, r, flaw)
}

// opened allows what a request rule or a binding is about, or notes what is wrong with it.
func (c *compiler) opened(label, written, text string, r rule, flaw *flaw) (rule, bool) {
	if flaw != nil {
		c.problem(flaw.hint, "%s: %q %s", label, short(text), flaw.text)
		return r, false
	}
	r.text = written
	c.r.allow.add(&r)
	return r, true
}

var notAName = flaw{text: "is not a name", hint: "write a host's name, as in api.github.com"}

// secret reads what a secret is bound to. Values are not looked at.
func (c *compiler) secret(use cove.SecretUse) {
	label := "secret " + short(use.Name)
	if use.Name == "" {
		c.problem("give it one, as in GITHUB_TOKEN", "a secret has no name")
	}
	if len(use.Hosts) == 0 {
		c.problem("bind it to the names that may have it, as in GITHUB_TOKEN@api.github.com", "%s is bound to no host", label)
	}
	for _, place := range use.In {
		if !slices.Contains([]cove.SecretPlace{cove.SecretInHeader, cove.SecretInQuery, cove.SecretInBody}, place) {
			c.problem("use header, query or body", "%s: there is no place %q", label, short(string(place)))
		}
	}
	for _, host := range use.Hosts {
		if r, ok := c.binding(label, host); ok {
			c.r.secrets = append(c.r.secrets, r)
		}
	}
}

// request reads a request rule.
func (c *compiler) request(i int, q cove.RequestRule) {
	label := fmt.Sprintf("requests[%d]", i)
	host, ok := c.host(label, "requests to "+short(q.Host), q.Host)
	if ok {
		c.r.requests = append(c.r.requests, requestRule{host, q})
	}
	if !slices.Contains([]cove.RequestAction{"", cove.RequestAllow, cove.RequestDeny, cove.RequestAudit}, q.Action) {
		c.problem("use allow, deny or audit", "%s: there is no action %q", label, short(string(q.Action)))
	}
	for _, method := range q.Methods {
		if !httpguts.ValidHeaderFieldName(method) || method != strings.ToUpper(method) {
			c.problem("write methods as in GET", "%s: %q is no method", label, short(method))
		}
	}
	for _, path := range q.Paths {
		if !strings.HasPrefix(path, "/") && !strings.HasPrefix(path, "*") || len(path) > 4<<10 {
			c.problem("begin paths with /, as in /repos/**", "%s: %q is no path", label, short(path))
		}
	}
	for name, value := range q.Headers {
		if !httpguts.ValidHeaderFieldName(name) || !httpguts.ValidHeaderFieldValue(value) {
			c.problem("write headers as HTTP does", "%s: the header %q can't be sent", label, short(name))
		}
		if slices.Contains(ownHeaders, http.CanonicalHeaderKey(name)) {
			c.problem("leave out headers that HTTP itself needs", "%s: the header %s is not a rule's to set", label, name)
		}
	}
}

// ownHeaders say how a message is framed and where it goes, RFC 9110 and 9112: another
// value would send another request than the one that was decided about.
var ownHeaders = []string{
	"Connection", "Content-Length", "Host", "Keep-Alive", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
}

// overlaps notes the rules that change nothing.
func (c *compiler) overlaps() {
	for _, t := range []*table{&c.r.allow, &c.r.deny} {
		for i, r := range t.all[:min(len(t.all), maxNotedRules)] {
			for j, other := range t.all[:min(len(t.all), maxNotedRules)] {
				if i != j && r.text != other.text && other.covers(r) && (!r.covers(other) || j < i) {
					c.note("the rule %s is covered by %s", r.text, other.text)
					break
				}
			}
			if slices.ContainsFunc(t.all[:i], func(other *rule) bool { return other.text == r.text && other.covers(r) && r.covers(other) }) {
				c.note("the rule %s is there twice", r.text)
			}
		}
	}
	for _, r := range c.r.allow.all[:min(len(c.r.allow.all), maxNotedRules)] {
		for _, deny := range c.r.deny.all[:min(len(c.r.deny.all), maxNotedRules)] {
			if deny.covers(r) {
				c.note("the rule %s has no effect: %s is denied", r.text, deny.text)
				break
			}
		}
	}
}

// maxNotedRules bounds the rules that are compared with each other.
const maxNotedRules = 256

// short quotes no more of a user's words than helps.
func short(text string) string {
	const longest = 80
	if len(text) > longest {
		return printable(text[:longest]) + "…"
	}
	return printable(text)
}
