package tools

import (
	"bytes"
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/covehq/cove"
)

func TestTheFileOfDefinitionsIsWhatTheCodeSays(t *testing.T) {
	want, err := Export(FormatCove, All())
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile("../api/tools.json")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("api/tools.json differs from what the tools say; run go generate ./tools")
	}
}

func TestTheToolsOfAxioHaveItsNamesAndParameters(t *testing.T) {
	// As `axio-tools-docker` has them: required ones first.
	want := map[string][]string{
		"shell":      {"command", "timeout", "cwd", "stdin"},
		"write_file": {"file_path", "content", "mode"},
		"read_file":  {"filename", "max_chars", "binary_as_hex", "start_line", "end_line", "line_numbers"},
		"list_files": {"directory"},
		"run_python": {"code", "cwd", "timeout", "stdin"},
		"patch_file": {"file_path", "from_line", "to_line", "content", "mode"},
	}
	for _, tool := range All() {
		names, ok := want[tool.Name]
		delete(want, tool.Name)
		if ok && !slices.Equal(tool.Parameters.PropertyOrder, names) {
			t.Errorf("%s has the parameters %v, want %v", tool.Name, tool.Parameters.PropertyOrder, names)
		}
	}
	if len(want) > 0 {
		t.Errorf("missing: %v", want)
	}
}

func TestEveryFormatHasEveryToolAndTakesNothingElse(t *testing.T) {
	for _, format := range Formats() {
		data, err := Export(format, All())
		if err != nil {
			t.Errorf("%s: %v", format, err)
			continue
		}
		var list []map[string]any
		if err := json.Unmarshal(data, &list); err != nil {
			t.Errorf("%s: %v", format, err)
			continue
		}
		if len(list) != len(All()) {
			t.Errorf("%s has %d tools, want %d", format, len(list), len(All()))
		}
		for _, form := range list {
			if inner, ok := form["function"].(map[string]any); ok {
				form = inner
			}
			name, _ := form["name"].(string)
			schema := parametersOf(form)
			if name == "" || form["description"] == "" || schema["additionalProperties"] != false || schema["type"] != "object" {
				t.Errorf("%s: %v is no definition", format, form)
			}
			properties, _ := schema["properties"].(map[string]any)
			required, _ := schema["required"].([]any)
			if form["strict"] == true && len(required) != len(properties) {
				t.Errorf("%s: %s requires %v of %d parameters; strict wants all", format, name, required, len(properties))
			}
			for parameter, description := range properties {
				if text, _ := description.(map[string]any)["description"].(string); text == "" {
					t.Errorf("%s: %s does not say what %s is", format, name, parameter)
				}
			}
		}
	}
	if _, err := Export("yaml", All()); cove.CodeOf(err) != cove.Invalid {
		t.Errorf("an unknown format: %v", err)
	}
}

func parametersOf(form map[string]any) map[string]any {
	for _, name := range []string{"parameters", "input_schema", "inputSchema"} {
		if schema, ok := form[name].(map[string]any); ok {
			return schema
		}
	}
	return nil
}

func TestWrongArgumentsAreAnsweredWithWhatIsRight(t *testing.T) {
	on := files(t, map[string]string{"a": "1\n2\n"})
	for name, test := range map[string]struct{ tool, arguments, want string }{
		"not an object":                 {"shell", `[]`, "object"},
		"null":                          {"shell", `null`, "object"},
		"no JSON":                       {"shell", `{`, "object"},
		"nothing":                       {"shell", ``, "command is missing"},
		"a parameter too many":          {"shell", `{"command":"id","path":"x"}`, "command, timeout, cwd, stdin"},
		"a required one that is null":   {"shell", `{"command":null}`, "command is missing"},
		"a wrong type":                  {"shell", `{"command":["id"]}`, "command"},
		"an empty command":              {"shell", `{"command":" "}`, "empty"},
		"no time":                       {"shell", `{"command":"id","timeout":0}`, "timeout"},
		"too much time":                 {"shell", `{"command":"id","timeout":1e9}`, "timeout"},
		"a file that is not there":      {"read_file", `{"filename":"b"}`, "list the directory"},
		"an empty path":                 {"read_file", `{"filename":""}`, "empty"},
		"lines that run backwards":      {"read_file", `{"filename":"a","start_line":2,"end_line":1}`, "end_line"},
		"lines that are not there":      {"read_file", `{"filename":"a","start_line":4}`, "2 lines"},
		"too many characters":           {"read_file", `{"filename":"a","max_chars":99999999}`, "max_chars"},
		"a mode that is none":           {"write_file", `{"file_path":"b","content":"","mode":"0999"}`, "octal"},
		"a mode with more than rights":  {"write_file", `{"file_path":"b","content":"","mode":"4755"}`, "octal"},
		"a patch beyond the end":        {"patch_file", `{"file_path":"a","from_line":4,"to_line":3,"content":"x"}`, "2 lines"},
		"a patch that overlaps the end": {"patch_file", `{"file_path":"a","from_line":2,"to_line":3,"content":"x"}`, "2 lines"},
		"a patch before the beginning":  {"patch_file", `{"file_path":"a","from_line":0,"to_line":0,"content":"x"}`, "2 lines"},
		"a pattern that is none":        {"grep", `{"pattern":"("}`, "RE2"},
		"a glob that is none":           {"grep", `{"pattern":"x","glob":"["}`, "glob"},
		"a directory that is not there": {"grep", `{"pattern":"x","path":"none"}`, "list the directory"},
		"an absolute pattern":           {"glob", `{"pattern":"/etc/*"}`, "relative"},
		"a pattern that leads out":      {"glob", `{"pattern":"../*"}`, "relative"},
	} {
		result := call(t, on, test.tool, test.arguments)
		failure, ok := result.Data.(Failure)
		if !result.IsError || !ok || failure.Hint == "" || !strings.Contains(result.Text, failure.Hint) {
			t.Errorf("%s: %+v, want an error with a hint", name, result)
		}
		if test.want != "glob" && !strings.Contains(result.Text, test.want) {
			t.Errorf("%s: %q does not say %q", name, result.Text, test.want)
		}
	}
	if got := on.content(t, "a"); got != "1\n2\n" {
		t.Errorf("a file was changed to %q", got)
	}
}
