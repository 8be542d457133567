package domain

import (
	"errors"
	"strconv"
	"strings"
)

// Flaw is what is wrong with the words of somebody, and what to write instead. Its text goes
// on after those words.
type Flaw struct{ Text, Hint string }

// Pattern is a name, or all names below it.
type Pattern struct {
	Name  string // clean
	Below bool   // it was written *.NAME: Name itself is not meant
}

// ParsePattern reads NAME or *.NAME.
func ParsePattern(text string) (Pattern, *Flaw) {
	name, below := strings.CutPrefix(text, "*.")
	if strings.Contains(name, "*") {
		return Pattern{}, &Flaw{"has a * elsewhere than as its first part", "write *.example.org for all names below example.org"}
	}
	clean, err := read(name)
	switch {
	case errors.Is(err, errNumber):
		return Pattern{}, &Flaw{errNumber.Error(), "write a host's name; an address is four decimal numbers, as in 203.0.113.7"}
	case err != nil:
		return Pattern{}, &Flaw{err.Error(), "write a host's name, as in pypi.org or *.example.org"}
	}
	return Pattern{clean, below}, nil
}

// String returns the pattern as ParsePattern reads it.
func (p Pattern) String() string {
	if p.Below {
		return "*." + p.Name
	}
	return p.Name
}

// Matches reports whether a clean name is meant.
func (p Pattern) Matches(name string) bool {
	if p.Below {
		return strings.HasSuffix(name, "."+p.Name)
	}
	return name == p.Name
}

// Covers reports whether p means all the names that other does.
func (p Pattern) Covers(other Pattern) bool {
	return p == other || p.Below && p.Matches(other.Name)
}

// httpsPort is the one of a host that is written without any.
const httpsPort = 443

// Host is where a secret may go: the names of a pattern, on one port.
type Host struct {
	Pattern
	Port int
}

// ParseHost reads NAME or *.NAME with or without a :PORT, which is 443 where there is none.
// Addresses are no hosts: there are no certificates by which to know who answers there.
func ParseHost(text string) (Host, *Flaw) {
	if strings.Contains(text, "://") {
		return Host{}, &Flaw{"is a URL", "write the name alone, as in api.github.com or api.github.com:8443"}
	}
	name, port, hasPort := strings.Cut(text, ":")
	h := Host{Port: httpsPort}
	if hasPort {
		var ok bool
		if h.Port, ok = ParsePort(port); !ok {
			return Host{}, &Flaw{"has no such port", "write a number from 1 to 65535, as in api.github.com:8443"}
		}
	}
	var flaw *Flaw
	h.Pattern, flaw = ParsePattern(name)
	return h, flaw
}

// String returns the host as ParseHost reads it; equal hosts are one text.
func (h Host) String() string {
	if h.Port == httpsPort {
		return h.Pattern.String()
	}
	return h.Pattern.String() + ":" + strconv.Itoa(h.Port)
}

// Covers reports whether whoever may go to h may go to other.
func (h Host) Covers(other Host) bool { return h.Port == other.Port && h.Pattern.Covers(other.Pattern) }

// ParsePort reads a port in its one canonical spelling: others, such as +80 and 0080, are how
// a check and what it guards come to disagree.
func ParsePort(text string) (int, bool) {
	port, err := strconv.Atoi(text)
	return port, err == nil && port >= 1 && port <= 65535 && strconv.Itoa(port) == text
}
