package egress

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/covehq/cove"
	"github.com/covehq/cove/egress/domain"
	"github.com/covehq/cove/guest/wire"
)

// Rules is a policy that has been checked. It does not change.
type Rules struct {
	mode     cove.NetworkMode
	limits   cove.NetworkLimits
	allow    table
	deny     table
	requests []requestRule
	secrets  []rule // what secrets are bound to
	notes    []string
}

// requestRule is a request rule and the host that it is about.
type requestRule struct {
	host rule
	rule cove.RequestRule
}

// table finds rules by what they are about.
type table struct {
	names  map[string][]*rule // whole names
	below  map[string][]*rule // by the name without "*."
	peers  map[string][]*rule
	ranges []*rule
	all    []*rule // in the order in which they were written
}

// add puts a rule in.
func (t *table) add(r *rule) {
	t.all = append(t.all, r)
	var into *map[string][]*rule
	switch r.kind {
	case wholeName:
		into = &t.names
	case belowName:
		into = &t.below
	case peer:
		into = &t.peers
	case addresses:
		t.ranges = append(t.ranges, r)
		return
	}
	if *into == nil {
		*into = map[string][]*rule{}
	}
	(*into)[r.name] = append((*into)[r.name], r)
}

// ofName returns the rules about a clean name, those that are closest to it first.
func (t *table) ofName(name string) []*rule {
	if peer, ok := strings.CutSuffix(name, peerSuffix); ok {
		return t.peers[peer]
	}
	found := slices.Clip(t.names[name])
	for rest := name; ; {
		var ok bool
		if _, rest, ok = strings.Cut(rest, "."); !ok {
			return found
		}
		found = append(found, t.below[rest]...)
	}
}

// ofAddress returns the rules about an address.
func (t *table) ofAddress(addr netip.Addr) []*rule {
	var found []*rule
	for _, r := range t.ranges {
		if r.prefix.Contains(addr) {
			found = append(found, r)
		}
	}
	return found
}

// Notes tells what is odd about the policy, though valid: rules that are there twice, that
// another one covers, or that a denial makes useless.
func (r *Rules) Notes() []string { return slices.Clone(r.notes) }

// maxSetupPorts bounds the ports that an agent is told to listen on, and maxSetupRange the
// ranges that are written out for it.
const (
	maxSetupPorts = 256
	maxSetupRange = 64
)

// Setup returns what the agent has to know; the caller fills in CA. Its ports are the web's,
// and those that rules name one by one or in ranges of at most 64, 256 in all.
func (r *Rules) Setup() wire.NetworkSetup {
	if r == nil || r.mode == cove.NetworkNone {
		return wire.NetworkSetup{}
	}
	ports := []int{80, 443}
	for _, rule := range r.allow.all {
		for _, p := range rule.ports {
			for port := p.from; port <= p.to && p.to-p.from < maxSetupRange && len(ports) < maxSetupPorts; port++ {
				if !slices.Contains(ports, port) {
					ports = append(ports, port)
				}
			}
		}
	}
	slices.Sort(ports)
	return wire.NetworkSetup{Enabled: true, Ports: ports}
}

// Opens says that connections to name and port are looked into: it has request rules, or a
// secret is bound to it. Plain HTTP to a host of a secret's is looked into as well, so that
// a placeholder that goes there in the clear is found.
func (r *Rules) Opens(name string, port int) bool {
	name, err := domain.Clean(name)
	if r == nil || err != nil {
		return false
	}
	for _, bound := range r.secrets {
		if bound.matches(name) && (port == 80 || bound.has(port)) {
			return true
		}
	}
	return len(r.requestsFor(name, port)) > 0
}

// requestsFor returns the request rules for a clean name and a port, in order.
func (r *Rules) requestsFor(name string, port int) []cove.RequestRule {
	var found []cove.RequestRule
	for _, q := range r.requests {
		if q.host.matches(name) && q.host.has(port) {
			found = append(found, q.rule)
		}
	}
	return found
}

// matches says whether a rule about names is about this one.
func (r *rule) matches(name string) bool {
	return (r.kind == wholeName || r.kind == belowName) && r.names().Matches(name)
}

// Decision is what the rules say to a lookup or a connection.
type Decision struct {
	Allowed bool
	Rule    string // that decided, as it was written; "" where none did
	Reason  string // why it is refused, and what would allow it

	// named says that the rule names the one host: see guard.check.
	named bool
}

// openRule is the rule that decides where only the mode does.
const openRule = "open"

