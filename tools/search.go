package tools

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/bmatcuk/doublestar/v4"

	"github.com/covehq/cove"
)

// The bounds of a search. It needs nothing of the image: no grep, and no find.
const (
	maxSearched   = 50_000  // entries looked at
	maxSearchFile = 4 << 20 // larger files are left out
	maxLine       = 500     // bytes shown of a line
	maxFound      = 1000
	defaultFound  = 200
	workers       = 8
)

// passed are directories in which nobody looks for what he wrote. They are searched where
// the path leads into them.
func passed(name string) bool {
	switch name {
	case ".git", ".hg", ".svn", "node_modules", "__pycache__", ".venv", ".tox", ".mypy_cache":
		return true
	}
	return false
}

const passedText = "Directories such as .git, node_modules, .venv and __pycache__ are left out unless path leads into them; symlinks are not followed."

type grepInput struct {
	Pattern    string  `json:"pattern" jsonschema:"Regular expression in RE2 syntax, which a line must match somewhere."`
	Path       *string `json:"path,omitempty" jsonschema:"Directory to search, or a file; a relative one is below the working directory. Default the working directory."`
	Glob       *string `json:"glob,omitempty" jsonschema:"Only files whose path matches, as in *.py or src/**/*.go; without a slash it is about the name. Default all."`
	IgnoreCase *bool   `json:"ignore_case,omitempty" jsonschema:"Take upper and lower case as the same. Default false."`
	MaxResults *int    `json:"max_results,omitempty" jsonschema:"Most lines to return, at most 1000. Default 200."`
}

type grepResult struct {
	Matches   []match `json:"matches" jsonschema:"by path and line"`
	Truncated bool    `json:"truncated" jsonschema:"there are more matches, or files that were not searched: see skipped"`
	Files     int     `json:"files" jsonschema:"how many files were searched"`
	Skipped   int     `json:"skipped" jsonschema:"files left out because they are binary, larger than 4 MiB or can't be read"`
}

type match struct {
	Path string `json:"path" jsonschema:"below the path that was searched"`
	Line int    `json:"line" jsonschema:"counted from 1"`
	Text string `json:"text" jsonschema:"the line, its first 500 bytes"`
}

func (g *grepResult) text() string {
	if len(g.Matches) == 0 {
		return fmt.Sprintf("(no matches in %d files)", g.Files)
	}
	var text strings.Builder
	for _, m := range g.Matches {
		fmt.Fprintf(&text, "%s:%d:%s\n", m.Path, m.Line, m.Text)
	}
	if g.Truncated {
		text.WriteString("...[there is more; narrow it down with path or glob]\n")
	}
	return strings.TrimSuffix(text.String(), "\n")
}

func grepTool() Tool {
	return define(Tool{
		Name: "grep", Title: "Search in files", ReadOnly: true, Idempotent: true,
		Description: "Find the lines that match a regular expression in the text files below a directory of the sandbox. " + passedText,
	}, grep)
}

func grep(ctx context.Context, sandbox Sandbox, in grepInput) (*grepResult, error) {
	expression := in.Pattern
	if or(in.IgnoreCase, false) {
		expression = "(?i)" + expression
	}
	pattern, err := regexp.Compile(expression)
	if err != nil {
		return nil, invalid("the pattern is no regular expression: "+err.Error(), "write it in RE2 syntax, and escape characters such as ( and [ with \\")
	}
	most := or(in.MaxResults, defaultFound)
	if err := between("max_results", most, 1, maxFound); err != nil {
		return nil, err
	}
	wanted := or(in.Glob, "**")
	if !strings.Contains(wanted, "/") {
		wanted = "**/" + wanted
	}
	if err := checkGlob(wanted); err != nil {
		return nil, err
	}
	root := or(in.Path, ".")
	found, err := walk(ctx, sandbox, root)
	if err != nil {
		return nil, err
	}
	var files []cove.FileInfo
	for _, info := range found.entries {
		if info.Type == cove.TypeFile && doublestar.MatchUnvalidated(wanted, info.Name) {
			files = append(files, info)
		}
	}
	result := &grepResult{Matches: []match{}, Truncated: found.truncated}
	return result, result.search(ctx, sandbox, files, pattern, most)
}

// search reads files side by side, a batch at a time, and stops when there is enough.
func (g *grepResult) search(ctx context.Context, sandbox Sandbox, files []cove.FileInfo, pattern *regexp.Regexp, most int) error {
	for batch := range slices.Chunk(files, 8*workers) {
		if len(g.Matches) > most {
			break
		}
		searched := make([]searched, len(batch))
		each(len(batch), func(i int) { searched[i] = searchFile(ctx, sandbox, batch[i], pattern, most+1) })
		if err := ctx.Err(); err != nil {
			return err
		}
		for _, one := range searched {
			if lost(one.err) {
				return one.err
			}
			if one.skipped {
				g.Skipped++
				continue
			}
			g.Files++
			g.Matches = append(g.Matches, one.matches...)
		}
	}
	if len(g.Matches) > most {
		g.Matches, g.Truncated = g.Matches[:most], true
	}
	return nil
}

// lost reports whether an error is about the sandbox and not about one file.
func lost(err error) bool {
	return errors.Is(err, cove.Gone) || errors.Is(err, cove.Unavailable) || errors.Is(err, cove.Internal)
}

type searched struct {
	matches []match
	skipped bool
	err     error
}

