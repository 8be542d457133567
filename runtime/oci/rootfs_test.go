package oci

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/covehq/cove"
)

// TestAForeignTreeBootsAndIsNotWrittenTo uses a tree that has nothing a sandbox needs, and a
// link where a runtime would make a mount point.
func TestAForeignTreeBootsAndIsNotWrittenTo(t *testing.T) {
	if testing.Short() {
		t.Skip("boots sandboxes: run without -short")
	}
	bin := binaries(t)
	for _, name := range []string{"gvisor", "runc"} {
		t.Run(name, func(t *testing.T) {
			r := rig{Dir: t.TempDir(), Bin: bin, Runtime: name}
			d, err := r.open()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := d.Probe(t.Context()); err != nil {
				t.Skipf("probe says: %v", err)
			}
			tree, canary := t.TempDir(), t.TempDir()
			if err := os.WriteFile(filepath.Join(tree, "program"), []byte("x"), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(canary, filepath.Join(tree, "dev")); err != nil {
				t.Fatal(err)
			}
			for _, readOnly := range []bool{false, true} {
				spec := cove.Spec{Runtime: name, Image: "rootfs:" + tree, ReadOnly: readOnly}.WithDefaults()
				m, err := d.Create(t.Context(), "foreigntree", &spec)
				if err != nil {
					t.Fatal(err)
				}
				if err := m.Destroy(t.Context()); err != nil {
					t.Error(err)
				}
			}
			for dir, want := range map[string]int{tree: 2, canary: 0} {
				if entries, err := os.ReadDir(dir); err != nil || len(entries) != want {
					t.Errorf("%s holds %v, %v, want what was there", dir, entries, err)
				}
			}
			if left := census(d.(*Driver)); left["mounts"]+left["files"]+left["processes"] > 0 {
				t.Errorf("left: %v, want nothing", left)
			}
			if err := Release(Options{StateDir: filepath.Join(r.Dir, "state")}); err != nil {
				t.Error(err)
			}
		})
	}
}