// Name decides whether a name may be looked up: one that is allowed on any port may.
func (r *Rules) Name(name string) Decision {
	clean, err := domain.Clean(name)
	if err != nil {
		return Decision{Reason: fmt.Sprintf("the name %q %v", printable(name), err)}
	}
	if r == nil || r.mode == cove.NetworkNone {
		return Decision{Reason: "the network is off: add --allow " + suggest(clean, 0)}
	}
	var denied []portRange
	var denial string
	for _, deny := range r.deny.ofName(clean) {
		denied, denial = append(denied, deny.ports...), deny.text
	}
	allowed := r.allow.ofName(clean)
	for _, allow := range allowed {
		if !coverAll(denied, allow.ports) {
			return Decision{Allowed: true, Rule: allow.text, named: allow.named()}
		}
	}
	if r.mode == cove.NetworkOpen && !isPeer(clean) && !coverAll(denied, allPorts) {
		return Decision{Allowed: true, Rule: openRule}
	}
	if denial != "" && (len(allowed) > 0 || r.mode == cove.NetworkOpen) {
		return Decision{Rule: denial, Reason: fmt.Sprintf("the denial %s refuses %s", denial, clean)}
	}
	return Decision{Reason: fmt.Sprintf("no rule allows %s: add --allow %s", clean, suggest(clean, 0))}
}

// Connect decides about a connection to a name, or to an address where name is "". Where
// both are given, addr is where the name led, and may be denied as well.
func (r *Rules) Connect(name string, addr netip.Addr, port int) Decision {
	if port < 1 || port > 65535 {
		return Decision{Reason: fmt.Sprintf("there is no port %d", port)}
	}
	addr = addr.Unmap()
	if name != "" {
		clean, err := domain.Clean(name)
		if err != nil {
			return Decision{Reason: fmt.Sprintf("the name %q %v", printable(name), err)}
		}
		name = clean
	} else if !addr.IsValid() {
		return Decision{Reason: "neither a name nor an address was given"}
	}
	to := target(name, addr)
	if r == nil || r.mode == cove.NetworkNone {
		return Decision{Reason: "the network is off: add --allow " + suggest(to, port)}
	}
	if denial := r.denial(name, addr, port); denial != "" {
		return Decision{Rule: denial, Reason: fmt.Sprintf("the denial %s refuses %s:%d", denial, to, port)}
	}
	rules := r.allow.ofAddress(addr)
	if name != "" {
		rules = r.allow.ofName(name)
	}
	for _, allow := range rules {
		if allow.has(port) {
			return Decision{Allowed: true, Rule: allow.text, named: allow.named()}
		}
	}
	if r.mode == cove.NetworkOpen && !isPeer(name) {
		return Decision{Allowed: true, Rule: openRule}
	}
	if len(rules) > 0 {
		return Decision{Reason: fmt.Sprintf("the rule %s does not allow port %d: add --allow %s", rules[0].text, port, suggest(to, port))}
	}
	if what, opens := notPublic(addr); name == "" && what != "" {
		advice := "it is never reached"
		if opens != never {
			advice = "only the operator can open it (egress.private of the policy)"
		}
		return Decision{Reason: fmt.Sprintf("no rule allows %s:%d, %s: %s", to, port, what, advice)}
	}
	return Decision{Reason: fmt.Sprintf("no rule allows %s:%d: add --allow %s", to, port, suggest(to, port))}
}

// denial returns the rule that denies a connection, or "".
func (r *Rules) denial(name string, addr netip.Addr, port int) string {
	var rules []*rule
	if name != "" {
		rules = r.deny.ofName(name)
	}
	if addr.IsValid() {
		rules = append(slices.Clip(rules), r.deny.ofAddress(plain(addr))...)
		rules = append(rules, r.deny.ofAddress(addr)...)
	}
	for _, deny := range rules {
		if deny.has(port) {
			return deny.text
		}
	}
	return ""
}

func isPeer(name string) bool { return strings.HasSuffix(name, peerSuffix) }

// suggest writes the rule that would allow a name or an address; port 0 is any.
func suggest(to string, port int) string {
	if peer, ok := strings.CutSuffix(to, peerSuffix); ok {
		if port == 0 {
			return "sandbox:" + peer + ":PORT"
		}
		return fmt.Sprintf("sandbox:%s:%d", peer, port)
	}
	if !strings.Contains(to, ".") {
		to += "." // a word without a dot is a preset
	}
	if port == 0 || port == 80 || port == 443 {
		return to
	}
	return fmt.Sprintf("%s:%d", to, port)
}
