package tools

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/covehq/cove"
)

const (
	// maxFile is the largest file that is read, and so the largest that can be edited.
	maxFile = 16 << 20
	// defaultChars is what a model is shown of a file that it asks for.
	defaultChars = 32768
	maxChars     = 1_000_000
	// maxEntries is what a model is shown of a directory.
	maxEntries = 1000
)

type readFileInput struct {
	Filename    string `json:"filename" jsonschema:"Path of the file; a relative one is below the working directory."`
	MaxChars    *int   `json:"max_chars,omitempty" jsonschema:"Most characters to return. Default 32768."`
	BinaryAsHex *bool  `json:"binary_as_hex,omitempty" jsonschema:"Show a file that is not text as hexadecimal digits; else what is not text is replaced. Default true."`
	StartLine   *int   `json:"start_line,omitempty" jsonschema:"First line to return, counted from 1. Default 1."`
	EndLine     *int   `json:"end_line,omitempty" jsonschema:"Last line to return. Default the last."`
	LineNumbers *bool  `json:"line_numbers,omitempty" jsonschema:"Write its number before each line. Default false."`
}

type fileContent struct {
	Path      string `json:"path" jsonschema:"as it was asked for"`
	Content   string `json:"content" jsonschema:"what was asked for of the file"`
	Binary    bool   `json:"binary" jsonschema:"the file is not text; content is hexadecimal unless that was not wanted"`
	Size      int    `json:"size" jsonschema:"bytes of the file; a lower bound where they are more than 16 MiB"`
	Lines     int    `json:"lines" jsonschema:"lines of the file, 0 for a binary one"`
	Truncated bool   `json:"truncated" jsonschema:"there is more of what was asked for"`
}

func (f *fileContent) text() string {
	content := f.Content
	if f.Binary && content != "" {
		content = fmt.Sprintf("[binary, %d bytes]\n%s", f.Size, content)
	}
	if f.Truncated {
		content += "\n...[truncated]"
	}
	if content == "" {
		return "(empty)"
	}
	return content
}

func readFileTool() Tool {
	return define(Tool{
		Name: "read_file", Title: "Read a file", ReadOnly: true, Idempotent: true,
		Description: "Return a file of the sandbox, or some lines of it. Files that are not text come as hexadecimal digits.",
	}, readFile)
}

func readFile(ctx context.Context, sandbox Sandbox, in readFileInput) (*fileContent, error) {
	most, first, last := or(in.MaxChars, defaultChars), or(in.StartLine, 1), or(in.EndLine, 0)
	if err := between("max_chars", most, 1, maxChars); err != nil {
		return nil, err
	}
	if first < 1 || in.EndLine != nil && last < first {
		return nil, invalid(fmt.Sprintf("lines %d to %d are none", first, last), "count lines from 1, and let end_line be at least start_line")
	}
	data, whole, err := read(ctx, sandbox, in.Filename)
	if err != nil {
		return nil, err
	}
	content := &fileContent{Path: in.Filename, Size: len(data), Truncated: !whole}
	if isBinary(data) && or(in.BinaryAsHex, true) {
		content.Binary = true
		shown := data[:min(len(data), most)]
		content.Content, content.Truncated = hex.EncodeToString(shown), content.Truncated || len(shown) < len(data)
		return content, nil
	}
	content.Binary = isBinary(data)
	lines := splitLines(string(data))
	content.Lines = len(lines)
	if first > max(len(lines), 1) {
		return nil, invalid(fmt.Sprintf("%s has %d lines", in.Filename, len(lines)), "give a start_line within them")
	}
	if last == 0 || last > len(lines) {
		last = len(lines)
	} else {
		content.Truncated = false // the lines that were asked for are before the cut
	}
	var text strings.Builder
	for number := first; number <= last && text.Len() <= utf8.UTFMax*most; number++ {
		if or(in.LineNumbers, false) {
			fmt.Fprintf(&text, "%6d\t", number)
		}
		text.WriteString(lines[number-1])
	}
	content.Content = valid(text.String())
	if end := runes(content.Content, most); end < len(content.Content) {
		content.Content, content.Truncated = content.Content[:end], true
	}
	return content, nil
}

// read returns a file, up to maxFile.
func read(ctx context.Context, sandbox Files, path string) (data []byte, whole bool, err error) {
	if err := named(path); err != nil {
		return nil, false, err
	}
	file, err := sandbox.Open(ctx, path)
	if err != nil {
		return nil, false, err
	}
	defer file.Close()
	data, err = io.ReadAll(io.LimitReader(file, maxFile+1))
	if err != nil {
		return nil, false, err
	}
	if len(data) > maxFile {
		return data[:maxFile], false, nil
	}
	return data, true, nil
}

func named(path string) error {
	if path == "" {
		return invalid("the path is empty", "name a file, as in src/main.py")
	}
	return nil
}

// isBinary reports whether data is something else than text.
func isBinary(data []byte) bool { return bytes.IndexByte(data, 0) >= 0 || !utf8.Valid(data) }

