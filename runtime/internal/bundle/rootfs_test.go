package bundle

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/covehq/cove"
	"github.com/covehq/cove/image"
)

func TestOverlayOptionsCantBeInjected(t *testing.T) {
	if got, want := escapeOverlay(`/a,upperdir=/b:c\d`), `/a\,upperdir=/b\:c\\d`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// TestT05PlacesForMountsAreNotMadeInTheTreeThatAllShare stands in for gVisor, which makes
// them in what it is given for a root.
func TestT05PlacesForMountsAreNotMadeInTheTreeThatAllShare(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounts: run as root")
	}
	for name, test := range map[string]struct {
		over   bool
		mounts []cove.Mount
		shared bool // the image's own tree is what gVisor gets
	}{
		"nothing to mount":            {false, nil, true},
		"memory, which gVisor mounts": {false, []cove.Mount{{Type: cove.MountTmpfs, Target: "/place"}}, true},
		"a bind":                      {false, []cove.Mount{{Type: cove.MountBind, Target: "/place"}}, false},
		"a bind, an image of two":     {true, []cove.Mount{{Type: cove.MountBind, Target: "/place"}}, false},
	} {
		t.Run(name, func(t *testing.T) {
			root, dir := &image.Root{Dir: t.TempDir()}, t.TempDir()
			if test.over {
				root.Over = t.TempDir()
			}
			path, err := PrepareGvisorRoot(dir, root, &cove.Spec{Mounts: test.mounts})
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := UnmountRoot(dir); err != nil {
					t.Error(err)
				}
			}()
			if (path == root.Dir) != test.shared {
				t.Errorf("got %s, want the image's own tree %s: %v", path, root.Dir, test.shared)
			}
			if test.shared {
				return
			}
			if err := os.Mkdir(filepath.Join(path, "place"), 0o755); err != nil {
				t.Errorf("gVisor can't make a place: %v", err)
			}
			if entries, _ := os.ReadDir(root.Dir); len(entries) > 0 {
				t.Errorf("the image has %v now", entries)
			}
		})
	}
}
