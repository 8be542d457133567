package tools

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

func TestAFileIsReadByLinesAndAsWhatItIs(t *testing.T) {
	on := files(t, map[string]string{
		"text": "one\ntwo\nthree\n", "open": "a\nb", "empty": "", "bytes": "\x00\xff", "wide": "äöü\n", "crlf": "a\r\nb\r\n",
	})
	for name, test := range map[string]struct {
		arguments string
		content   string
		truncated bool
		text      string
	}{
		"whole":               {`{"filename":"text"}`, "one\ntwo\nthree\n", false, ""},
		"some lines":          {`{"filename":"text","start_line":2,"end_line":2}`, "two\n", false, ""},
		"to beyond the end":   {`{"filename":"text","start_line":3,"end_line":99}`, "three\n", false, ""},
		"with numbers":        {`{"filename":"text","start_line":2,"line_numbers":true}`, "     2\ttwo\n     3\tthree\n", false, ""},
		"no last line end":    {`{"filename":"open"}`, "a\nb", false, ""},
		"carriage returns":    {`{"filename":"crlf"}`, "a\r\nb\r\n", false, ""},
		"empty":               {`{"filename":"empty"}`, "", false, "(empty)"},
		"binary":              {`{"filename":"bytes"}`, "00ff", false, "[binary, 2 bytes]\n00ff"},
		"binary, cut":         {`{"filename":"bytes","max_chars":1}`, "00", true, "[binary, 2 bytes]\n00\n...[truncated]"},
		"binary as text":      {`{"filename":"bytes","binary_as_hex":false}`, "\x00\uFFFD", false, "[binary, 2 bytes]\n\x00\uFFFD"},
		"cut":                 {`{"filename":"text","max_chars":5}`, "one\nt", true, "one\nt\n...[truncated]"},
		"cut between runes":   {`{"filename":"wide","max_chars":2}`, "äö", true, "äö\n...[truncated]"},
		"exactly as many":     {`{"filename":"wide","max_chars":4}`, "äöü\n", false, ""},
		"parameters as null":  {`{"filename":"text","start_line":null,"end_line":null}`, "one\ntwo\nthree\n", false, ""},
		"an empty file, line": {`{"filename":"empty","start_line":1}`, "", false, "(empty)"},
	} {
		result := call(t, on, "read_file", test.arguments)
		got, ok := result.Data.(*fileContent)
		if !ok || result.IsError {
			t.Errorf("%s: %+v", name, result)
			continue
		}
		if test.text == "" {
			test.text = test.content
		}
		if got.Content != test.content || got.Truncated != test.truncated || result.Text != test.text {
			t.Errorf("%s: %+v, text %q; want %q, truncated %v, text %q", name, *got, result.Text, test.content, test.truncated, test.text)
		}
	}
}

func TestAFileThatIsWrittenKeepsItsModeUnlessOneIsGiven(t *testing.T) {
	on := files(t, nil)
	mode := func(name string) os.FileMode {
		info, err := os.Stat(on.at(name))
		if err != nil {
			t.Fatal(err)
		}
		return info.Mode().Perm()
	}
	for _, step := range []struct {
		tool, arguments string
		content         string
		mode            os.FileMode
	}{
		{"write_file", `{"file_path":"deep/er/x","content":"a\nb\n"}`, "a\nb\n", 0o644},
		{"write_file", `{"file_path":"deep/er/x","content":"a\nb\n","mode":"0755"}`, "a\nb\n", 0o755},
		{"patch_file", `{"file_path":"deep/er/x","from_line":2,"to_line":2,"content":"c"}`, "a\nc\n", 0o755},
		{"edit_file", `{"file_path":"deep/er/x","old_string":"c\n","new_string":"d"}`, "a\nd", 0o755},
		{"write_file", `{"file_path":"deep/er/x","content":"","mode":420}`, "", 0o644},
	} {
		if result := call(t, on, step.tool, step.arguments); result.IsError {
			t.Fatalf("%s: %+v", step.arguments, result)
		}
		if got := on.content(t, "deep/er/x"); got != step.content || mode("deep/er/x") != step.mode {
			t.Errorf("%s %s: %q, %v; want %q, %v", step.tool, step.arguments, got, mode("deep/er/x"), step.content, step.mode)
		}
	}
}

func TestAListingHasOneLevelWithDirectoriesFirst(t *testing.T) {
	on := files(t, map[string]string{"b": "12", "a/deep/x": "", "c": ""})
	if err := os.Symlink("b", on.at("l")); err != nil {
		t.Fatal(err)
	}
	when := time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC)
	if err := os.Chtimes(on.at("b"), when, when); err != nil {
		t.Fatal(err)
	}
	result := call(t, on, "list_files", `{}`)
	got, ok := result.Data.(*directory)
	if !ok {
		t.Fatalf("%+v", result)
	}
	var names []string
	for _, e := range got.Entries {
		names = append(names, e.Name+" "+e.Type)
	}
	if text := fmt.Sprint(names); text != "[a directory b file c file l symlink]" {
		t.Errorf("entries %s", text)
	}
	if !strings.Contains(result.Text, "a/\n") || !strings.Contains(result.Text, "f 0644          2 2020-01-02T03:04:05Z b\n") {
		t.Errorf("text:\n%s", result.Text)
	}
	if result := call(t, on, "list_files", `{"directory":"a/deep/x"}`); !result.IsError {
		t.Errorf("a file as a directory: %+v", result)
	}
	if err := os.Mkdir(on.at("none"), 0o755); err != nil {
		t.Fatal(err)
	}
	if result := call(t, on, "list_files", `{"directory":"none"}`); result.Text != "(empty directory)" {
		t.Errorf("an empty directory: %+v", result)
	}
}

func TestALongListingIsCut(t *testing.T) {
	content := map[string]string{}
	for i := range maxEntries + 1 {
		content[fmt.Sprintf("%05d", i)] = ""
	}
	result := call(t, files(t, content), "list_files", `{"directory":"."}`)
	if got := result.Data.(*directory); len(got.Entries) != maxEntries || !got.Truncated || !strings.Contains(result.Text, "more than 1000") {
		t.Errorf("%d entries, truncated %v", len(got.Entries), got.Truncated)
	}
}
