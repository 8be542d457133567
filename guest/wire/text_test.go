package wire_test

import (
	"strings"
	"testing"

	"github.com/covehq/cove/guest/wire"
)

func TestWordsOfAGuestAreFitForATerminal(t *testing.T) {
	for name, c := range map[string][2]string{
		"plain":                {"a name", "a name"},
		"escapes of terminals": {"a\x1b[31mb\u009b2Jc\x7f", "a[31mb2Jc"},
		"lines":                {"one\ntwo\tthree\r\n", "one two three"},
		"bytes of no text":     {"a\xff\xfeb", "a?b"},
		"direction of writing": {"a\u202eb", "ab"},
		"too long":             {strings.Repeat("x", 30), strings.Repeat("x", 20) + "…"},
		"cut in a character":   {strings.Repeat("x", 19) + "é", strings.Repeat("x", 19) + "?…"},
	} {
		if got := wire.Printable(c[0], 20); got != c[1] {
			t.Errorf("%s: %q, want %q", name, got, c[1])
		}
	}
}
