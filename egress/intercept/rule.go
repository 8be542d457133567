package intercept

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/covehq/cove"
)

// decision is what the rules say to a request.
type decision struct {
	allowed bool
	rule    string            // that decided, as it is written for --request; "" where none did
	reason  string            // of a refusal, and what would allow it; or what an audit would say
	headers map[string]string // to be set on the way
}

// overrides are headers by which frameworks take a request for one of another method.
var overrides = []string{"X-Http-Method-Override", "X-Http-Method", "X-Method-Override"}

// decide finds what rules say to a request for a host that they are for. All that the
// request may be to the server has to be decided by one and the same rule.
func decide(rules []cove.RequestRule, host, method string, target *url.URL, header http.Header) decision {
	if len(rules) == 0 {
		return decision{allowed: true}
	}
	escaped := target.EscapedPath()
	paths, ok := readings(escaped)
	if !ok {
		return decision{reason: fmt.Sprintf("the path %s can be read in more than one way, so that no rule can decide about it", printable(escaped))}
	}
	methods := []string{method}
	for _, name := range overrides {
		for _, other := range header.Values(name) {
			methods = append(methods, strings.ToUpper(strings.TrimSpace(other)))
		}
	}
	if len(methods) > 8 {
		return decision{reason: "the request names more than one method"}
	}
	first := find(rules, methods[0], paths[0])
	for _, m := range methods {
		for _, p := range paths {
			other := find(rules, m, p)
			if refusal := refuse(rules, other, host, m, p); refusal != nil {
				return *refusal
			}
			if other != first {
				return decision{reason: fmt.Sprintf("%s %s can be read in more than one way, which different rules decide about: %s, %s",
					printable(method), printable(escaped), describe(rules[first]), describe(rules[other]))}
			}
		}
	}
	rule := rules[first]
	d := decision{allowed: true, rule: describe(rule), headers: rule.Headers}
	if rule.Action == cove.RequestAudit {
		d.reason = audit(rules[first+1:], methods[0], paths[0])
	}
	return d
}

// refuse returns the refusal by a rule, or by none; nil where the rule allows.
func refuse(rules []cove.RequestRule, i int, host, method, reading string) *decision {
	switch {
	case i < 0:
		return &decision{reason: fmt.Sprintf("no request rule of %s allows it: add --request 'allow %s %s%s'",
			host, printable(method), host, printable(strings.ReplaceAll(reading, encodedSlash, "%2F")))}
	case rules[i].Action == cove.RequestDeny:
		return &decision{rule: describe(rules[i]), reason: fmt.Sprintf("the request rule %q refuses it: a rule that allows it would have to come before", describe(rules[i]))}
	}
	return nil
}

// audit says what would have become of a request without the rule that let it pass.
func audit(later []cove.RequestRule, method, reading string) string {
	i := find(later, method, reading)
	switch {
	case i < 0:
		return "audited: no other rule allows it"
	case later[i].Action == cove.RequestDeny:
		return fmt.Sprintf("audited: %q would refuse it", describe(later[i]))
	}
	return ""
}

// find returns the first rule for a request, or -1.
func find(rules []cove.RequestRule, method, reading string) int {
	return slices.IndexFunc(rules, func(r cove.RequestRule) bool {
		return (len(r.Methods) == 0 || slices.Contains(r.Methods, method)) &&
			(len(r.Paths) == 0 || slices.ContainsFunc(r.Paths, func(glob string) bool { return matchGlob(glob, reading) }))
	})
}

// describe writes a rule as on the command line.
func describe(r cove.RequestRule) string {
	action := r.Action
	if action == "" {
		action = cove.RequestAllow
	}
	words := []string{string(action)}
	if len(r.Methods) > 0 {
		words = append(words, strings.Join(r.Methods, ","))
	}
	return printable(strings.Join(append(words, r.Host+strings.Join(r.Paths, ",")), " "))
}
