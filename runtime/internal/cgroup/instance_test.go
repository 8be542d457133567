package cgroup

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// layouts are trees of plain directories: the kernel removes the same ones of them, and has
// the same locks. A file stands for a process that is in a group.
func layouts(t *testing.T) map[string]Tree {
	first, second := t.TempDir(), t.TempDir()
	return map[string]Tree{
		"version 1": {Hierarchies: []Hierarchy{{first, []string{"cpu"}}, {second, []string{"memory"}}}},
		"version 2": {Unified: true, Hierarchies: []Hierarchy{{Mount: t.TempDir(), Controllers: []string{"cpu", "memory"}}}},
	}
}

// fill makes groups, and files in those that end in "/1", in every hierarchy.
func fill(t *testing.T, tree Tree, groups ...string) {
	t.Helper()
	for _, h := range tree.Hierarchies {
		for _, group := range groups {
			path := filepath.Join(h.Mount, group)
			if filepath.Base(path) != "1" {
				path = filepath.Join(path, "none")
			}
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if filepath.Base(path) == "1" {
				if err := os.WriteFile(path, nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
}

// left returns the groups of every hierarchy, which have to have the same.
func left(t *testing.T, tree Tree) []string {
	t.Helper()
	var all [][]string
	for _, h := range tree.Hierarchies {
		var groups []string
		err := filepath.WalkDir(h.Mount, func(path string, entry fs.DirEntry, err error) error {
			if name, _ := filepath.Rel(h.Mount, path); err == nil && entry.IsDir() && name != "." {
				groups = append(groups, name)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, groups)
	}
	for _, groups := range all[1:] {
		if !slices.Equal(groups, all[0]) {
			t.Errorf("hierarchies differ: %v", all)
		}
	}
	return all[0]
}

func TestADaemonThatLeavesTakesItsEmptyGroupsAlong(t *testing.T) {
	for name, test := range map[string]struct{ groups, want []string }{
		"the only daemon":         {[]string{"cove/mine/runc", "cove/mine/gvisor"}, nil},
		"one that made no groups": {nil, nil},
		"what a sandbox left":     {[]string{"cove/mine/runc/box/below"}, nil},
		"beside another daemon":   {[]string{"cove/mine/runc", "cove/other/runc"}, []string{"cove", "cove/other", "cove/other/runc"}},
		"with a sandbox that stays": {
			[]string{"cove/mine/runc/box/1", "cove/mine/runc/gone", "cove/mine/gvisor"},
			[]string{"cove", "cove/mine", "cove/mine/runc", "cove/mine/runc/box"},
		},
	} {
		for layout, tree := range layouts(t) {
			t.Run(name+", "+layout, func(t *testing.T) {
				fill(t, tree, test.groups...)
				if err := tree.release("mine"); err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(test.want, left(t, tree)); diff != "" {
					t.Error(diff)
				}
			})
		}
	}
}

func TestOnlyTheNameOfAnInstanceIsReleased(t *testing.T) {
	for _, name := range []string{"", ".", "..", "../other", "a/b"} {
		tree := layouts(t)["version 2"]
		fill(t, tree, "other")
		if err := tree.release(name); err == nil || !slices.Equal(left(t, tree), []string{"other"}) {
			t.Errorf("%q: %v, and %v are left, want an error and all", name, err, left(t, tree))
		}
	}
}

func TestGroupsOfKilledDaemonsAreSweptAndNoOthers(t *testing.T) {
	for layout, tree := range layouts(t) {
		t.Run(layout, func(t *testing.T) {
			fill(t, tree, "cove/killed/runc", "cove/survived/runc/box/1", "cove/survived/gvisor", "cove/alive/runc")
			// A killed daemon's sandbox may have had a group in some hierarchies alone.
			if err := os.MkdirAll(filepath.Join(tree.Hierarchies[len(tree.Hierarchies)-1].Mount, "cove/partly/gvisor"), 0o755); err != nil {
				t.Fatal(err)
			}
			var alive Hold
			at := tree
			at.Prefix = Prefix("alive", "runc")
			alive.Take(at)
			if err := tree.sweep(); err != nil {
				t.Fatal(err)
			}
			want := []string{"cove", "cove/alive", "cove/alive/runc", "cove/survived", "cove/survived/runc", "cove/survived/runc/box"}
			if diff := cmp.Diff(want, left(t, tree)); diff != "" {
				t.Error(diff)
			}
			alive.lock.Close() // as its death does
			if err := tree.sweep(); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]string{"cove", "cove/survived", "cove/survived/runc", "cove/survived/runc/box"}, left(t, tree)); diff != "" {
				t.Errorf("after its death: %s", diff)
			}
		})
	}
}

func TestWhatIsHeldIsHeldAgainWhereItWasRemoved(t *testing.T) {
	for layout, tree := range layouts(t) {
		t.Run(layout, func(t *testing.T) {
			tree.Prefix = Prefix("mine", "runc")
			var hold Hold
			for range 3 {
				hold.Take(tree)
				if err := tree.sweep(); err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff([]string{"cove", "cove/mine"}, left(t, tree)); diff != "" {
					t.Error(diff)
				}
				if err := tree.release("mine"); err != nil {
					t.Fatal(err)
				}
				if got := left(t, tree); len(got) > 0 {
					t.Errorf("%v are left, want nothing", got)
				}
			}
		})
	}
}

// TestNobodyLosesItsGroupToASweep has drivers make groups while others sweep.
func TestNobodyLosesItsGroupToASweep(t *testing.T) {
	tree := layouts(t)["version 1"]
	stop, swept := make(chan struct{}), make(chan error, 1)
	go func() {
		for {
			select {
			case <-stop:
				swept <- nil
				return
			default:
				if err := tree.sweep(); err != nil {
					swept <- err
					return
				}
			}
		}
	}()
	for range 300 {
		var hold Hold
		at := tree
		at.Prefix = Prefix("mine", "runc")
		hold.Take(at)
		if hold.lock == nil {
			t.Fatal("the instance is not held")
		}
		for _, h := range tree.Hierarchies {
			for range 3 { // as one that makes every group of a path by itself
				if err := os.Mkdir(filepath.Join(h.Mount, "cove/mine/box"), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.Remove(filepath.Join(h.Mount, "cove/mine/box")); err != nil {
					t.Fatal(err)
				}
			}
		}
		hold.lock.Close()
	}
	close(stop)
	if err := <-swept; err != nil {
		t.Error(err)
	}
}
