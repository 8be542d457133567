// Package preview provides what a preview is known by: the host name that says which port
// of which sandbox it shows, and the tokens that let somebody see it.
package preview

import (
	"regexp"
	"strconv"
	"strings"

	"github.com/covehq/cove"
)

// Name says what a preview shows.
type Name struct {
	Port int
	ID   string // of the sandbox
}

// Label returns the first label of the preview's host name: <port>-<id>.
func (n Name) Label() string { return strconv.Itoa(n.Port) + "-" + n.ID }

// Parse reads the host that a request names, with or without a port at its end, as the
// name of a preview below domain. Each preview has one name, in which only the case of
// ASCII letters means nothing: what is spelled in any other way is none.
func Parse(host, domain string) (Name, bool) {
	host, ok := cutPort(host)
	if !ok {
		return Name{}, false
	}
	label, ok := strings.CutSuffix(lower(host), "."+domain)
	if !ok {
		return Name{}, false
	}
	number, id, ok := strings.Cut(label, "-")
	if !ok || !isID(id) {
		return Name{}, false
	}
	port, ok := parsePort(number)
	return Name{port, id}, ok
}

// cutPort takes the port off a host. It tells a client where to connect, and so nothing
// to who was connected to.
func cutPort(host string) (string, bool) {
	name, port, ok := strings.Cut(host, ":")
	if !ok {
		return host, true
	}
	_, ok = parsePort(port)
	return name, ok
}

// parsePort reads a port in the one spelling that it has: a check that reads "02280" or
// "+2280" differently from what dials could be led past.
func parsePort(text string) (int, bool) {
	port, err := strconv.Atoi(text)
	return port, err == nil && port >= 1 && port <= 65535 && strconv.Itoa(port) == text
}

// isID reports whether text may be the id of a sandbox: letters and digits, of which the
// first is a letter, so that no part of it can be taken for the port.
func isID(text string) bool {
	const longest = 57 // with a port and a hyphen, what a label of a name may have
	for i, c := range []byte(text) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9' || i == 0) {
			return false
		}
	}
	return text != "" && len(text) <= longest
}

// lower makes ASCII lower case, and leaves the letters alone that Unicode has look like
// them: the Kelvin sign is no k.
func lower(text string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, text)
}

// domainPattern is a name of the DNS whose last label is none of an address.
var domainPattern = regexp.MustCompile(`^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z]([a-z0-9-]{0,61}[a-z0-9])?$`)

// ParseDomain reads DOMAIN[:PORT], the port being 0 where it is left out.
func ParseDomain(text string) (domain string, port int, err error) {
	const longest = 253 - 64
	domain, number, hasPort := strings.Cut(text, ":")
	domain = lower(domain)
	if !domainPattern.MatchString(domain) || len(domain) > longest {
		return "", 0, cove.Errorf(cove.Invalid, "", "", "preview domain "+strconv.Quote(text)+" is not a name of the DNS",
			"write it as in preview.example.org or localhost:8080, an international one in its form xn--")
	}
	if hasPort {
		var ok bool
		if port, ok = parsePort(number); !ok {
			return "", 0, cove.Errorf(cove.Invalid, "", "", "the port of preview domain "+strconv.Quote(text)+" is not a number from 1 to 65535",
				"write the port that browsers connect to, or leave it out")
		}
	}
	return domain, port, nil
}
