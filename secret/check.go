package secret

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/covehq/cove"
	"github.com/covehq/cove/egress/domain"
)

const (
	minValue = 8 // a shorter placeholder would be found where it is not meant
	maxValue = 64 << 10
	maxHosts = 100
)

var validName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,127}$`)

// id is a name as an error may have it: whatever else somebody sent as a name may be a
// value in the wrong place.
func id(name string) string {
	if validName.MatchString(name) {
		return name
	}
	return ""
}

// check returns the secret that in describes, or all that is wrong with it.
func check(name string, in cove.SecretInput) (cove.Secret, error) {
	var problems cove.Problems
	if !validName.MatchString(name) {
		problems.Add("a name is letters, digits and _, at most 128 and no digit first")
	}
	s := cove.Secret{Name: name, Hosts: []string{}, In: slices.Clone(in.In)}
	hint := "see cove secret set --help"
	switch {
	case len(in.Hosts) == 0:
		problems.Add("it is bound to no host")
		hint = "name the hosts that it may go to, as in api.github.com or *.example.org:8443"
	case len(in.Hosts) > maxHosts:
		problems.Add(fmt.Sprintf("it is bound to %d hosts, and %d is the most", len(in.Hosts), maxHosts))
	default:
		for _, host := range in.Hosts {
			clean, err := cleanHost(host)
			if err != nil {
				problems.Add(err.Error())
			} else if !slices.Contains(s.Hosts, clean) {
				s.Hosts = append(s.Hosts, clean)
			}
		}
	}
	if len(s.In) == 0 {
		s.In = []cove.SecretPlace{cove.SecretInHeader}
	}
	slices.Sort(s.In)
	s.In = slices.Compact(s.In)
	for _, place := range s.In {
		if place != cove.SecretInHeader && place != cove.SecretInQuery && place != cove.SecretInBody {
			problems.Add(fmt.Sprintf("%.32q is no place for a secret: it is header, query or body", string(place)))
		}
	}
	if problem := checkValue(in.Value, slices.Equal(s.In, []cove.SecretPlace{cove.SecretInBody})); problem != "" {
		problems.Add(problem)
	}
	return s, problems.Err(cove.Invalid, "", hint)
}

// checkValue says what is wrong with a value, in words that have none of it.
func checkValue(value string, bodyOnly bool) string {
	switch {
	case value == "":
		return "the value is empty"
	case len(value) > maxValue:
		return fmt.Sprintf("the value has %d bytes, and %d is the most", len(value), maxValue)
	case strings.TrimRight(value, "\r\n") != value && !bodyOnly:
		return "the value ends in a newline, which can't stand in a header: leave it out"
	}
	for i := range len(value) {
		switch c := value[i]; {
		case c >= 0x80:
			return "the value has bytes that are not ASCII, which clients write in more than one way: encode it, as in base64"
		case (c == '\n' || c == '\r' || c == '\t') && bodyOnly, c >= ' ' && c != 0x7f:
		default:
			return "the value has a control character, which can stand in the body of a request at most"
		}
	}
	if !bodyOnly && strings.TrimSpace(value) != value {
		return "the value begins or ends in a space, which a header does not keep"
	}
	if random(value) < minValue {
		return fmt.Sprintf("the value has less than %d letters and digits: a placeholder for it could be guessed, and found where none is", minValue)
	}
	return ""
}

// cleanHost returns a host as it is kept: of one that is written in several ways, always the
// same text.
func cleanHost(text string) (string, error) {
	host, flaw := domain.ParseHost(text)
	if flaw != nil {
		return "", fmt.Errorf("host %.300q %s", text, flaw.Text)
	}
	return host.String(), nil
}
