package tools

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestACommandsEndIsToldInFieldsAndInText(t *testing.T) {
	on := files(t, map[string]string{"sub/x": ""})
	for name, test := range map[string]struct {
		arguments string
		want      commandResult
		text      string
	}{
		"output":             {`{"command":"echo hello"}`, commandResult{Stdout: "hello\n"}, "hello"},
		"nothing":            {`{"command":"true"}`, commandResult{}, "(no output)"},
		"both streams":       {`{"command":"echo a; echo b >&2; exit 3"}`, commandResult{Stdout: "a\n", Stderr: "b\n", ExitCode: 3}, "a\n[stderr]\nb\n[exit code: 3]"},
		"input":              {`{"command":"cat","stdin":"typed"}`, commandResult{Stdout: "typed"}, "typed"},
		"another directory":  {`{"command":"ls","cwd":"sub"}`, commandResult{Stdout: "x\n"}, "x"},
		"parameters as null": {`{"command":"echo a","timeout":null,"cwd":null,"stdin":null}`, commandResult{Stdout: "a\n"}, "a"},
		"bytes":              {`{"command":"printf '\\377\\000x'"}`, commandResult{Stdout: "\uFFFD\x00x"}, "\uFFFD\x00x"},
	} {
		result := call(t, on, "shell", test.arguments)
		got, ok := result.Data.(*commandResult)
		if !ok || result.IsError {
			t.Errorf("%s: %+v", name, result)
			continue
		}
		got.timeout = 0
		if *got != test.want || result.Text != test.text {
			t.Errorf("%s: %+v, text %q; want %+v, %q", name, *got, result.Text, test.want, test.text)
		}
	}
}

func TestACommandThatRunsOutOfTimeIsAnErrorWithWhatItWrote(t *testing.T) {
	result := call(t, files(t, nil), "shell", `{"command":"echo begun; exec sleep 100","timeout":0.3}`)
	if got, ok := result.Data.(*commandResult); !ok || !got.TimedOut || got.Stdout != "begun\n" || !result.IsError {
		t.Errorf("%+v", result)
	}
	if !strings.Contains(result.Text, "begun") || !strings.Contains(result.Text, "longer timeout") {
		t.Errorf("text %q", result.Text)
	}
}

func TestPythonRunsInItsDirectoryAndLeavesNothing(t *testing.T) {
	if _, err := os.Stat("/usr/bin/python3"); err != nil {
		t.Skip("there is no /usr/bin/python3")
	}
	on := files(t, map[string]string{"pkg/helper.py": "def answer():\n    return 42\n"})
	result := call(t, on, "run_python", `{"code":"import helper, sys\nprint(helper.answer(), sys.stdin.read(), __file__)\nsys.exit(2)","cwd":"pkg","stdin":"in"}`)
	got, ok := result.Data.(*commandResult)
	if !ok || got.ExitCode != 2 || !strings.HasPrefix(got.Stdout, "42 in /tmp/") {
		t.Fatalf("%+v", result)
	}
	if file := strings.TrimSpace(strings.TrimPrefix(got.Stdout, "42 in ")); !filepath.IsAbs(file) {
		t.Errorf("the program's file is %q", file)
	} else if _, err := os.Stat(file); !os.IsNotExist(err) {
		t.Errorf("%s is left behind: %v", file, err)
	}
	result = call(t, on, "run_python", `{"code":"def f():\n    raise ValueError('no')\nf()"}`)
	if !strings.Contains(result.Text, "raise ValueError('no')") || strings.Contains(result.Text, "cannot") {
		t.Errorf("the traceback does not quote the program: %s", result.Text)
	}
}
