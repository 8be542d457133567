package intercept

import (
	"strings"
	"unicode"
)

// printable makes the words of a guest or a server fit for a terminal and a log: one line,
// bounded, without control characters.
func printable(s string) string {
	const longest = 512
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
