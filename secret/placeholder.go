package secret

import (
	"crypto/rand"
	"strings"
)

// prefixes are how well-known kinds of tokens begin. Clients look at them to tell which
// kind they have, so that a placeholder keeps them. Of two that fit, the longer comes
// first.
var prefixes = []string{
	"github_pat_", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "glpat-",
	"sk-ant-api03-", "sk-ant-", "sk-proj-", "sk-svcacct-", "sk-or-v1-", "sk-", "sk_live_", "sk_test_", "rk_live_", "rk_test_", "pk_live_", "pk_test_",
	"xoxb-", "xoxp-", "xoxa-", "xoxe-", "xapp-", "AKIA", "ASIA", "AIza", "ya29.", "eyJ", "hf_", "npm_", "pypi-", "dop_v1_", "SG.", "shpat_",
}

// minRandom is how many random characters must be left for a prefix to be kept.
const minRandom = 12

const (
	digits = "0123456789"
	lower  = "abcdefghijklmnopqrstuvwxyz"
	upper  = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
)

// Placeholder returns a random stand-in for a value: as long, with a digit for a digit, a
// small letter for a small one and a capital for a capital, and with the prefix of
// well-known kinds of tokens. Whatever else is in the value stays as it is, so that it is
// written in JSON, forms and URLs with as many bytes as the value is. It is never the
// value, where that has a letter or a digit.
func Placeholder(value string) string {
	for {
		p := []byte(value)
		fill(p[len(prefix(value)):])
		if string(p) != value || random(value) == 0 {
			return string(p)
		}
	}
}

// prefix returns the part of a value that its placeholder shares.
func prefix(value string) string {
	for _, known := range prefixes {
		if rest, ok := strings.CutPrefix(value, known); ok && random(rest) >= minRandom {
			return known
		}
	}
	return ""
}

// fill replaces letters and digits by random ones.
func fill(p []byte) {
	noise := make([]byte, 4*len(p)) // four bytes each, so that no letter is much likelier than another
	rand.Read(noise)                // never fails
	for i, c := range p {
		n := uint32(noise[4*i])<<24 | uint32(noise[4*i+1])<<16 | uint32(noise[4*i+2])<<8 | uint32(noise[4*i+3])
		if class := classOf(c); class != "" {
			p[i] = class[n%uint32(len(class))]
		}
	}
}

func classOf(c byte) string {
	switch {
	case c >= '0' && c <= '9':
		return digits
	case c >= 'a' && c <= 'z':
		return lower
	case c >= 'A' && c <= 'Z':
		return upper
	}
	return ""
}

// random returns how many characters of s a placeholder would replace.
func random(s string) int {
	n := 0
	for i := range len(s) {
		if classOf(s[i]) != "" {
			n++
		}
	}
	return n
}
