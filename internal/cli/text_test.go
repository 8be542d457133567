package cli

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

func TestFilterLetsNothingThroughThatATerminalObeys(t *testing.T) {
	tests := map[string]struct{ in, want string }{
		"text stays":                      {"grüße\t日本\n", "grüße\t日本\n"},
		"colours go whole":                {"\x1b[1;31mred\x1b[0m!", "red!"},
		"a cursor goes whole":             {"a\x1b[2J\x1b[?25lb", "ab"},
		"the eight-bit form goes as well": {"a\u009b31mb", "ab"},
		"the clipboard is left alone":     {"\x1b]52;c;ZXZpbA==\x07", "]52;c;ZXZpbA=="},
		"a title without end hides not":   {"\x1b]0;title and all that follows\n", "]0;title and all that follows\n"},
		"a paste is not broken out of":    {"x\x1b[201~rm -rf\n", "xrm -rf\n"},
		"carriage returns go":             {"evil\rgood\r\n", "evilgood\n"},
		"raw C1 bytes go":                 {"a\x9b31mb\x90c", "a31mbc"},
		"deletion and bell go":            {"a\x7fb\x07c\x00d", "abcd"},
		"a half sequence at the end":      {"a\x1b[3", "a"},
		"escape ends before a newline":    {"\x1b[\nshown", "\nshown"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			// However the bytes are cut, the outcome is the same.
			for size := 1; size <= len(test.in); size++ {
				var got bytes.Buffer
				filter := &filter{to: &got}
				for rest := []byte(test.in); len(rest) > 0; {
					n := min(size, len(rest))
					if written, err := filter.Write(rest[:n]); written != n || err != nil {
						t.Fatalf("Write = %d, %v", written, err)
					}
					rest = rest[n:]
				}
				if got.String() != test.want {
					t.Errorf("in pieces of %d: got %q, want %q", size, got.String(), test.want)
				}
			}
		})
	}
}

func FuzzFilter(f *testing.F) {
	f.Add([]byte("\x1b[31mred\x1b]52;c;x\x07\xc2"), []byte("\x9b\x1b\x1b["))
	f.Fuzz(func(t *testing.T, first, second []byte) {
		var got bytes.Buffer
		filter := &filter{to: &got}
		filter.Write(first)
		filter.Write(second)
		for _, r := range got.String() {
			if isControl(r) && r != '\n' && r != '\t' {
				t.Fatalf("%q let %q through", append(first, second...), r)
			}
		}
	})
}

func TestQuoteIsWhatAShellReads(t *testing.T) {
	tests := map[string]string{
		"plain": "plain", "a/b-c_d.e=f:g@h%i+j,k": "a/b-c_d.e=f:g@h%i+j,k",
		"": "''", "two words": "'two words'", "it's": `'it'\''s'`, "$HOME": "'$HOME'", "ü": "'ü'",
	}
	for word, want := range tests {
		if got := quote(word); got != want {
			t.Errorf("quote(%q) = %s, want %s", word, got, want)
		}
	}
}

func TestTableCellsKeepToTheirLine(t *testing.T) {
	var out bytes.Buffer
	p := &program{App: App{Stdout: &out}}
	if err := p.table([]string{"NAME", "COMMAND"}, [][]string{{"a\nb", "\x1b[31mx\ty"}, {"long name", "z"}}); err != nil {
		t.Fatal(err)
	}
	want := "NAME       COMMAND\na b         [31mx y\nlong name  z\n"
	if out.String() != want {
		t.Errorf("got\n%q, want\n%q", out.String(), want)
	}
}

func TestSpan(t *testing.T) {
	tests := map[time.Duration]string{
		-time.Second: "0s", 59 * time.Second: "59s", 61 * time.Second: "1m1s",
		90 * time.Minute: "1h30m", 47 * time.Hour: "47h0m", 73 * time.Hour: "3d",
	}
	for d, want := range tests {
		if got := span(d); got != want {
			t.Errorf("span(%v) = %s, want %s", d, got, want)
		}
	}
}

func TestErrorsAreOneLineForEachOfTheirLines(t *testing.T) {
	var out bytes.Buffer
	p := &program{App: App{Stderr: &out}}
	status := p.report(problem("create", "\x1b]0;x\x07", "no\rsuch", "try\x9b"))
	if status != exitError {
		t.Errorf("status = %d, want %d", status, exitError)
	}
	if got := out.String(); strings.ContainsAny(got, "\x1b\x07\r") || strings.Contains(got, "\x9b") || !strings.HasPrefix(got, "cove: create") || !strings.Contains(got, "\nhint: try") {
		t.Errorf("got %q", got)
	}
}
