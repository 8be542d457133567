package tools

import (
	"strings"
	"testing"
)

func TestAPatchReplacesInsertsAndDeletesLines(t *testing.T) {
	for name, test := range map[string]struct{ before, arguments, after string }{
		"replace":                        {"1\n2\n3\n", `"from_line":2,"to_line":2,"content":"two\n"`, "1\ntwo\n3\n"},
		"replace by more":                {"1\n2\n3\n", `"from_line":1,"to_line":2,"content":"a\nb\nc"`, "a\nb\nc\n3\n"},
		"insert before the first":        {"1\n", `"from_line":1,"to_line":0,"content":"0"`, "0\n1\n"},
		"append":                         {"1\n", `"from_line":2,"to_line":1,"content":"2"`, "1\n2\n"},
		"append where the end is open":   {"1", `"from_line":2,"to_line":1,"content":"2"`, "1\n2\n"},
		"into an empty file":             {"", `"from_line":1,"to_line":0,"content":"1"`, "1\n"},
		"delete":                         {"1\n2\n3\n", `"from_line":2,"to_line":3,"content":""`, "1\n"},
		"delete all":                     {"1\n2", `"from_line":1,"to_line":2,"content":""`, ""},
		"carriage returns elsewhere":     {"1\r\n2\r\n", `"from_line":2,"to_line":2,"content":"x\r\n"`, "1\r\nx\r\n"},
		"an open end that stays an open": {"1\n2", `"from_line":1,"to_line":1,"content":"x"`, "x\n2"},
	} {
		on := files(t, map[string]string{"f": test.before})
		if result := call(t, on, "patch_file", `{"file_path":"f",`+test.arguments+`}`); result.IsError {
			t.Errorf("%s: %+v", name, result)
		}
		if got := on.content(t, "f"); got != test.after {
			t.Errorf("%s: %q, want %q", name, got, test.after)
		}
	}
}

func TestAnEditIsExactAndUniqueOrChangesNothing(t *testing.T) {
	const before = "if a:\n    b()\nif c:\n    b()\n"
	for name, test := range map[string]struct{ arguments, after, says string }{
		"unique":         {`"old_string":"if a","new_string":"if z"`, "if z:\n    b()\nif c:\n    b()\n", "once"},
		"all":            {`"old_string":"b()","new_string":"d","replace_all":true`, "if a:\n    d\nif c:\n    d\n", "2 times"},
		"delete":         {`"old_string":"if a:\n    b()\n","new_string":""`, "if c:\n    b()\n", "once"},
		"several":        {`"old_string":"b()","new_string":"d"`, before, "lines 2, 4"},
		"none":           {`"old_string":"nope","new_string":"d"`, before, "exactly"},
		"other spaces":   {`"old_string":"\tif c:\n\tb()","new_string":"d"`, before, "like line 3"},
		"empty":          {`"old_string":"","new_string":"d"`, before, "empty"},
		"the same":       {`"old_string":"if a","new_string":"if a"`, before, "same"},
		"no expressions": {`"old_string":"b(.)","new_string":"$1"`, before, "not in"},
	} {
		on := files(t, map[string]string{"f": before})
		result := call(t, on, "edit_file", `{"file_path":"f",`+test.arguments+`}`)
		if got := on.content(t, "f"); got != test.after || result.IsError != (test.after == before) || !strings.Contains(result.Text, test.says) {
			t.Errorf("%s: %q, %+v; want %q, %q", name, got, result, test.after, test.says)
		}
	}
}

func TestWhatIsNotTextIsNotEdited(t *testing.T) {
	on := files(t, map[string]string{"bytes": "\x00a\n", "large": strings.Repeat("a\n", maxFile/2+1)})
	for _, name := range []string{"bytes", "large"} {
		before := on.content(t, name)
		for tool, arguments := range map[string]string{
			"patch_file": `"from_line":1,"to_line":1,"content":"x"`, "edit_file": `"old_string":"a\n","new_string":"b","replace_all":true`,
		} {
			if result := call(t, on, tool, `{"file_path":"`+name+`",`+arguments+`}`); !result.IsError || on.content(t, name) != before {
				t.Errorf("%s of %s: %+v", tool, name, result)
			}
		}
	}
}
