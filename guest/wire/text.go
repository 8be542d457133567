package wire

import (
	"strings"
	"unicode"
)

// Printable makes the words of a guest, or of a server, fit for a terminal and a log: one
// line of at most so many bytes, without control characters.
func Printable(s string, longest int) string {
	if len(s) > longest {
		s = s[:longest] + "…"
	}
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' {
			return ' '
		}
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, "?")))
}
