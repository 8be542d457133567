package preset

import (
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

// servers are what a client is set up to use.
type servers struct {
	rules    []string
	source   string
	warnings []string
	env      map[string]string // by which the client inside uses the same
}

// ports are those of the schemes that a client's servers have.
var ports = map[string]string{
	"http": "80", "https": "443", "socks4": "1080", "socks4a": "1080", "socks5": "1080", "socks5h": "1080",
}

// add adds the server of an URL, as NAME:PORT, and reports whether there is one. What is
// no URL of a server is left out: a directory, or a word of the client's own. Nothing but
// name, port and scheme of the URL is kept or said, since the rest may be credentials.
func (s *servers) add(text string) bool {
	u, err := url.Parse(strings.TrimSpace(text))
	if err != nil {
		s.warn("an URL of its configuration can't be read, and is left out")
		return false
	}
	// Hosts of registries may be written as sparse+https://….
	scheme := strings.ToLower(u.Scheme[strings.LastIndex(u.Scheme, "+")+1:])
	host := strings.TrimSuffix(strings.ToLower(u.Hostname()), ".")
	if scheme == "" || scheme == "file" || host == "" {
		return false
	}
	port := u.Port()
	if port == "" {
		port = ports[scheme]
	}
	if ports[scheme] == "" {
		s.warn("a server of the scheme " + scheme + " is left out: rules are for http and https")
		return false
	}
	address, err := netip.ParseAddr(host)
	if err == nil && address.Is6() && !address.Is4In6() {
		s.warn("a server with an IPv6 address is left out: there is no way out for IPv6")
		return false
	}
	s.judge(host, address.Unmap())
	if !strings.Contains(host, ".") {
		host += "." // a word without a dot would be a preset
	}
	if rule := net.JoinHostPort(host, port); !slices.Contains(s.rules, rule) {
		s.rules = append(s.rules, rule)
	}
	return true
}

// set has the client inside use some of the servers, by a variable of its own. One whose
// URL has credentials is left out: programs inside would see them.
func (s *servers) set(variable, value string, urls ...string) {
	for _, text := range urls {
		u, err := url.Parse(text)
		if err != nil || u.User != nil {
			s.warn("the client inside is not told of a server: its URL has credentials, which are for secrets")
			return
		}
	}
	if s.env == nil {
		s.env = map[string]string{}
	}
	s.env[variable] = value
}

// addProxy adds a proxy, whose scheme may be missing.
func (s *servers) addProxy(text string) {
	if !strings.Contains(text, "://") {
		text = "http://" + text
	}
	s.add(text)
}

func (s *servers) warn(text string) {
	if !slices.Contains(s.warnings, text) {
		s.warnings = append(s.warnings, text)
	}
}

// privateNames are the ends of names that are not of the public DNS: RFC 6762, RFC 8375,
// ICANN's reservation of internal, and those that RFC 6762 appendix G lists as in use.
var privateNames = []string{".local", ".home.arpa", ".internal", ".intranet", ".private", ".corp", ".home", ".lan", ".localdomain"}

// carrier is the shared address space of RFC 6598.
var carrier = netip.MustParsePrefix("100.64.0.0/10")

// judge warns of a server that a sandbox is not let to, or that is another one inside.
// Names are not resolved here; the guard of egress sees their addresses when it dials.
func (s *servers) judge(host string, address netip.Addr) {
	private := address.IsValid() && (address.IsPrivate() || address.IsLinkLocalUnicast() || carrier.Contains(address))
	if !address.IsValid() {
		private = !strings.Contains(host, ".") || slices.ContainsFunc(privateNames, func(end string) bool { return strings.HasSuffix(host, end) })
	}
	switch {
	case host == "localhost" || strings.HasSuffix(host, ".localhost") || address.IsLoopback():
		s.warn(host + " is this machine, and inside of a sandbox the sandbox itself: use a name of this machine that others have for it")
	case private:
		s.warn(host + " is private: it is reached only if its address is under egress.private of the operator's policy")
	}
}
