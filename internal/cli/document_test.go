package cli

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

var (
	fence  = regexp.MustCompile("(?ms)^```([a-z]*)\n(.*?)^```$")
	inline = regexp.MustCompile("`([^`\n]+)`")
	// A command line of ours, up to where another one, a redirection, a comment or a program's
	// own arguments begin.
	ours = regexp.MustCompile(`(?m)(?:^|\$ |sudo |-- |[|;&(] ?|[A-Z_]+=\S+ )cove ([a-z][^|;&#<>\n)"]*)`)
)

// TestDocumentsShowVerbsAndFlagsThatThereAre reads every command line of ours in every
// document, also those that no test runs.
func TestDocumentsShowVerbsAndFlagsThatThereAre(t *testing.T) {
	lines := map[string]string{} // command line: document
	for _, dir := range []string{"../../docs", "../../sdk", "../../README.md", "../../RATIONALE.md"} {
		err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
			if entry != nil && entry.Name() == "node_modules" {
				return filepath.SkipDir
			}
			if err != nil || filepath.Ext(path) != ".md" {
				return err
			}
			text, err := os.ReadFile(path)
			for _, line := range shown(string(text)) {
				lines[line] = path
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if len(lines) < 100 {
		t.Errorf("%d command lines were found, want more: are they still written so?", len(lines))
	}
	for line, path := range lines {
		if mistake := mistakeIn(line); mistake != "" {
			t.Errorf("%s: cove %s: %s", path, line, mistake)
		}
	}
}

// shown returns the command lines in a document, without cove.
func shown(text string) []string {
	var lines []string
	add := func(code string) {
		code = strings.ReplaceAll(code, "\\\n", " ")
		for _, match := range ours.FindAllStringSubmatch(code, -1) {
			line, _, _ := strings.Cut(match[1], " -- ")
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	for _, block := range fence.FindAllStringSubmatch(text, -1) {
		if block[1] == "" || block[1] == "sh" {
			add(block[2])
		}
	}
	for _, code := range inline.FindAllStringSubmatch(fence.ReplaceAllString(text, ""), -1) {
		if strings.HasPrefix(code[1], "cove ") || strings.Contains(code[1], " cove ") {
			add(code[1])
		}
	}
	return lines
}

// mistakeIn returns what a command line has that the program does not know.
func mistakeIn(line string) string {
	words := strings.Fields(line)
	cmd, _, err := (&program{}).root().Find(words)
	if err != nil {
		return err.Error()
	}
	if !cmd.HasParent() || cmd.HasSubCommands() && strings.Contains(line, " ") && !strings.HasPrefix(words[1], "-") {
		return "there is no such verb"
	}
	for _, word := range words {
		word = strings.Trim(word, "[]…,.'")
		if !strings.HasPrefix(word, "-") || word == "-" || word == "--" {
			continue
		}
		if name, long := strings.CutPrefix(word, "--"); long {
			name, _, _ = strings.Cut(name, "=")
			if lookup(cmd, func(f *pflag.FlagSet) *pflag.Flag { return f.Lookup(name) }) == nil && name != "help" {
				return "there is no flag --" + name
			}
			continue
		}
		for _, letter := range word[1:] {
			flag := lookup(cmd, func(f *pflag.FlagSet) *pflag.Flag { return f.ShorthandLookup(string(letter)) })
			if flag == nil {
				return "there is no flag -" + string(letter)
			}
			if flag.NoOptDefVal == "" {
				break // the rest is its value
			}
		}
	}
	return ""
}

// lookup looks for a flag among a command's own and those of all.
func lookup(cmd *cobra.Command, find func(*pflag.FlagSet) *pflag.Flag) *pflag.Flag {
	if flag := find(cmd.Flags()); flag != nil {
		return flag
	}
	return find(cmd.InheritedFlags())
}
