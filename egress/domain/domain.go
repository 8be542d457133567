// Package domain provides the names of hosts as rules and secrets are written with them: one
// grammar for all who decide by name.
package domain

import (
	"errors"
	"strings"
	"unicode"

	"golang.org/x/net/idna"
)

// The longest name and label of the DNS, RFC 1035, section 2.3.4, in text.
const (
	maxName  = 253
	maxLabel = 63
)

var (
	errLong    = errors.New("is longer than 253 characters")
	errLabel   = errors.New("has a part that is empty or longer than 63 characters")
	errLetters = errors.New("has other characters than letters, digits, - and _")
	errNumber  = errors.New("ends in a number, as only addresses do")
)

// Clean returns a name as it is compared: in lower case, without the dot at its end. It must
// be in ASCII. A name whose last label is a number is an error: resolvers take 2130706433,
// 0x7f.1 and 0177.0.0.1 for addresses (inet_aton), and no top-level domain is a number (RFC
// 3696, section 2), so nothing but an address in disguise is lost. The text of an error goes
// on after the name.
func Clean(name string) (string, error) {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	if len(name) > maxName {
		return "", errLong
	}
	var last string
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > maxLabel {
			return "", errLabel
		}
		if label[0] == '-' || strings.IndexFunc(label, foreign) >= 0 {
			return "", errLetters
		}
		last = label
	}
	if isNumber(last) {
		return "", errNumber
	}
	return name, nil
}

// foreign reports whether a character is in no name.
func foreign(r rune) bool {
	return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' && r != '_'
}

// isNumber says whether a label would be read as a number: the test of the URL standard,
// https://url.spec.whatwg.org/#ends-in-a-number-checker.
func isNumber(label string) bool {
	if hex, ok := strings.CutPrefix(label, "0x"); ok {
		return strings.Trim(hex, "0123456789abcdef") == ""
	}
	return strings.Trim(label, "0123456789") == ""
}

// read is Clean for the words of people, who may write names in their own script.
func read(name string) (string, error) {
	if strings.IndexFunc(name, func(r rune) bool { return r > unicode.MaxASCII }) >= 0 {
		if len(name) > 4*maxName {
			return "", errLong
		}
		profile := idna.New(idna.MapForLookup(), idna.BidiRule(), idna.Transitional(false), idna.StrictDomainName(false))
		ascii, err := profile.ToASCII(name)
		if err != nil {
			return "", errors.New("is not an international name: " + strings.TrimPrefix(err.Error(), "idna: "))
		}
		name = ascii
	}
	return Clean(name)
}
