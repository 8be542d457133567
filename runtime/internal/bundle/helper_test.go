package bundle

import (
	"os/exec"
	"strings"
	"testing"
)

func TestOfAHelpersWordsTheFirstAreKept(t *testing.T) {
	for name, test := range map[string]struct{ script, want string }{
		"of both streams, in their order": {"echo one; echo two >&2; echo three", "one\ntwo\nthree"},
		"of an endless speaker":           {"printf cause; yes x | head -c 100000 | tr -d '\\n'", "cause" + strings.Repeat("x", longestSaid-len("cause"))},
		"of a silent one":                 {"true", ""},
	} {
		t.Run(name, func(t *testing.T) {
			var said Said
			cmd := exec.CommandContext(t.Context(), "sh", "-c", test.script)
			cmd.Stdout, cmd.Stderr = &said, &said
			if err := cmd.Run(); err != nil {
				t.Fatal(err)
			}
			if got := said.String(); got != test.want {
				t.Errorf("got %d bytes, %.40q; want %d, %.40q", len(got), got, len(test.want), test.want)
			}
		})
	}
}
