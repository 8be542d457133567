package egress

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/covehq/cove/egress/domain"
)

// kind is what a rule is about.
type kind int

const (
	wholeName kind = iota // pypi.org
	belowName             // *.example.org
	addresses             // 203.0.113.0/24
	peer                  // sandbox:db:5432
)

// rule is one line of a policy.
type rule struct {
	text   string // as it was written
	kind   kind
	name   string // of names, without "*."; of a peer, the other sandbox's
	prefix netip.Prefix
	ports  []portRange // not empty
}

// portRange are ports, both ends included.
type portRange struct{ from, to int }

var (
	webPorts = []portRange{{80, 80}, {443, 443}}
	allPorts = []portRange{{1, 65535}}
)

// flaw is what is wrong with a rule, and what to write instead.
type flaw struct {
	text, hint string
	operators  bool // it would be right if the operator allowed it
}

// has says whether the rule is about this port.
func (r *rule) has(port int) bool {
	for _, p := range r.ports {
		if p.from <= port && port <= p.to {
			return true
		}
	}
	return false
}

// named says that the rule names one host or address, and not whatever is below a name:
// where the operator opened private addresses, it may lead there.
func (r *rule) named() bool { return r.kind == wholeName || r.kind == addresses }

// covers says that r matches all that other does.
func (r *rule) covers(other *rule) bool {
	switch {
	case r.kind == addresses && other.kind == addresses:
		if r.prefix.Bits() > other.prefix.Bits() || !r.prefix.Contains(other.prefix.Addr()) {
			return false
		}
	case r.kind == belowName && (other.kind == wholeName || other.kind == belowName):
		if !r.names().Covers(other.names()) {
			return false
		}
	case r.kind != other.kind || r.name != other.name || r.prefix != other.prefix:
		return false
	}
	return coverAll(r.ports, other.ports)
}

// coverAll says that each port of need is in one of have.
func coverAll(have, need []portRange) bool {
	for _, want := range need {
		for port := want.from; port <= want.to; {
			next := port
			for _, p := range have {
				if p.from <= port && port <= p.to {
					next = max(next, p.to+1)
				}
			}
			if next == port {
				return false
			}
			port = next
		}
	}
	return true
}

// isPreset says whether a rule is a word that stands for others.
func isPreset(text string) bool {
	return text != "" && !strings.ContainsAny(text, ".:/*[] ")
}

// parseRule reads a rule that is not a preset. defaults are its ports where it has none.
func parseRule(text string, defaults []portRange) (rule, *flaw) {
	r := rule{text: text, ports: defaults}
	if rest, ok := strings.CutPrefix(text, "sandbox:"); ok {
		return parsePeer(r, rest)
	}
	if strings.Contains(text, "://") {
		return r, &flaw{text: "is a URL", hint: "write the name alone, as in pypi.org or pypi.org:8443"}
	}
	host, ports, hasPorts := strings.Cut(text, ":")
	if strings.HasPrefix(text, "[") || strings.Contains(ports, ":") {
		host, ports, hasPorts = cutIPv6(text)
	}
	if hasPorts {
		var problem *flaw
		if r.ports, problem = parsePorts(ports); problem != nil {
			return r, problem
		}
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		r.kind, r.prefix = addresses, netip.PrefixFrom(addr.Unmap(), addr.Unmap().BitLen())
		return r, nil
	}
	if strings.Contains(host, "/") {
		return parseRange(r, host)
	}
	return parseName(r, host)
}

// cutIPv6 takes the ports from an address with colons of its own, in brackets.
func cutIPv6(text string) (host, ports string, hasPorts bool) {
	inside, ok := strings.CutPrefix(text, "[")
	if !ok {
		return text, "", false
	}
	host, rest, _ := strings.Cut(inside, "]")
	bits, ports, hasPorts := strings.Cut(rest, ":")
	return host + bits, ports, hasPorts
}

// parsePeer reads NAME:PORT of another sandbox.
func parsePeer(r rule, text string) (rule, *flaw) {
	const hint = "write the sandbox's name and one of its ports, as in sandbox:db:5432"
	name, ports, ok := strings.Cut(text, ":")
	if !ok {
		return r, &flaw{text: "names no port", hint: hint}
	}
	clean, err := domain.Clean(name + peerSuffix)
	if err != nil || clean != name+peerSuffix || strings.Contains(name, ".") {
		return r, &flaw{text: "does not have the name of a sandbox", hint: hint}
	}
	var problem *flaw
	r.kind, r.name = peer, name
	r.ports, problem = parsePorts(ports)
	return r, problem
}

// parseRange reads a CIDR.
func parseRange(r rule, text string) (rule, *flaw) {
	prefix, err := netip.ParsePrefix(text)
	if err != nil {
		return r, &flaw{text: "is neither a name nor a range of addresses",
			hint: "write a range as in 203.0.113.0/24; for paths of a name there are request rules"}
	}
	if prefix.Addr().Is4In6() {
		return r, &flaw{text: "is a range of IPv4 addresses in the form of IPv6", hint: "write it as IPv4, as in 203.0.113.0/24"}
	}
	if prefix != prefix.Masked() {
		return r, &flaw{text: "has bits set beyond its length", hint: "write " + prefix.Masked().String()}
	}
	r.kind, r.prefix = addresses, prefix
	return r, nil
}

// parseName reads NAME or *.NAME.
func parseName(r rule, text string) (rule, *flaw) {
	if text == "*" || text == "**" || text == "*.*" {
		return r, &flaw{text: "would allow every name", hint: "use --network open for all public addresses, or list names"}
	}
	pattern, problem := domain.ParsePattern(text)
	switch {
	case problem != nil:
		return r, &flaw{text: problem.Text, hint: problem.Hint}
	case !pattern.Below && !strings.Contains(text, "."):
		return r, &flaw{text: "is a name without a dot",
			hint: fmt.Sprintf("for a host of that name add a dot, as in %s.; a preset, as pip, has ports of its own", pattern.Name)}
	}
	return r.of(pattern)
}

// of makes r a rule about names.
func (r rule) of(names domain.Pattern) (rule, *flaw) {
	if strings.HasSuffix("."+names.Name, peerSuffix) {
		return r, &flaw{text: "is the name of a sandbox", hint: "write sandbox:NAME:PORT"}
	}
	r.kind, r.name = wholeName, names.Name
	if names.Below {
		r.kind = belowName
	}
	return r, nil
}

// names are those that a rule about names is about.
func (r *rule) names() domain.Pattern {
	return domain.Pattern{Name: r.name, Below: r.kind == belowName}
}

// parsePorts reads PORT, FROM-TO or *.
func parsePorts(text string) ([]portRange, *flaw) {
	bad := &flaw{text: "has no such port", hint: "write one port, as in :443, some, as in :5000-5010, or all, as in :*"}
	if text == "*" {
		return allPorts, nil
	}
	from, to, isRange := strings.Cut(text, "-")
	if !isRange {
		to = from
	}
	first, ok1 := domain.ParsePort(from)
	last, ok2 := domain.ParsePort(to)
	if !ok1 || !ok2 || first > last {
		return nil, bad
	}
	return []portRange{{first, last}}, nil
}
