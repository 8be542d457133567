package driver

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/covehq/cove"
)

func TestT53AnIDLeadsNowhereElse(t *testing.T) {
	for name, test := range map[string]struct {
		id   string
		want bool
	}{
		"one character":          {"a", true},
		"forty of all kinds":     {strings.Repeat("09az", 10), true},
		"forty-one":              {strings.Repeat("x", 41), false},
		"nothing":                {"", false},
		"a path":                 {"a/b", false},
		"the directory above":    {"..", false},
		"an option":              {"-rf", false},
		"capital letters":        {"Box", false},
		"a line's end after it":  {"box\n", false},
		"a line's end before it": {"\nbox", false},
		"a zero byte":            {"box\x00", false},
		"a letter that is none":  {"böx", false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := ValidID(test.id); got != test.want {
				t.Errorf("valid: got %v, want %v", got, test.want)
			}
			err := CheckID("remove", test.id)
			if test.want != (err == nil) || err != nil && !errors.Is(err, cove.Invalid) {
				t.Errorf("check: got %v, want an error that is invalid: %v", err, !test.want)
			}
		})
	}
}

func TestAListingHasEveryIDOnceAndNothingElse(t *testing.T) {
	names := []string{"b", "connect.pid", "a", "b", "", "null-netns", "a", "c"}
	if got, want := IDs(names), []string{"a", "b", "c"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := IDs(nil); len(got) != 0 {
		t.Errorf("of nothing: got %q", got)
	}
}