func searchFile(ctx context.Context, sandbox Sandbox, info cove.FileInfo, pattern *regexp.Regexp, most int) searched {
	if info.Size > maxSearchFile {
		return searched{skipped: true}
	}
	file, err := sandbox.Open(ctx, info.Path)
	if err != nil {
		return searched{skipped: true, err: err}
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxSearchFile+1))
	if err != nil || len(data) > maxSearchFile || bytes.IndexByte(data, 0) >= 0 {
		return searched{skipped: true, err: err}
	}
	var matches []match
	number := 0
	for line := range bytes.Lines(data) {
		number++
		line = bytes.TrimRight(line, "\r\n")
		if pattern.Match(line) {
			matches = append(matches, match{info.Name, number, cut(valid(string(line)), maxLine)})
		}
		if len(matches) == most {
			break
		}
	}
	return searched{matches: matches}
}

type globInput struct {
	Pattern string  `json:"pattern" jsonschema:"What the path below the directory must match: * and ? within a name, ** for any directories, {a,b} and [a-z]. As in **/*.py."`
	Path    *string `json:"path,omitempty" jsonschema:"Directory to search; a relative one is below the working directory. Default the working directory."`
}

type globResult struct {
	Paths     []string `json:"paths" jsonschema:"below the directory that was searched, sorted; those of directories end in a slash"`
	Truncated bool     `json:"truncated" jsonschema:"there are more than 1000, or not everything was searched"`
}

func (g *globResult) text() string {
	if len(g.Paths) == 0 {
		return "(nothing matches)"
	}
	text := strings.Join(g.Paths, "\n")
	if g.Truncated {
		text += "\n...[there is more; narrow it down]"
	}
	return text
}

func globTool() Tool {
	return define(Tool{
		Name: "glob", Title: "Find files by name", ReadOnly: true, Idempotent: true,
		Description: "Find the files and directories below a directory of the sandbox whose path matches a pattern. " + passedText,
	}, glob)
}

func glob(ctx context.Context, sandbox Sandbox, in globInput) (*globResult, error) {
	wanted := path.Clean(strings.TrimPrefix(in.Pattern, "./"))
	if in.Pattern == "" || path.IsAbs(wanted) || strings.HasPrefix(wanted, "../") {
		return nil, invalid("the pattern is not below the directory", "give a relative pattern, as in **/*.py, and the directory as path")
	}
	if err := checkGlob(wanted); err != nil {
		return nil, err
	}
	found, err := walk(ctx, sandbox, or(in.Path, "."))
	if err != nil {
		return nil, err
	}
	result := &globResult{Paths: []string{}, Truncated: found.truncated}
	for _, info := range found.entries {
		if !doublestar.MatchUnvalidated(wanted, info.Name) {
			continue
		}
		if len(result.Paths) == maxFound {
			result.Truncated = true
			break
		}
		if info.Type == cove.TypeDirectory {
			info.Name += "/"
		}
		result.Paths = append(result.Paths, info.Name)
	}
	return result, nil
}

func checkGlob(pattern string) error {
	const longest = 1000
	if len(pattern) > longest || !doublestar.ValidatePattern(pattern) {
		return invalid("the pattern is not valid", "use * and ? within a name, ** for any directories, {a,b} and [a-z]")
	}
	return nil
}

// found is what a walk has seen, sorted; the names are the paths below its root.
type found struct {
	entries   []cove.FileInfo
	truncated bool
}

// walk lists everything below a directory, level by level so that what is passed costs
// nothing. A root that is a file is found itself.
func walk(ctx context.Context, sandbox Sandbox, root string) (*found, error) {
	if err := named(root); err != nil {
		return nil, err
	}
	list, err := sandbox.List(ctx, root)
	if err != nil {
		if file, failed := sandbox.Open(ctx, root); failed == nil {
			file.Close()
			return &found{entries: []cove.FileInfo{{Name: path.Base(root), Path: root, Type: cove.TypeFile}}}, nil
		}
		return nil, err
	}
	f := new(found)
	level := f.add("", list)
	for len(level) > 0 && !f.truncated {
		batch := level[:min(len(level), 8*workers)]
		level = level[len(batch):]
		lists, failures := make([][]cove.FileInfo, len(batch)), make([]error, len(batch))
		each(len(batch), func(i int) { lists[i], failures[i] = sandbox.List(ctx, batch[i].Path) })
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		for i, directory := range batch {
			if lost(failures[i]) {
				return nil, failures[i]
			}
			level = append(level, f.add(directory.Name+"/", lists[i])...)
		}
	}
	slices.SortFunc(f.entries, func(a, b cove.FileInfo) int { return cmp.Compare(a.Name, b.Name) })
	return f, nil
}

// add takes what a directory holds, and returns the directories to look into.
func (f *found) add(below string, list []cove.FileInfo) (further []cove.FileInfo) {
	for _, info := range list {
		if len(f.entries) == maxSearched {
			f.truncated = true
			return nil
		}
		name := info.Name
		info.Name = below + name
		f.entries = append(f.entries, info)
		if info.Type == cove.TypeDirectory && !passed(name) {
			further = append(further, info)
		}
	}
	return further
}

// each calls do for 0 to n-1, by a few workers, and waits for them.
func each(n int, do func(i int)) {
	var group sync.WaitGroup
	next := make(chan int)
	for range min(workers, n) {
		group.Go(func() {
			for i := range next {
				do(i)
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	group.Wait()
}