// splitLines returns the lines of a text with their ends.
func splitLines(text string) []string {
	lines := strings.SplitAfter(text, "\n")
	if lines[len(lines)-1] == "" {
		lines = lines[:len(lines)-1]
	}
	return lines
}

// runes returns the length in bytes of the first n runes of text.
func runes(text string, n int) int {
	for i := range text {
		if n == 0 {
			return i
		}
		n--
	}
	return len(text)
}

type writeFileInput struct {
	FilePath string    `json:"file_path" jsonschema:"Path of the file; a relative one is below the working directory."`
	Content  string    `json:"content" jsonschema:"Everything that the file is to hold."`
	Mode     *fileMode `json:"mode,omitempty" jsonschema:"Permission bits in octal digits, as in 0755. Default those that the file has, 0644 for a new one."`
}

// written is what was written.
type written struct {
	Path  string `json:"path" jsonschema:"as it was given"`
	Bytes int    `json:"bytes" jsonschema:"how many bytes the file has now"`
}

func (w *written) text() string { return fmt.Sprintf("Wrote %d bytes to %s", w.Bytes, w.Path) }

func writeFileTool() Tool {
	return octal(define(Tool{
		Name: "write_file", Title: "Write a file", Idempotent: true,
		Description: "Write a whole file in the sandbox, in place of what it held, and make the directories that lead to it. To change a part of a file, use edit_file or patch_file.",
	}, func(ctx context.Context, sandbox Sandbox, in writeFileInput) (*written, error) {
		if err := write(ctx, sandbox, in.FilePath, in.Content, in.Mode); err != nil {
			return nil, err
		}
		return &written{in.FilePath, len(in.Content)}, nil
	}))
}

func write(ctx context.Context, sandbox Files, path, content string, mode *fileMode) error {
	if err := named(path); err != nil {
		return err
	}
	return sandbox.Write(ctx, path, strings.NewReader(content), fs.FileMode(or(mode, 0)))
}

// octal describes a mode as it is written.
func octal(t Tool) Tool {
	mode := t.Parameters.Properties["mode"]
	mode.Type, mode.Types, mode.Minimum, mode.Maximum, mode.Pattern = "string", nil, nil, nil, "^0?[0-7]{3}$"
	return t
}

type listFilesInput struct {
	Directory *string `json:"directory,omitempty" jsonschema:"Path of the directory; a relative one is below the working directory. Default the working directory."`
}

type directory struct {
	Path      string  `json:"path" jsonschema:"as it was asked for"`
	Entries   []entry `json:"entries" jsonschema:"directories first, each part by name"`
	Truncated bool    `json:"truncated" jsonschema:"there are more than 1000 entries"`
}

type entry struct {
	Name       string `json:"name"`
	Type       string `json:"type" jsonschema:"file, directory, symlink or other"`
	Size       int64  `json:"size" jsonschema:"in bytes"`
	Mode       string `json:"mode" jsonschema:"permission bits in octal digits"`
	ModifiedAt string `json:"modified_at" jsonschema:"in RFC 3339"`
	Target     string `json:"target,omitempty" jsonschema:"where a symlink points"`
}

func listFilesTool() Tool {
	return define(Tool{
		Name: "list_files", Title: "List a directory", ReadOnly: true, Idempotent: true,
		Description: "List what one directory of the sandbox holds: mode, size, time of change and name, directories first and with a slash. To look further down, use glob.",
	}, listFiles)
}

func listFiles(ctx context.Context, sandbox Sandbox, in listFilesInput) (*directory, error) {
	path := or(in.Directory, ".")
	if err := named(path); err != nil {
		return nil, err
	}
	list, err := sandbox.List(ctx, path)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(list, func(a, b cove.FileInfo) int {
		if a, b := a.Type == cove.TypeDirectory, b.Type == cove.TypeDirectory; a != b {
			if a {
				return -1
			}
			return 1
		}
		return strings.Compare(a.Name, b.Name)
	})
	d := &directory{Path: path, Entries: []entry{}, Truncated: len(list) > maxEntries}
	for _, info := range list[:min(len(list), maxEntries)] {
		d.Entries = append(d.Entries, entry{
			Name: info.Name, Type: string(info.Type), Size: info.Size, Mode: fmt.Sprintf("%04o", info.Mode&0o7777),
			ModifiedAt: info.ModifiedAt.UTC().Format(time.RFC3339), Target: info.Target,
		})
	}
	return d, nil
}

func (d *directory) text() string {
	if len(d.Entries) == 0 {
		return "(empty directory)"
	}
	var text strings.Builder
	for _, e := range d.Entries {
		name := e.Name
		switch {
		case e.Type == string(cove.TypeDirectory):
			name += "/"
		case e.Target != "":
			name += " -> " + e.Target
		}
		fmt.Fprintf(&text, "%s %s %10d %s %s\n", e.Type[:1], e.Mode, e.Size, e.ModifiedAt, name)
	}
	if d.Truncated {
		fmt.Fprintf(&text, "...[more than %d entries; narrow it down with glob]\n", maxEntries)
	}
	return strings.TrimSuffix(text.String(), "\n")
}
