package sandbox

import (
	"testing"

	"github.com/covehq/cove"
)

func TestAccountsAreCompletedInImagesAlone(t *testing.T) {
	mount := func(target string) func(*cove.Spec) {
		return func(s *cove.Spec) { s.Mounts = []cove.Mount{{Type: cove.MountBind, Source: "/srv", Target: target}} }
	}
	for name, test := range map[string]struct {
		change func(*cove.Spec)
		want   bool
	}{
		"an image":                     {func(*cove.Spec) {}, true},
		"the host's system":            {func(s *cove.Spec) { s.Image = cove.DefaultImage }, false},
		"a tree of the host's":         {func(s *cove.Spec) { s.Image = "rootfs:/srv/tree" }, false},
		"a read-only root":             {func(s *cove.Spec) { s.ReadOnly = true }, false},
		"the caller's file":            {mount("/etc/passwd"), false},
		"the caller's directory":       {mount("/etc/"), false},
		"the caller's, otherwise said": {mount("/usr/../etc"), false},
		"the caller's, elsewhere":      {mount("/etcetera"), true},
	} {
		spec := cove.Spec{Image: "registry.test/tools:1"}.WithDefaults()
		test.change(&spec)
		if got := ownAccounts(&spec); got != test.want {
			t.Errorf("%s: got %v, want %v", name, got, test.want)
		}
	}
}
