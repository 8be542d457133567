package intercept

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/covehq/cove"
	"github.com/covehq/cove/egress"
	"github.com/covehq/cove/egress/domain"
)

// secrets are those of a sandbox as one connection sees them.
type secrets struct {
	list  []egress.SecretValue
	bound []bool // to the name and port of the connection, and it may go there as it is
	why   []string

	out  *finder // placeholders, for what goes to the server
	back *finder // values of bound secrets, for what comes from it
	hide *finder // values of all, for texts of our own
}

// newSecrets sorts out which secrets may go to name and port, over TLS or not.
func newSecrets(list []egress.SecretValue, name string, port int, secure bool) *secrets {
	s := &secrets{list: list}
	var out, back, hide []pattern
	for i, secret := range list {
		bound, why := isBound(secret, name, port, secure)
		if !fits(secret) {
			// It was set again since its placeholder was given out.
			bound, why = false, fmt.Sprintf("secret %s has another value since this sandbox was made, for which its placeholder can't stand: make the sandbox anew", secret.Name)
		}
		s.bound, s.why = append(s.bound, bound), append(s.why, why)
		for _, form := range []func(string) string{plain, url.QueryEscape, lowerEscape, jsonEscape, jsonSlashes} {
			if fits(secret) {
				out = addPattern(out, i, form(secret.Placeholder), form(secret.Value))
			} else {
				out = addPattern(out, i, form(secret.Placeholder), form(secret.Placeholder)) // to be found, and refused
			}
			hide = addPattern(hide, i, form(secret.Value), stars(form(secret.Value)))
			if bound {
				back = addPattern(back, i, form(secret.Value), form(secret.Placeholder))
				back = addPattern(back, i, form(secret.Value), stars(form(secret.Value))) // where that one has another length
			}
		}
		if bound {
			for shift := range 3 {
				back = addPattern(back, i, inBase64(base64.RawStdEncoding, shift, secret.Value), inBase64(base64.RawStdEncoding, shift, secret.Placeholder))
				back = addPattern(back, i, inBase64(base64.RawURLEncoding, shift, secret.Value), inBase64(base64.RawURLEncoding, shift, secret.Placeholder))
			}
		}
	}
	s.out, s.back, s.hide = newFinder(out), newFinder(back), newFinder(hide)
	return s
}

func stars(s string) string { return strings.Repeat("*", len(s)) }

// fits says that a placeholder can stand for its value.
func fits(s egress.SecretValue) bool {
	return len(s.Placeholder) == len(s.Value) && len(s.Value) >= minPattern && s.Placeholder != s.Value
}

// addPattern adds a form of a text that has not been added in another form.
func addPattern(list []pattern, secret int, text, with string) []pattern {
	known := slices.ContainsFunc(list, func(p pattern) bool { return p.secret == secret && p.text == text })
	if known || len(text) != len(with) || len(text) < minPattern {
		return list
	}
	return append(list, pattern{text: text, with: with, secret: secret})
}

// The forms in which a text stands in a body: as it is, in a form or URL, in JSON.

func plain(s string) string { return s }

func lowerEscape(s string) string {
	escaped := []byte(url.QueryEscape(s))
	for i := range escaped {
		if escaped[i] == '%' {
			copy(escaped[i:], strings.ToLower(string(escaped[i:i+3])))
		}
	}
	return string(escaped)
}

func jsonEscape(s string) string {
	quoted, err := json.Marshal(s)
	if err != nil {
		return s
	}
	return string(quoted[1 : len(quoted)-1])
}

// jsonSlashes is how PHP writes JSON.
func jsonSlashes(s string) string { return strings.ReplaceAll(jsonEscape(s), "/", `\/`) }

// inBase64 returns the part of the encoding of anything that has s at an offset of shift
// modulo 3 which depends on s alone.
func inBase64(encoding *base64.Encoding, shift int, s string) string {
	encoded := encoding.EncodeToString([]byte(strings.Repeat("\x00", shift) + s))
	return encoded[(shift*8+5)/6 : (shift+len(s))*8/6]
}

// isBound says whether a secret may be sent to name and port, and if not, why.
func isBound(secret egress.SecretValue, name string, port int, secure bool) (bool, string) {
	why := fmt.Sprintf("the placeholder of secret %s was sent to %s, which it is not bound to: bind the secret to that host if it may have it", secret.Name, name)
	for _, text := range secret.Hosts {
		host, flaw := domain.ParseHost(text)
		if flaw != nil || !host.Matches(name) {
			continue
		}
		// In the clear it goes only where it was bound to the port of that.
		if host.Port == port && (secure || port == 80) {
			return true, ""
		}
		if !secure {
			why = fmt.Sprintf("the placeholder of secret %s was sent to %s without TLS: use https", secret.Name, name)
		}
	}
	return false, why
}

// misplaced is the refusal of a placeholder. It has no value in it, and is for the guest.
type misplaced struct{ why string }

func (m *misplaced) Error() string { return m.why }

// admit returns nil where a secret may stand in this place of a request, and notes it.
func (s *secrets) admit(i int, place cove.SecretPlace, used *usage) error {
	secret := s.list[i]
	if !s.bound[i] {
		return &misplaced{s.why[i]}
	}
	places := secret.In
	if len(places) == 0 {
		places = []cove.SecretPlace{cove.SecretInHeader}
	}
	if !slices.Contains(places, place) {
		return &misplaced{fmt.Sprintf("the placeholder of secret %s was sent in the %s of a request, and it may be in: %s",
			secret.Name, place, join(places))}
	}
	used.add(secret.Name)
	return nil
}

func join(places []cove.SecretPlace) string {
	words := make([]string, len(places))
	for i, place := range places {
		words[i] = string(place)
	}
	return strings.Join(words, ", ")
}

// scrub takes every value out of a text.
func (s *secrets) scrub(text string) string {
	clean, _ := s.hide.replace(text, nil)
	return clean
}
