package egress

import (
	"errors"
	"net/netip"
	"strings"
	"unicode"

	"golang.org/x/net/idna"

	"github.com/covehq/cove/guest/wire"
)

// The longest name and label of the DNS, RFC 1035, section 2.3.4, in text.
const (
	maxName  = 253
	maxLabel = 63
)

// peerSuffix ends the names of other sandboxes. It is no top-level domain, and such names
// are never asked of a name server.
const peerSuffix = ".sandbox"

var (
	errNameLong    = errors.New("is longer than 253 characters")
	errNameLabel   = errors.New("has a part that is empty or longer than 63 characters")
	errNameLetters = errors.New("has other characters than letters, digits, - and _")
	errNameNumber  = errors.New("ends in a number, as only addresses do")
)

// cleanName returns a name as it is compared: in lower case, without the dot at its end.
// It must be in ASCII. A name whose last label is a number is an error: resolvers take
// 2130706433, 0x7f.1 and 0177.0.0.1 for addresses (inet_aton), and no top-level domain is
// a number (RFC 3696, section 2), so nothing but an address in disguise is lost.
func cleanName(name string) (string, error) {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	if len(name) > maxName {
		return "", errNameLong
	}
	var last string
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > maxLabel {
			return "", errNameLabel
		}
		if label[0] == '-' || strings.IndexFunc(label, notOfName) >= 0 {
			return "", errNameLetters
		}
		last = label
	}
	if isNumber(last) {
		return "", errNameNumber
	}
	return name, nil
}

func notOfName(r rune) bool {
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

// asciiName is cleanName for the words of people, who may write names in their own script.
func asciiName(name string) (string, error) {
	if strings.IndexFunc(name, func(r rune) bool { return r > unicode.MaxASCII }) >= 0 {
		if len(name) > 4*maxName {
			return "", errNameLong
		}
		profile := idna.New(idna.MapForLookup(), idna.BidiRule(), idna.Transitional(false), idna.StrictDomainName(false))
		ascii, err := profile.ToASCII(name)
		if err != nil {
			return "", errors.New("is not an international name: " + strings.TrimPrefix(err.Error(), "idna: "))
		}
		name = ascii
	}
	return cleanName(name)
}

// maxText is how much of the words of a guest or a server is shown.
const maxText = 512

// printable makes them fit for a terminal and a log.
func printable(s string) string { return wire.Printable(s, maxText) }

// target writes where a connection goes: to a name, or to an address where name is "".
func target(name string, addr netip.Addr) string {
	if name != "" {
		return name
	}
	return addr.String()
}
