package policy

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/covehq/cove"
)

// Egress is what the network of a spec may ask for. The zero value is everything public.
type Egress struct {
	// Modes are those that may be asked for beside none, which always may; nil is all of
	// them, but open only where Allow is nil.
	Modes []cove.NetworkMode `yaml:"modes"`
	// Allow are patterns of the names that rules, request rules and secrets may name,
	// presets by theirs, and CIDRs for addresses; nil is any.
	Allow []string `yaml:"allow"`
	// Private are the CIDRs of private addresses that rules may lead to; nil is none.
	Private []string `yaml:"private"`
	// Secrets says whether secrets may be used; nil is yes.
	Secrets *bool `yaml:"secrets"`

	private []netip.Prefix
}

// tidy checks the values, and brings them into one form.
func (e *Egress) tidy(problems *cove.Problems) {
	for _, mode := range e.Modes {
		if mode != cove.NetworkNone && mode != cove.NetworkAllow && mode != cove.NetworkOpen {
			problems.Add("egress: there is no mode " + strconv.Quote(string(mode)) + ", use none, allow or open")
		}
	}
	for i, pattern := range e.Allow {
		if pattern == "" || strings.Count(pattern, "*") > maxStars {
			problems.Add("egress: pattern " + strconv.Quote(pattern) + " is empty or has too many stars")
		}
		e.Allow[i] = canonical(pattern)
	}
	for _, text := range e.Private {
		prefix, ok := parsePrefix(text)
		if !ok {
			problems.Add("egress: private: " + strconv.Quote(text) + " is not an address or CIDR")
		}
		e.private = append(e.private, prefix)
	}
}

// canonical is a name as rules and patterns have it.
func canonical(name string) string { return strings.TrimSuffix(strings.ToLower(name), ".") }

func parsePrefix(text string) (netip.Prefix, bool) {
	if address, err := netip.ParseAddr(text); err == nil {
		address = address.Unmap()
		return netip.PrefixFrom(address, address.BitLen()), true
	}
	prefix, err := netip.ParsePrefix(text)
	return prefix.Masked(), err == nil
}

// Private returns the private addresses to which rules may lead.
func (p *Policy) Private() []netip.Prefix {
	if p == nil {
		return nil
	}
	return slices.Clone(p.Egress.private)
}

// CheckNetwork returns what the policy forbids of a complete network, as a new one of a
// sandbox that runs.
func (p *Policy) CheckNetwork(n *cove.Network) []Violation {
	if p == nil {
		p = new(Policy)
	}
	v := new(violations)
	v.network(&p.Egress, n)
	return *v
}

func (v *violations) network(e *Egress, n *cove.Network) {
	if n.Mode == cove.NetworkNone || n.Mode == "" {
		return // and nothing else has an effect
	}
	modes := e.Modes
	if modes == nil && e.Allow != nil {
		modes = []cove.NetworkMode{cove.NetworkAllow}
	}
	if modes != nil && !slices.Contains(modes, n.Mode) {
		v.add("the operator does not allow network mode "+string(n.Mode), "egress: {modes: ["+string(n.Mode)+"]}")
	}
	if len(n.Secrets) > 0 && e.Secrets != nil && !*e.Secrets {
		v.add("the operator allows no secrets", "egress: {secrets: true}")
	}
	seen := map[string]bool{}
	for _, rule := range targets(n) {
		name := ruleTarget(rule)
		if seen[name] || strings.HasPrefix(name, "sandbox:") { // which leads to no network
			continue
		}
		seen[name] = true
		v.target(e, name)
	}
}

// targets returns all that a network names to be reached.
func targets(n *cove.Network) []string {
	rules := slices.Clone(n.Allow)
	for _, request := range n.Requests {
		rules = append(rules, request.Host)
	}
	for _, secret := range n.Secrets {
		rules = append(rules, secret.Hosts...)
	}
	return rules
}

// ruleTarget returns a rule without its ports.
func ruleTarget(rule string) string {
	rule = strings.TrimSpace(rule)
	if strings.HasPrefix(rule, "sandbox:") {
		return rule
	}
	if inside, ok := strings.CutPrefix(rule, "["); ok { // [2001:db8::]/32:443
		address, rest, _ := strings.Cut(inside, "]")
		bits, _, _ := strings.Cut(rest, ":")
		return address + bits
	}
	if _, ok := parsePrefix(rule); ok { // IPv6, whose last colon begins no port
		return rule
	}
	name, _, _ := strings.Cut(rule, ":")
	return canonical(name)
}

// target checks one name, preset, address or CIDR.
func (v *violations) target(e *Egress, target string) {
	prefix, isAddress := parsePrefix(target)
	within := func(list []netip.Prefix) bool {
		return slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Bits() <= prefix.Bits() && p.Contains(prefix.Addr()) })
	}
	if isAddress && private(prefix) {
		if !within(e.private) {
			v.add("the operator allows no way to "+target+", which is private", "egress: {private: ["+strconv.Quote(target)+"]}")
		}
		return
	}
	if e.Allow == nil {
		return
	}
	allowed := matchAny(e.Allow, target)
	if isAddress {
		var listed []netip.Prefix
		for _, pattern := range e.Allow {
			if p, ok := parsePrefix(pattern); ok {
				listed = append(listed, p)
			}
		}
		allowed = within(listed)
	}
	if !allowed {
		v.add("the operator does not allow "+target, "egress: {allow: ["+strconv.Quote(target)+"]}")
	}
}

// private reports whether all of a prefix is out of the public network's reach. Of one
// that holds private addresses beside others, the guard of each connection refuses those.
func private(prefix netip.Prefix) bool {
	shared := netip.MustParsePrefix("100.64.0.0/10") // RFC 6598
	whole := func(is func(netip.Addr) bool) bool { return is(prefix.Addr()) && is(last(prefix)) }
	return whole(netip.Addr.IsPrivate) || whole(netip.Addr.IsLoopback) || whole(netip.Addr.IsLinkLocalUnicast) || whole(shared.Contains)
}

// last is the last address of a prefix.
func last(prefix netip.Prefix) netip.Addr {
	bytes := prefix.Masked().Addr().AsSlice()
	for bit := prefix.Bits(); bit < len(bytes)*8; bit++ {
		bytes[bit/8] |= 1 << (7 - bit%8)
	}
	address, _ := netip.AddrFromSlice(bytes)
	return address
}
