package cli

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

// mirrors is a flag: registries and their mirrors, as REGISTRY=HOST[:PORT][/PATH] between
// spaces.
type mirrors map[string][]string

// Set implements pflag.Value. It adds to what was given before.
func (m *mirrors) Set(text string) error {
	for word := range strings.FieldsSeq(text) {
		registry, mirror, ok := strings.Cut(word, "=")
		if !ok || registry == "" || mirror == "" || strings.Contains(mirror, "://") {
			return fmt.Errorf("%s is not REGISTRY=HOST[:PORT][/PATH]", quote(word))
		}
		if *m == nil {
			*m = mirrors{}
		}
		(*m)[registry] = append((*m)[registry], mirror)
	}
	return nil
}

// String implements pflag.Value.
func (m *mirrors) String() string {
	var words []string
	for _, registry := range slices.Sorted(maps.Keys(*m)) {
		for _, mirror := range (*m)[registry] {
			words = append(words, registry+"="+mirror)
		}
	}
	return strings.Join(words, " ")
}

// Type implements pflag.Value.
func (m *mirrors) Type() string { return "mirrors" }

// presets is a flag: names for rules, as NAME=RULE,RULE between spaces.
type presets map[string][]string

// Set implements pflag.Value. A name that is given again has those rules instead.
func (p *presets) Set(text string) error {
	for word := range strings.FieldsSeq(text) {
		name, list, ok := strings.Cut(word, "=")
		if !ok || !isPresetName(name) {
			return fmt.Errorf("%s is not NAME=RULE,…, with a name of lower case letters, digits and -", quote(word))
		}
		rules := strings.Split(list, ",")
		if slices.Contains(rules, "") {
			return fmt.Errorf("preset %s has an empty rule", name)
		}
		if *p == nil {
			*p = presets{}
		}
		(*p)[name] = rules
	}
	return nil
}

// isPresetName reports whether a word can be a preset's name: it is never a host's, which
// has a dot, nor an address.
func isPresetName(name string) bool {
	return name != "" && !strings.ContainsFunc(name, func(r rune) bool {
		return r != '-' && (r < 'a' || r > 'z') && (r < '0' || r > '9')
	}) && name[0] >= 'a'
}

// String implements pflag.Value.
func (p *presets) String() string {
	var words []string
	for _, name := range slices.Sorted(maps.Keys(*p)) {
		words = append(words, name+"="+strings.Join((*p)[name], ","))
	}
	return strings.Join(words, " ")
}

// Type implements pflag.Value.
func (p *presets) Type() string { return "presets" }

// resolver is a flag: a name server.
type resolver struct{ netip.AddrPort }

// Set implements pflag.Value.
func (r *resolver) Set(text string) error {
	const port = 53
	if address, err := netip.ParseAddr(strings.Trim(text, "[]")); err == nil {
		r.AddrPort = netip.AddrPortFrom(address, port)
		return nil
	}
	server, err := netip.ParseAddrPort(text)
	if err != nil || server.Port() == 0 {
		return fmt.Errorf("%s is not ADDRESS[:PORT] of a name server", quote(text))
	}
	r.AddrPort = server
	return nil
}

// String implements pflag.Value.
func (r *resolver) String() string {
	if !r.IsValid() {
		return ""
	}
	return r.AddrPort.String()
}

// Type implements pflag.Value.
func (*resolver) Type() string { return "address" }

// proxyURL is a flag: a proxy, whose URL may have a password that is never shown.
type proxyURL struct{ *url.URL }

// Set implements pflag.Value.
func (p *proxyURL) Set(text string) error {
	u, err := url.Parse(text)
	if err != nil { // whose text is the whole URL
		return errors.New("it is not the URL of a proxy, as in http://proxy.example:3128")
	}
	if !slices.Contains([]string{"http", "https", "socks5"}, u.Scheme) || u.Hostname() == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return errors.New("a proxy is http://, https:// or socks5:// and HOST:PORT, with USER:PASSWORD@ where it needs that, and nothing after it")
	}
	p.URL = u
	return nil
}

// String implements pflag.Value.
func (p *proxyURL) String() string {
	if p.URL == nil {
		return ""
	}
	return p.Redacted()
}

// Type implements pflag.Value.
func (*proxyURL) Type() string { return "url" }
