package cli

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"

	"github.com/covehq/cove"
)

// network parses flags of the network.
func network(t *testing.T, args ...string) (cove.Network, error) {
	t.Helper()
	var n cove.Network
	flags := pflag.NewFlagSet("test", pflag.ContinueOnError)
	networkFlags(flags, &n)
	err := flags.Parse(args)
	return n, err
}

func TestFlagsOfTheNetwork(t *testing.T) {
	t.Setenv("TOKEN", "hush-of-the-caller")
	t.Setenv("UNSET", "")
	file := filepath.Join(t.TempDir(), "to@ken")
	if err := os.WriteFile(file, []byte("hush-of-a-file\r\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		args []string
		want cove.Network
	}{
		"a mode":                    {[]string{"--network", "open"}, cove.Network{Mode: cove.NetworkOpen}},
		"rules, in lists and often": {[]string{"--allow", "pip, *.example.org:443", "--allow=sandbox:db:5432"}, cove.Network{Allow: []string{"pip", "*.example.org:443", "sandbox:db:5432"}}},
		"denials":                   {[]string{"--deny", "x.org,10.0.0.0/8"}, cove.Network{Deny: []string{"x.org", "10.0.0.0/8"}}},
		"final":                     {[]string{"--network-final"}, cove.Network{Final: true}},
		"requests": {[]string{
			"--request", "allow GET,HEAD api.github.com/repos/**", "--request", "deny x.org:8443", "--request", "POST x.org/", "--request", "x.org",
		}, cove.Network{Requests: []cove.RequestRule{
			{Action: cove.RequestAllow, Methods: []string{"GET", "HEAD"}, Host: "api.github.com", Paths: []string{"/repos/**"}},
			{Action: cove.RequestDeny, Host: "x.org:8443"}, {Methods: []string{"POST"}, Host: "x.org", Paths: []string{"/"}}, {Host: "x.org"},
		}}},
		"every method": {[]string{"--request", "audit * x.org/a"}, cove.Network{Requests: []cove.RequestRule{{Action: cove.RequestAudit, Host: "x.org", Paths: []string{"/a"}}}}},
		"a secret of the caller's variable": {[]string{"--secret", "TOKEN@api.github.com,*.x.org:8443"},
			cove.Network{Secrets: []cove.SecretUse{{Name: "TOKEN", Hosts: []string{"api.github.com", "*.x.org:8443"}, Value: "hush-of-the-caller"}}}},
		"a secret of the daemon's, bound here": {[]string{"--secret", "UNSET@api.github.com"},
			cove.Network{Secrets: []cove.SecretUse{{Name: "UNSET", Hosts: []string{"api.github.com"}}}}},
		"a secret of the daemon's, as it is bound": {[]string{"--secret", "TOKEN"}, cove.Network{Secrets: []cove.SecretUse{{Name: "TOKEN"}}}},
		"a secret of another variable": {[]string{"--secret", "GH=env:TOKEN@x.org"},
			cove.Network{Secrets: []cove.SecretUse{{Name: "GH", Hosts: []string{"x.org"}, Value: "hush-of-the-caller"}}}},
		"a secret of a file, without its newline": {[]string{"--secret", "GH=@" + file + "@x.org"},
			cove.Network{Secrets: []cove.SecretUse{{Name: "GH", Hosts: []string{"x.org"}, Value: "hush-of-a-file"}}}},
		"where a secret goes, and its variable inside": {[]string{"--secret", "UNSET@x.org,in=query,in=body,env=KEY"},
			cove.Network{Secrets: []cove.SecretUse{{Name: "UNSET", Hosts: []string{"x.org"}, In: []cove.SecretPlace{"query", "body"}, Env: "KEY"}}}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := network(t, test.args...)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestMistakesInFlagsOfTheNetwork(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty")
	large := filepath.Join(t.TempDir(), "large")
	for path, size := range map[string]int{empty: 0, large: maxSecret + 1} {
		if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("EMPTY", "")
	tests := map[string]struct {
		args []string
		want string
	}{
		"a mode that is none":             {[]string{"--network", "all"}, "all is none of none, allow and open"},
		"an empty rule":                   {[]string{"--allow", "pip,,npm"}, "a rule is empty"},
		"an URL for a rule":               {[]string{"--allow", "https://user:hush@pypi.org/simple"}, "a rule is a name and not an URL, as in pypi.org"},
		"a request without a host":        {[]string{"--request", "GET /repos"}, "is not [allow|deny|audit]"},
		"a request of an URL":             {[]string{"--request", "GET https://x.org"}, "is not [allow|deny|audit]"},
		"an action that is none":          {[]string{"--request", "refuse x.org"}, "refuse is neither allow, deny or audit nor a method"},
		"too many words of a request":     {[]string{"--request", "allow GET x.org y.org"}, "is not [allow|deny|audit]"},
		"an empty request":                {[]string{"--request", " "}, "is not [allow|deny|audit]"},
		"T83 a secret in the arguments":   {[]string{"--secret", "GH=hush@x.org"}, "can't be an argument"},
		"a secret without a name":         {[]string{"--secret", "@x.org"}, "a secret has a name"},
		"a secret bound to nothing":       {[]string{"--secret", "GH@"}, "bound to an empty name"},
		"a secret that may go nowhere":    {[]string{"--secret", "GH=env:HOME"}, "add @HOST"},
		"a secret's file without a host":  {[]string{"--secret", "GH=@" + empty}, "add @HOST"},
		"a secret's variable is not set":  {[]string{"--secret", "GH=env:EMPTY@x.org"}, "your variable EMPTY is not set"},
		"a secret's file is empty":        {[]string{"--secret", "GH=@" + empty + "@x.org"}, "secret GH is empty"},
		"a secret's file is too large":    {[]string{"--secret", "GH=@" + large + "@x.org"}, "larger than 64KiB"},
		"a secret's file is missing":      {[]string{"--secret", "GH=@/nonexistent@x.org"}, "no such file"},
		"an option that no secret has":    {[]string{"--secret", "GH@x.org,to=y.org"}, "to is none of in and env"},
		"a host in the place of the name": {[]string{"--secret", "a:b@x.org"}, "a secret has a name"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := network(t, test.args...)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("got %v, want %q", err, test.want)
			}
			status, _, stderr := start(t, append(append([]string{"run"}, test.args...), "--", "true")...)
			if status != exitUsage || strings.Contains(stderr, "hush") {
				t.Errorf("status %d:\n%s", status, stderr)
			}
		})
	}
}

func TestMistakesOfNetworkAndSecret(t *testing.T) {
	for args, want := range map[string]string{
		"network set build":                                     "nothing to change",
		"network set --mode none":                               "missing ID",
		"network set build --mode all":                          "all is none of",
		"network log":                                           "missing ID",
		"secret set TOKEN":                                      "missing --host",
		"secret set TOKEN=hush --host x.org":                    "can't be an argument",
		"secret set TOKEN hush --host x.org":                    "unexpected argument hush",
		"secret set T --host x.org --from-env A --from-file /x": "exclude each other",
		"secret rm":                                             "missing NAME…",
	} {
		t.Run(args, func(t *testing.T) {
			status, stdout, stderr := start(t, strings.Fields(args)...)
			if status != exitUsage || !strings.Contains(stderr, want) || stdout != "" {
				t.Errorf("status %d, got\n%s%s\nwant %s", status, stdout, stderr, want)
			}
		})
	}
}

func TestASecretThatIsNoneOnStandardInput(t *testing.T) {
	status, _, stderr := start(t, "secret", "set", "TOKEN", "--host", "x.org") // whose input is empty
	if status != exitError || !strings.Contains(stderr, "secret TOKEN is empty\nhint: give it on standard input") {
		t.Errorf("status %d:\n%s", status, stderr)
	}
}

func TestChangesOfTheNetwork(t *testing.T) {
	var n cove.Network
	flags := pflag.NewFlagSet("test", pflag.ContinueOnError)
	flags.Var(networkMode{&n.Mode}, "mode", "")
	ruleFlags(flags, &n.Allow, &n.Deny)
	if _, some := update(flags, n); some {
		t.Error("without flags there is a change")
	}
	if err := flags.Parse([]string{"--allow", "pip", "--deny", ""}); err != nil {
		t.Fatal(err)
	}
	change, some := update(flags, n)
	want := cove.NetworkUpdate{Allow: &[]string{"pip"}, Deny: &[]string{}}
	if diff := cmp.Diff(want, change); diff != "" || !some {
		t.Error(diff)
	}
}

func TestWhatWasRefusedIsToldOncePerName(t *testing.T) {
	events := []cove.NetworkEvent{
		{Kind: cove.NetworkLookup, Name: "pypi.example", Reason: "no rule allows pypi.example: add --allow pypi.example"},
		{Kind: cove.NetworkConnection, Name: "ok.example", Port: 443, Allowed: true},
		{Kind: cove.NetworkConnection, Name: "pypi.example", Port: 443, Reason: "another"},
		{Kind: cove.NetworkConnection, Address: "10.0.0.1", Port: 80, Reason: "10.0.0.1 is private"},
		{Kind: cove.NetworkConnection, Name: "sub.git.example", Port: 22, Reason: "no rule allows it: add --allow sub.git.example:22"},
		{Kind: cove.NetworkLookup, Name: "evil\x1b[31m.example", Reason: "no"},
	}
	presets := []cove.NetworkPreset{
		{Name: "git", Rules: []string{"*.git.example"}}, {Name: "ssh", Rules: []string{"*.git.example:22"}},
		{Name: "pip", Rules: []string{"pypi.example:443"}}, {Name: "npm", Rules: []string{"npm.example:443"}},
	}
	var got []string
	for _, event := range refusals(events) {
		got = append(got, clean(refusal(event, presets), ""))
	}
	want := []string{
		"pypi.example (no rule allows pypi.example: add --allow pypi.example or --allow pip)",
		"10.0.0.1 (10.0.0.1 is private)",
		"sub.git.example (no rule allows it: add --allow sub.git.example:22 or --allow ssh)",
		"evil [31m.example (no)",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestLinesOfTheNetworkLog(t *testing.T) {
	for want, event := range map[string]cove.NetworkEvent{
		"allowed  connection  pypi.example:443  at 192.0.2.1  by pip": {
			Kind: cove.NetworkConnection, Allowed: true, Name: "pypi.example", Address: "192.0.2.1", Port: 443, Rule: "pip"},
		"refused  lookup  evil.example: no rule": {Kind: cove.NetworkLookup, Name: "evil.example", Reason: "no rule"},
		"closed  closed  pypi.example:443  2KiB in, 10 out": {
			Kind: cove.NetworkClosed, Allowed: true, Name: "pypi.example", Port: 443, Received: 2 * cove.KiB, Sent: 10},
		"allowed  request  GET  api.example:443/repos  200  by allow GET api.example  with TOKEN": {
			Kind: cove.NetworkRequest, Allowed: true, Name: "api.example", Port: 443, Method: "GET", Path: "/repos", Status: 200, Rule: "allow GET api.example", Secrets: []string{"TOKEN"}},
		"refused  connection  ?:80  by  x: a b": {Kind: cove.NetworkConnection, Port: 80, Rule: "\x9bx", Reason: "a\nb"},
	} {
		_, got, _ := strings.Cut(networkLine(event), "  ")
		if got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}

func TestTheDoctorTellsWhichPresetsCantBeUsed(t *testing.T) {
	got := presetsText([]cove.NetworkPreset{
		{Name: "npm", Rules: []string{"npm.corp:443"}, Warnings: []string{"npm.corp is private"}},
		{Name: "cargo", Error: "cargo is not installed: install\x1b it"}, {Name: "pip"},
	})
	want := "network presets: npm pip\n    warning      npm: npm.corp is private\n    without      cargo: cargo is not installed: install  it\n"
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if got := presetsText(nil); got != "" {
		t.Errorf("without any: %q", got)
	}
}
