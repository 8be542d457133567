package cli

import (
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"

	"github.com/covehq/cove"
)

func TestSpecFlags(t *testing.T) {
	t.Setenv("COVE_TEST_HAS", "from here")
	tests := map[string]struct {
		args []string
		want cove.Spec
		err  string
	}{
		"nothing given leaves every field to the daemon": {},
		"every flag reaches its field": {
			args: strings.Fields("--runtime runc --image rootfs:/r --name n --cpus 0.5 --memory 1g --pids 9 --disk 3m --timeout 90s --ttl never --idle 5 --network none -e A=b=c -u root -w /x --read-only --label k=v --best-effort"),
			want: cove.Spec{
				Runtime: "runc", Image: "rootfs:/r", Name: "n",
				Limits:  cove.Limits{CPUs: 0.5, Memory: cove.GiB, Pids: 9, Disk: 3 * cove.MiB},
				Timeout: 90e9, TTL: cove.Never, Idle: 5e9, Network: cove.Network{Mode: cove.NetworkNone},
				Env: map[string]string{"A": "b=c"}, User: "root", Workdir: "/x", ReadOnly: true,
				Labels: map[string]string{"k": "v"}, BestEffort: true,
			},
		},
		"a variable without a value is copied": {
			args: []string{"--env", "COVE_TEST_HAS"},
			want: cove.Spec{Env: map[string]string{"COVE_TEST_HAS": "from here"}},
		},
		"a variable that is not there is left out": {args: []string{"--env", "COVE_TEST_HAS_NOT"}},
		"a variable may be empty":                  {args: []string{"--env", "A="}, want: cove.Spec{Env: map[string]string{"A": ""}}},
		"a variable needs a name":                  {args: []string{"--env", "=x"}, err: "--env: a variable needs a name"},
		"a label needs a value":                    {args: []string{"--label", "team"}, err: "--label: team is not KEY=VALUE"},
		"a size needs a unit that exists":          {args: []string{"--memory", "12x"}, err: `--memory: size "12x" has an unknown unit`},
		"no memory is not the default":             {args: []string{"--memory", "0"}, err: "--memory: 0 must be more than 0"},
		"no processors are not the default":        {args: []string{"--cpus", "0"}, err: "--cpus: 0 must be more than 0"},
		"processors are not negative":              {args: []string{"--cpus=-1"}, err: "--cpus: -1 must be more than 0"},
		"processors are a number":                  {args: []string{"--cpus", "NaN"}, err: "--cpus: NaN is not a number of processors"},
		"processes are whole":                      {args: []string{"--pids", "1.5"}, err: "--pids: 1.5 is not a whole number"},
		"no time is not the default":               {args: []string{"--timeout", "0s"}, err: "--timeout: 0s must be more than 0"},
		"a duration is one":                        {args: []string{"--ttl", "soon"}, err: `--ttl: duration "soon" is not`},
		"a flag needs its value":                   {args: []string{"--cpus"}, err: "--cpus needs a value"},
		"a flag must exist":                        {args: []string{"--priviledged"}, err: "unknown flag --priviledged"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var got cove.Spec
			flags := pflag.NewFlagSet("test", pflag.ContinueOnError)
			flags.SetOutput(io.Discard)
			specFlags(flags, &got)
			err := flags.Parse(test.args)
			if test.err != "" {
				if err = flagError(new(program).root(), err); !strings.Contains(err.Error(), test.err) {
					t.Fatalf("got error %q, want one with %q", err, test.err)
				}
				if cove.HintOf(err) == "" {
					t.Errorf("error %q has no hint", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("spec (-want +got):\n%s", diff)
			}
		})
	}
}
