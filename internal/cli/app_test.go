package cli

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// start runs the program as somebody would who has no daemon, and wants none.
func start(t *testing.T, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	t.Setenv("COVE_STATE_DIR", filepath.Join(t.TempDir(), "state"))
	t.Setenv("COVE_DATA_DIR", filepath.Join(t.TempDir(), "data"))
	t.Setenv("COVE_CONFIG", filepath.Join(t.TempDir(), "cove.yaml"))
	if err := os.WriteFile(os.Getenv("COVE_CONFIG"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var out, err bytes.Buffer
	status = App{Stdin: strings.NewReader(""), Stdout: &out, Stderr: &err}.Run(t.Context(), args)
	return status, out.String(), err.String()
}

func TestMistakesInTheCommandLine(t *testing.T) {
	tests := map[string]struct {
		args string
		want string
	}{
		"an unknown verb":                        {"rnu", "unknown verb rnu\nhint: did you mean cove run?"},
		"a verb that resembles none":             {"frobnicate", "unknown verb frobnicate\nhint: run cove --help"},
		"an unknown flag":                        {"run --priviledged -- true", "unknown flag --priviledged\nhint: run cove run --help"},
		"an unknown short flag":                  {"ls -z", "unknown flag -z"},
		"a bad size":                             {"create --memory 12x", `--memory: size "12x" has an unknown unit`},
		"no processors":                          {"run --cpus 0 -- true", "--cpus: 0 must be more than 0"},
		"no command for run":                     {"run --name x", "missing command\nhint: write it after --"},
		"no sandbox for exec":                    {"exec", "missing ID"},
		"no command for exec":                    {"exec box", "missing command"},
		"detached and interactive":               {"exec -d -i box -- sh", "-d excludes -i and -t"},
		"too few arguments":                      {"cp x", "missing DESTINATION\nhint: as in: cove cp ./project build:/workspace"},
		"too many arguments":                     {"inspect a b", "unexpected argument b"},
		"nothing to remove":                      {"rm", "missing ID…"},
		"everything and something to remove":     {"rm --all x", "--all and ids exclude each other"},
		"a copy within this machine":             {"cp a b", "neither side is in a sandbox"},
		"a copy between sandboxes":               {"cp a:/x b:/y", "both sides are in sandboxes"},
		"a copy from no sandbox":                 {"cp :/x y", ":/x names no sandbox"},
		"a copy without a path":                  {"cp a: y", "a: has no path"},
		"a pid that is none":                     {"logs box main", "pid main is not a number"},
		"arguments of a tool that are no JSON":   {"tools call box shell {", "the arguments are not JSON\nhint: write them as in"},
		"no tool":                                {"tools call box", "missing TOOL"},
		"no port to open":                        {"port box", "missing PORT…\nhint: as in: cove port build 8000"},
		"a port that is none":                    {"port box 080", "080 is not PORT[:LOCAL]\nhint: write ports from 1 to 65535"},
		"a port that is too high":                {"port box 65536", "65536 is not PORT[:LOCAL]"},
		"a port 0 inside":                        {"port box 0:80", "0:80 is not PORT[:LOCAL]"},
		"a port with a name":                     {"port box http", "http is not PORT[:LOCAL]"},
		"three ports in one":                     {"port box 80:81:82", "80:81:82 is not PORT[:LOCAL]"},
		"a preview on a port of this machine":    {"port box 80:81 --preview", "80:81 has a port of this machine, and previews have none"},
		"a preview that is revoked":              {"port box 80 --preview --revoke", "--preview and --revoke exclude each other"},
		"a time for what is no preview":          {"port box 80 --ttl 1h", "--ttl is for --preview"},
		"an address for a preview":               {"port box 80 --preview --address ::1", "--address is not for previews"},
		"half of a certificate":                  {"serve --tls-cert x", "--tls-cert and --tls-key need each other"},
		"a log format that is none":              {"serve --log-format xml", "--log-format: xml is neither text nor json"},
		"a log level that is none":               {"serve --log-level loud", "--log-level: loud is none of"},
		"a daemon that is told to be elsewhere":  {"serve --host unix:///x", "serve takes no --host"},
		"a daemon that says ready to nobody":     {"serve --ready --log-file /dev/null/x", "descriptor 3 is not a pipe"},
		"an argument for a verb that takes none": {"version now", "unexpected argument now"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			status, stdout, stderr := start(t, strings.Fields(test.args)...)
			if status != exitUsage && name != "a daemon that says ready to nobody" {
				t.Errorf("status = %d, want %d", status, exitUsage)
			}
			if !strings.HasPrefix(stderr, "cove: ") || !strings.Contains(stderr, test.want) {
				t.Errorf("got\n%s\nwant\n%s", stderr, test.want)
			}
			if stdout != "" {
				t.Errorf("stdout = %q, want nothing", stdout)
			}
		})
	}
}

func TestATerminalIsNotJSON(t *testing.T) {
	status, _, stderr := start(t, "run", "-t", "--json", "--", "sh")
	if status != exitUsage || !strings.Contains(stderr, `"message":"-t and --json exclude each other"`) {
		t.Errorf("status %d: %s", status, stderr)
	}
}

func TestErrorsInJSONAreThoseOfTheAPI(t *testing.T) {
	status, _, stderr := start(t, "create", "--json", "--host", "ftp://x")
	if status != exitError {
		t.Errorf("status = %d, want %d", status, exitError)
	}
	var body struct {
		Error struct{ Code, Message, Hint string }
	}
	if err := json.Unmarshal([]byte(stderr), &body); err != nil {
		t.Fatalf("%v in %q", err, stderr)
	}
	if body.Error.Code != "invalid" || body.Error.Message == "" || body.Error.Hint == "" {
		t.Errorf("got %+v", body.Error)
	}
}

func TestEveryVerbSaysWhatItDoesAndShowsAnExample(t *testing.T) {
	var walk func(cmd *cobra.Command)
	walk = func(cmd *cobra.Command) {
		if cmd.Short == "" || cmd.Example == "" || !strings.Contains(cmd.Example, cmd.CommandPath()) {
			t.Errorf("%s: Short %q, Example %q", cmd.CommandPath(), cmd.Short, cmd.Example)
		}
		for _, verb := range cmd.Commands() {
			walk(verb)
		}
		status, stdout, _ := start(t, append(strings.Fields(cmd.CommandPath())[1:], "--help")...)
		if status != 0 || !strings.Contains(stdout, "Examples:") || !strings.Contains(stdout, "--json") {
			t.Errorf("%s --help: status %d\n%s", cmd.CommandPath(), status, stdout)
		}
	}
	walk(new(program).root())
}

func TestRunAndCreateTakeTheSameSpec(t *testing.T) {
	root := new(program).root()
	run, _, _ := root.Find([]string{"run"})
	create, _, _ := root.Find([]string{"create"})
	create.LocalFlags().VisitAll(func(flag *pflag.Flag) {
		if flag.Name == "reuse" {
			return // what it makes is of a name that stays
		}
		if other := run.LocalFlags().Lookup(flag.Name); other == nil || other.Usage != flag.Usage {
			t.Errorf("create has --%s, and run not the same", flag.Name)
		}
	})
}

func TestSettingsComeFromFlagsThenVariablesThenTheFile(t *testing.T) {
	tests := map[string]struct {
		args, env, file string
		want, err       string
	}{
		"the default":                  {want: "text"},
		"the file":                     {file: "log_format: json", want: "json"},
		"a variable wins over a file":  {file: "log_format: json", env: "text", want: "text"},
		"a flag wins over a variable":  {args: "text", env: "json", file: "log_format: json", want: "text"},
		"an unknown key is an error":   {file: "log_formt: json", err: "log_formt"},
		"a bad value names its key":    {file: "log_format: xml", err: "log_format: xml is neither text nor json"},
		"a bad value of a variable":    {env: "xml", err: "COVE_LOG_FORMAT: xml is neither text nor json"},
		"numbers are read as well":     {file: "max_sandboxes: 12\nidle_exit: 300", want: "text"},
		"a number that is too small":   {file: "max_sandboxes: 0", err: "max_sandboxes: 0 must be more than 0"},
		"an empty file says nothing":   {file: "# nothing\n", want: "text"},
		"something that is not a map":  {file: "- a\n- b\n", err: "read configuration"},
		"a key that is given twice":    {file: "log_format: json\nlog_format: text", err: "read configuration"},
		"a value that is not a scalar": {file: "log_format: [json]", err: "read configuration"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "cove.yaml")
			if err := os.WriteFile(file, []byte(test.file), 0o600); err != nil {
				t.Fatal(err)
			}
			t.Setenv("COVE_LOG_FORMAT", test.env)
			p := &program{config: file}
			serve := p.serveVerb()
			if test.args != "" {
				if err := serve.Flags().Set("log-format", test.args); err != nil {
					t.Fatal(err)
				}
			}
			err := p.configure(serve.Flags())
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Fatalf("got %v, want an error with %q", err, test.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := serve.Flags().Lookup("log-format").Value.String(); got != test.want {
				t.Errorf("log-format = %s, want %s", got, test.want)
			}
		})
	}
	t.Run("a file that was asked for must be there", func(t *testing.T) {
		p := &program{config: filepath.Join(t.TempDir(), "none.yaml")}
		if err := p.configure(p.serveVerb().Flags()); err == nil {
			t.Error("no error")
		}
	})
}

func TestPlaces(t *testing.T) {
	tests := map[string]place{
		"box:/a/b": {sandbox: "box", path: "/a/b"},
		"box:rel":  {sandbox: "box", path: "rel"},
		"box:a:b":  {sandbox: "box", path: "a:b"},
		"./a:b":    {path: "./a:b"},
		"/a:b":     {path: "/a:b"},
		"dir/a:b":  {path: "dir/a:b"},
		".a:b":     {path: ".a:b"},
		"plain":    {path: "plain"},
		"-":        {path: "-"},
	}
	for text, want := range tests {
		if got, err := parsePlace(text); got != want || err != nil {
			t.Errorf("parsePlace(%q) = %+v, %v, want %+v", text, got, err, want)
		}
	}
}
