package tools

import (
	"context"
	"fmt"
	"strings"

	"github.com/covehq/cove"
)

type patchFileInput struct {
	FilePath string    `json:"file_path" jsonschema:"Path of the file; a relative one is below the working directory."`
	FromLine int       `json:"from_line" jsonschema:"First line to replace, counted from 1."`
	ToLine   int       `json:"to_line" jsonschema:"Last line to replace. One less than from_line inserts before from_line and replaces nothing."`
	Content  string    `json:"content" jsonschema:"The lines to put there; empty deletes. A missing line end is added."`
	Mode     *fileMode `json:"mode,omitempty" jsonschema:"Permission bits in octal digits, as in 0755. Default those that the file has."`
}

type patched struct {
	Path     string `json:"path" jsonschema:"as it was given"`
	Replaced int    `json:"replaced" jsonschema:"how many lines went"`
	Written  int    `json:"written" jsonschema:"how many lines came"`
	Lines    int    `json:"lines" jsonschema:"how many lines the file has now"`
}

func (p *patched) text() string {
	return fmt.Sprintf("Replaced %d lines by %d in %s, which has %d lines now", p.Replaced, p.Written, p.Path, p.Lines)
}

func patchFileTool() Tool {
	return octal(define(Tool{
		Name: "patch_file", Title: "Replace lines of a file",
		Description: "Replace the lines from_line to to_line of a text file, both included. Look at their numbers with read_file first: a patch moves the lines behind it.",
	}, patchFile))
}

func patchFile(ctx context.Context, sandbox Sandbox, in patchFileInput) (*patched, error) {
	text, err := editable(ctx, sandbox, in.FilePath)
	if err != nil {
		return nil, err
	}
	lines := splitLines(text)
	if in.FromLine < 1 || in.FromLine > len(lines)+1 || in.ToLine < in.FromLine-1 || in.ToLine > len(lines) {
		return nil, invalid(fmt.Sprintf("%s has %d lines, and %d to %d are not among them", in.FilePath, len(lines), in.FromLine, in.ToLine),
			"give lines that there are; to insert, a to_line one less than from_line; to append, from_line one more than the last line")
	}
	content := in.Content
	if content != "" && !strings.HasSuffix(content, "\n") {
		content += "\n"
	}
	before := strings.Join(lines[:in.FromLine-1], "")
	if content != "" && before != "" && !strings.HasSuffix(before, "\n") {
		before += "\n"
	}
	if err := write(ctx, sandbox, in.FilePath, before+content+strings.Join(lines[in.ToLine:], ""), in.Mode); err != nil {
		return nil, err
	}
	p := &patched{Path: in.FilePath, Replaced: in.ToLine - in.FromLine + 1, Written: len(splitLines(content))}
	p.Lines = len(lines) - p.Replaced + p.Written
	return p, nil
}

type editFileInput struct {
	FilePath   string `json:"file_path" jsonschema:"Path of the file; a relative one is below the working directory."`
	OldString  string `json:"old_string" jsonschema:"The text to replace, exactly as it is in the file, with its spaces and line ends. It must be there once, unless replace_all is true: include as much around it as makes it unique."`
	NewString  string `json:"new_string" jsonschema:"The text to put there; empty deletes."`
	ReplaceAll *bool  `json:"replace_all,omitempty" jsonschema:"Replace it wherever it is. Default false."`
}

type edited struct {
	Path         string `json:"path" jsonschema:"as it was given"`
	Replacements int    `json:"replacements" jsonschema:"how often the text was replaced"`
}

func (e *edited) text() string {
	if e.Replacements == 1 {
		return "Replaced it once in " + e.Path
	}
	return fmt.Sprintf("Replaced it %d times in %s", e.Replacements, e.Path)
}

func editFileTool() Tool {
	return define(Tool{
		Name: "edit_file", Title: "Replace text in a file",
		Description: "Replace a piece of text in a file of the sandbox, which must be there exactly so and exactly once. Nothing is changed otherwise.",
	}, editFile)
}

func editFile(ctx context.Context, sandbox Sandbox, in editFileInput) (*edited, error) {
	switch {
	case in.OldString == "":
		return nil, invalid("old_string is empty", "give the text to replace; use write_file to make a file")
	case in.OldString == in.NewString:
		return nil, invalid("old_string and new_string are the same", "give the text that is to be there instead")
	}
	text, err := editable(ctx, sandbox, in.FilePath)
	if err != nil {
		return nil, err
	}
	count := strings.Count(text, in.OldString)
	switch {
	case count == 0:
		return nil, cove.Errorf(cove.NotFound, "", "", "old_string is not in "+in.FilePath, near(text, in.OldString))
	case count > 1 && !or(in.ReplaceAll, false):
		return nil, cove.Errorf(cove.Conflict, "", "", fmt.Sprintf("old_string is %d times in %s, at lines %s", count, in.FilePath, places(text, in.OldString)),
			"give more of what is around the one that you mean, or set replace_all")
	}
	if err := write(ctx, sandbox, in.FilePath, strings.ReplaceAll(text, in.OldString, in.NewString), nil); err != nil {
		return nil, err
	}
	return &edited{in.FilePath, count}, nil
}

// near says why a text may not have been found.
func near(text, old string) string {
	if first, _, _ := strings.Cut(strings.TrimSpace(old), "\n"); first != "" {
		if at := strings.Index(text, strings.TrimSpace(first)); at >= 0 {
			return fmt.Sprintf("its first line is like line %d: compare spaces, tabs and line ends with read_file", 1+strings.Count(text[:at], "\n"))
		}
	}
	return "read the file, and copy the text from it exactly"
}

// places returns the numbers of the lines at which a text begins, the first ten.
func places(text, piece string) string {
	const most = 10
	var numbers []string
	line := 1
	for {
		at := strings.Index(text, piece)
		if at < 0 {
			return strings.Join(numbers, ", ")
		}
		if len(numbers) == most {
			return strings.Join(numbers, ", ") + " and more"
		}
		line += strings.Count(text[:at], "\n")
		numbers = append(numbers, fmt.Sprint(line))
		line += strings.Count(piece, "\n")
		text = text[at+len(piece):]
	}
}

// editable returns a file as text, if it is one and small enough to be rewritten.
func editable(ctx context.Context, sandbox Files, path string) (string, error) {
	data, whole, err := read(ctx, sandbox, path)
	switch {
	case err != nil:
		return "", err
	case !whole:
		return "", cove.Errorf(cove.TooLarge, "", "", path+" is larger than 16 MiB", "change it with a program, as with sed in shell")
	case isBinary(data):
		return "", invalid(path+" is not text", "change it with a program, or write it anew")
	}
	return string(data), nil
}
