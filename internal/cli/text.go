package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode/utf8"

	"golang.org/x/term"

	"github.com/covehq/cove"
)

// isTerminal reports whether a stream is a terminal.
func isTerminal(stream any) bool {
	file, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}

// writeJSON writes a value as the API does, indented for the people who look at it.
func (p *program) writeJSON(value any) error {
	encoder := json.NewEncoder(p.Stdout)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	return encoder.Encode(value)
}

// table writes rows in columns. Cells never carry control characters: what a sandbox is
// named, labelled or runs may come from an agent.
func (p *program) table(header []string, rows [][]string) error {
	out := tabwriter.NewWriter(p.Stdout, 0, 0, 2, ' ', 0)
	for _, row := range append([][]string{header}, rows...) {
		cells := make([]string, len(row))
		for i, cell := range row {
			cells[i] = clean(cell, "")
		}
		if len(cells) > 0 {
			fmt.Fprintln(out, strings.Join(cells, "\t"))
		}
	}
	return out.Flush()
}

// clean replaces control characters, except those in keep, by spaces: C0, C1 and DEL,
// and what is not UTF-8, in which terminals find C1 as well.
func clean(text, keep string) string {
	return strings.Map(func(r rune) rune {
		if (isControl(r) || r == utf8.RuneError) && !strings.ContainsRune(keep, r) {
			return ' '
		}
		return r
	}, text)
}

func isControl(r rune) bool { return r < 0x20 || r >= 0x7f && r < 0xa0 }

// quote shows a word as a shell would need it.
func quote(word string) string {
	safe := func(r rune) bool {
		return r == utf8.RuneError || !strings.ContainsRune("_@%+=:,./-", r) && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
	}
	if word != "" && !strings.ContainsFunc(word, safe) {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

func commandLine(argv []string) string {
	words := make([]string, len(argv))
	for i, word := range argv {
		words[i] = quote(word)
	}
	return strings.Join(words, " ")
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
	return line
}

// span shows how long something is, in the one or two units that matter.
func span(d time.Duration) string {
	switch d = max(d, 0); {
	case d < time.Minute:
		return strconv.Itoa(int(d.Seconds())) + "s"
	case d < time.Hour:
		return fmt.Sprintf("%dm%ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return strconv.Itoa(int(d.Hours()/24)) + "d"
}

// until shows when a sandbox is destroyed.
func until(at *time.Time) string {
	if at == nil {
		return "never"
	}
	return "in " + span(time.Until(*at))
}

// dash stands in a table for what is not there.
func dash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

// controls lists those of a sandbox's or runtime's controls that hold this far.
func controls(all map[cove.Control]cove.Enforcement, degree cove.Enforcement) string {
	var names []string
	for _, control := range cove.Controls {
		if all[control] == degree {
			names = append(names, string(control))
		}
	}
	return strings.Join(names, " ")
}

// filter is a writer that lets text through to a terminal, but nothing that the
// terminal would obey: escape sequences and control characters other than newline and
// tab. It keeps state between writes, because sequences are cut anywhere.
type filter struct {
	to      io.Writer
	partial []byte // the beginning of a rune whose end has not come
	escape  escapeState
}

type escapeState int

const (
	outside  escapeState = iota
	escaped              // after ESC
	sequence             // after ESC [ or its C1 form
)

// Write implements io.Writer. It reports all of data as written.
func (f *filter) Write(data []byte) (int, error) {
	text := append(f.partial, data...)
	out := make([]byte, 0, len(text))
	for len(text) > 0 && (utf8.FullRune(text) || len(text) >= utf8.UTFMax) {
		r, size := utf8.DecodeRune(text)
		if f.shows(r) {
			out = append(out, text[:size]...)
		}
		text = text[size:]
	}
	f.partial = append([]byte(nil), text...)
	if _, err := f.to.Write(out); err != nil {
		return 0, err
	}
	return len(data), nil
}

// shows advances the state by a rune and reports whether it is to be seen. Only
// colours and cursor movements are taken out whole, since they end by themselves; of
// the sequences that go on until a terminator, nothing but the controls is taken, lest
// one without an end hides the rest.
func (f *filter) shows(r rune) bool {
	const csi = 0x9b
	switch {
	case r == 0x1b:
		f.escape = escaped
	case r == csi || f.escape == escaped && r == '[':
		f.escape = sequence
	case f.escape == sequence && r >= 0x20 && r < 0x40: // parameters
	case f.escape == sequence && r >= 0x40 && r < 0x7f: // the final byte
		f.escape = outside
	default:
		f.escape = outside
		return r == '\n' || r == '\t' || !isControl(r) && r != utf8.RuneError
	}
	return false
}
