package secret

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/covehq/cove"
)

const (
	minValue = 8 // a shorter placeholder would be found where it is not meant
	maxValue = 64 << 10
	maxHosts = 100
)

var (
	validName  = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,127}$`)
	addressEnd = regexp.MustCompile(`^([0-9]+|0x[0-9a-f]*)$`) // https://url.spec.whatwg.org/#ends-in-a-number-checker
	validLabel = regexp.MustCompile(`^[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?$`)
)

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

// cleanHost returns NAME or *.NAME, with a :PORT that is not 443, in lower case.
func cleanHost(host string) (string, error) {
	wrong := func(why string) (string, error) { return "", fmt.Errorf("host %.300q: %s", host, why) }
	name, port, hasPort := strings.Cut(strings.ToLower(host), ":")
	if hasPort {
		n, err := strconv.Atoi(port)
		if err != nil || n < 1 || n > 65535 || strconv.Itoa(n) != port {
			return wrong("a port is a number from 1 to 65535")
		}
	}
	labels, wild := strings.CutPrefix(strings.TrimSuffix(name, "."), "*.")
	if len(labels) > 253 {
		return wrong("a name has at most 253 characters")
	}
	if last := labels[strings.LastIndexByte(labels, '.')+1:]; last != "" && addressEnd.MatchString(last) {
		return wrong("a secret is bound to names, for whose servers there are certificates, and only addresses end in a number")
	}
	for label := range strings.SplitSeq(labels, ".") {
		if strings.HasPrefix(label, "*") {
			return wrong("* stands only for all that comes before a name, as in *.example.org")
		}
		if !validLabel.MatchString(label) {
			return wrong("a name is letters, digits, - and _ between dots; other letters are written as xn--")
		}
	}
	if wild {
		labels = "*." + labels
	}
	if hasPort && port != "443" {
		labels += ":" + port
	}
	return labels, nil
}
