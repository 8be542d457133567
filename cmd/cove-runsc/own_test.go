package main

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestWhatAContainerAsksForReachesGvisor(t *testing.T) {
	sized, plain, open, closed := t.TempDir(), t.TempDir(), t.TempDir(), t.TempDir()
	for dir, env := range map[string]string{sized: `["A=B","COVE_ROOT_SIZE=4096"]`, plain: `["COVE_ROOT_SIZE=-1 --network=host"]`,
		open: `["COVE_NETWORK=NET_ADMIN,NET_RAW"]`, closed: `["COVE_NETWORK", "COVE_NETWORK="]`} {
		if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(`{"process":{"env":`+env+`}}`), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const flag = "--overlay2=root:self,size=4096"
	for name, test := range map[string]struct{ args, want []string }{
		"as a shim creates":            {[]string{"runsc", "--root", "/r", "create", "--bundle", sized, "x"}, []string{"runsc", "--root", "/r", flag, "create", "--bundle", sized, "x"}},
		"with an equals sign":          {[]string{"runsc", "create", "-bundle=" + sized, "x"}, []string{"runsc", flag, "create", "-bundle=" + sized, "x"}},
		"a size that is no number":     {[]string{"runsc", "create", "--bundle", plain, "x"}, []string{"runsc", "create", "--bundle", plain, "x"}},
		"a bundle that is not there":   {[]string{"runsc", "create", "--bundle", "/nowhere", "x"}, []string{"runsc", "create", "--bundle", "/nowhere", "x"}},
		"a way out":                    {[]string{"runsc", "create", "--bundle", open, "x"}, []string{"runsc", "--net-raw", "create", "--bundle", open, "x"}},
		"no way out":                   {[]string{"runsc", "create", "--bundle", closed, "x"}, []string{"runsc", "create", "--bundle", closed, "x"}},
		"another verb":                 {[]string{"runsc", "start", "x"}, []string{"runsc", "start", "x"}},
		"a child of gVisor's":          {[]string{"runsc-sandbox", "boot", "--bundle=" + sized}, []string{"runsc-sandbox", "boot", "--bundle=" + sized}},
		"a verb without anything else": {[]string{"runsc", "create", "--bundle"}, []string{"runsc", "create", "--bundle"}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := withOwn(test.args); !slices.Equal(got, test.want) {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}
