package cove_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/covehq/cove"
)

func TestCommandInJSON(t *testing.T) {
	tests := []struct {
		name, text string
		args       []string
		zero       bool
	}{
		{name: "a string is a line for the shell", text: `"echo $HOME | wc"`, args: []string{"/bin/sh", "-c", "echo $HOME | wc"}},
		{name: "an array is not seen by a shell", text: `["echo","$HOME"]`, args: []string{"echo", "$HOME"}},
		{name: "an empty string is nothing", text: `""`, args: []string{"/bin/sh", "-c", ""}, zero: true},
		{name: "an empty array is nothing", text: `[]`, args: []string{}, zero: true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c := cove.Command{Line: "left over", Argv: []string{"left", "over"}}
			if err := json.Unmarshal([]byte(test.text), &c); err != nil {
				t.Fatalf("reading %s: %v", test.text, err)
			}
			if got := c.Args(); !slices.Equal(got, test.args) {
				t.Errorf("Args = %q, want %q", got, test.args)
			}
			if c.IsZero() != test.zero {
				t.Errorf("IsZero = %v, want %v", c.IsZero(), test.zero)
			}
			if written, err := json.Marshal(c); err != nil || strings.ReplaceAll(string(written), " ", "") != strings.ReplaceAll(test.text, " ", "") {
				t.Errorf("written = %s, %v, want %s", written, err, test.text)
			}
		})
	}
	for _, wrong := range []string{`5`, `{"line":"x"}`, `["a",5]`, `true`} {
		if err := json.Unmarshal([]byte(wrong), new(cove.Command)); err == nil {
			t.Errorf("reading %s = nil, want an error", wrong)
		}
	}
}

func TestFromStartIsTheBeginningOfBothStreams(t *testing.T) {
	from := cove.FromStart()
	if from.Stdout == nil || from.Stderr == nil || *from.Stdout != 0 || *from.Stderr != 0 {
		t.Errorf("FromStart = %+v, want two zeros", from)
	}
}
