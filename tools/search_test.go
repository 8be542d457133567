package tools

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

func TestASearchFindsLinesAndPassesWhatNobodyWrote(t *testing.T) {
	on := files(t, map[string]string{
		"main.py": "import os\nNeedle = 1\r\n", "src/a.go": "// needle\n", "src/deep/b.go": "x\nneedle needle\n",
		".git/config": "needle\n", "node_modules/p/i.js": "needle\n", "bin": "needle\x00\n", "notes.txt": "none\n",
	})
	if err := os.Symlink(on.dir, on.at("loop")); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		arguments string
		want      []string
		truncated bool
	}{
		"all":                 {`{"pattern":"needle"}`, []string{"src/a.go:1", "src/deep/b.go:2"}, false},
		"any case":            {`{"pattern":"^needle","ignore_case":true}`, []string{"main.py:2", "src/deep/b.go:2"}, false},
		"a name":              {`{"pattern":"needle","glob":"b.go"}`, []string{"src/deep/b.go:2"}, false},
		"a path":              {`{"pattern":"needle","glob":"src/*.go"}`, []string{"src/a.go:1"}, false},
		"alternatives":        {`{"pattern":"needle","glob":"**/{a,b}.go"}`, []string{"src/a.go:1", "src/deep/b.go:2"}, false},
		"below a directory":   {`{"pattern":"needle","path":"src/deep"}`, []string{"b.go:2"}, false},
		"in one file":         {`{"pattern":"needle","path":"src/a.go"}`, []string{"a.go:1"}, false},
		"where path leads":    {`{"pattern":"needle","path":"node_modules"}`, []string{"p/i.js:1"}, false},
		"nothing":             {`{"pattern":"nowhere"}`, nil, false},
		"fewer than there is": {`{"pattern":"needle","max_results":1}`, []string{"src/a.go:1"}, true},
		"an end of line":      {`{"pattern":"1$"}`, []string{"main.py:2"}, false},
	} {
		result := call(t, on, "grep", test.arguments)
		got, ok := result.Data.(*grepResult)
		if !ok {
			t.Errorf("%s: %+v", name, result)
			continue
		}
		var places []string
		for _, m := range got.Matches {
			places = append(places, fmt.Sprintf("%s:%d", m.Path, m.Line))
		}
		if !slices.Equal(places, test.want) || got.Truncated != test.truncated {
			t.Errorf("%s: %v, truncated %v; want %v, %v", name, places, got.Truncated, test.want, test.truncated)
		}
	}
}

func TestASearchIsBounded(t *testing.T) {
	content := map[string]string{"long": strings.Repeat("é", maxLine) + "needle\n", "large": strings.Repeat("needle\n", maxSearchFile/7+1)}
	for i := range 3 * 8 * workers {
		content[fmt.Sprintf("many/%03d", i)] = strings.Repeat("needle\n", 10)
	}
	on := files(t, content)
	result := call(t, on, "grep", `{"pattern":"needle","max_results":1000}`)
	got := result.Data.(*grepResult)
	if len(got.Matches) != 1000 || !got.Truncated || got.Skipped != 1 || !strings.Contains(result.Text, "narrow it down") {
		t.Errorf("%d matches, %+v skipped, truncated %v", len(got.Matches), got.Skipped, got.Truncated)
	}
	if text := got.Matches[0].Text; len(text) > maxLine+len("…") || strings.Contains(text, "\uFFFD") {
		t.Errorf("a line of %d bytes: %q", len(text), text)
	}
}

func TestAGlobMatchesPathsBelowItsDirectory(t *testing.T) {
	on := files(t, map[string]string{"a.py": "", "src/b.py": "", "src/deep/c.py": "", "src/deep/c.txt": "", ".venv/x.py": ""})
	for pattern, want := range map[string][]string{
		`{"pattern":"*.py"}`:                      {"a.py"},
		`{"pattern":"./*.py"}`:                    {"a.py"},
		`{"pattern":"**/*.py"}`:                   {"a.py", "src/b.py", "src/deep/c.py"},
		`{"pattern":"**/*.py","path":"src"}`:      {"b.py", "deep/c.py"},
		`{"pattern":"*","path":"src"}`:            {"b.py", "deep/"},
		`{"pattern":"src/**/c.{py,txt}"}`:         {"src/deep/c.py", "src/deep/c.txt"},
		`{"pattern":"**/[bc].py","path":null}`:    {"src/b.py", "src/deep/c.py"},
		`{"pattern":"*.py","path":".venv"}`:       {"x.py"},
		`{"pattern":"**/*.rs"}`:                   nil,
		`{"pattern":"*.p?","path":"src/deep"}`:    {"c.py"},
		`{"pattern":"c.*","path":"src/deep"}`:     {"c.py", "c.txt"},
		`{"pattern":"**/deep/","path":"."}`:       {"src/deep/"},
		`{"pattern":"src/deep/../*","path":null}`: {"src/b.py", "src/deep/"},
	} {
		result := call(t, on, "glob", pattern)
		got, ok := result.Data.(*globResult)
		if !ok || !slices.Equal(got.Paths, want) && len(got.Paths)+len(want) > 0 {
			t.Errorf("%s: %+v, want %v", pattern, result, want)
		}
	}
}
