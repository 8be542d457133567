package image

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/covehq/cove"
)

func unused(string) bool { return false }

// census lists what a store has on the disk, but for locks and what every store has.
func census(t *testing.T, store *Store) []string {
	t.Helper()
	var found []string
	for _, pattern := range []string{"image-*", "trash-*", "blobs/*", "images/*", "tags/*"} {
		matches, err := filepath.Glob(filepath.Join(store.dir, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, match := range matches {
			name, _ := filepath.Rel(store.dir, match)
			found = append(found, name)
		}
	}
	return found
}

func TestImageGoesWithItsLastName(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t, nil)
	image := assembled(gzipped, nil, layerOf(file("f", "x")))
	one, two := w.push("one", image), w.push("two", image)
	store := newStore(t, Options{})
	root := pulled(t, store, one)
	if other := pulled(t, store, two); other.Dir != root.Dir {
		t.Errorf("got %s and %s, want one tree", root.Dir, other.Dir)
	}
	inUse := func(digest string) bool { return digest == root.Digest }
	if err := store.Remove(ctx, one, inUse); err != nil {
		t.Errorf("one of two names: %v", err)
	}
	if err := store.Remove(ctx, two, inUse); !errors.Is(err, cove.Conflict) {
		t.Errorf("the last name of an image that is used: got %v, want a conflict", err)
	}
	if err := store.Remove(ctx, root.Digest, inUse); !errors.Is(err, cove.Conflict) {
		t.Errorf("by its digest: got %v, want a conflict", err)
	}
	if got := read(t, root, "f"); got != "x" {
		t.Errorf("after that: got %q", got)
	}
	if err := store.Remove(ctx, two, unused); err != nil {
		t.Error(err)
	}
	if _, err := store.Resolve(ctx, two); !errors.Is(err, cove.NotFound) {
		t.Errorf("after its end: got %v, want not found", err)
	}
	if err := store.Remove(ctx, two, unused); !errors.Is(err, cove.NotFound) {
		t.Errorf("twice: got %v, want not found", err)
	}
	if _, err := os.Lstat(root.Dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its tree: %v", err)
	}
}

func TestPruneRemovesWhatIsNotUsed(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t, nil)
	store := newStore(t, Options{})
	shared := layerOf(file("base", "b"))
	keep := pulled(t, store, w.push("keep", assembled(gzipped, nil, shared, layerOf(file("f", "keep")))))
	pulled(t, store, w.push("drop", assembled(gzipped, nil, shared, layerOf(file("f", "drop")))))
	moved := w.push("moved", assembled(gzipped, nil, layerOf(file("f", "old"))))
	old := pulled(t, store, moved)
	w.push("moved", assembled(gzipped, nil, layerOf(file("f", "new"))))
	if _, err := store.Pull(ctx, PullRequest{Reference: moved, Policy: cove.PullAlways}, nil); err != nil {
		t.Fatal(err)
	}
	list, err := store.List(ctx)
	if err != nil || len(list) != 4 || list[3].Reference != old.Digest {
		t.Errorf("list: got %+v, %v, want three names and the digest of one that lost its name", list, err)
	}
	pruned, err := store.Prune(ctx, func(digest string) bool { return digest == keep.Digest })
	if err != nil || len(pruned) != 3 {
		t.Errorf("got %v, %v, want three images", pruned, err)
	}
	if got := read(t, keep, "f") + read(t, keep, "base"); got != "keepb" {
		t.Errorf("the image that is used: got %q", got)
	}
	left := strings.Join(census(t, store), " ")
	if strings.Count(left, "blobs/") != 3 || strings.Count(left, "images/") != 1 || strings.Count(left, "tags/") != 1 || strings.Contains(left, "trash") {
		t.Errorf("left: %s", left)
	}
	if _, err := store.Prune(ctx, unused); err != nil || len(census(t, store)) != 0 {
		t.Errorf("at last: %v, %v", census(t, store), err)
	}
}

func TestT87OpenClearsWhatACrashHasLeft(t *testing.T) {
	w := newWorld(t, nil)
	store := newStore(t, Options{})
	ref := w.push("app", assembled(gzipped, nil, layerOf(file("f", "x"))))
	pulled(t, store, ref)
	whole := census(t, store)
	long := strings.Repeat("a", 64)
	old := time.Now().Add(-2 * blobLife)
	for name, age := range map[string]time.Time{
		"image-1-" + long + "/etc/f": old, "image-1-" + long + ".partial/f": old, "trash-abc/d/f": old,
		"blobs/" + long: old, "blobs/" + long + ".partial": old, "images/" + long + ".json.partial": old, "tags/" + long + ".json.partial": old,
	} {
		path := filepath.Join(store.dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, nil, 0o600), os.Chtimes(path, age, age)); err != nil {
			t.Fatal(err)
		}
	}
	young := "blobs/" + strings.Repeat("b", 64) + ".partial" // the next pull goes on with it
	if err := os.WriteFile(filepath.Join(store.dir, young), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	again, err := OpenWith(store.dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Replace(strings.Join(census(t, again), " "), young+" ", "", 1)
	want := strings.Join(whole, " ")
	if len(strings.Fields(got)) != len(strings.Fields(want)) {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if _, err := again.Pull(context.Background(), PullRequest{Reference: ref, Policy: cove.PullNever}, nil); err != nil {
		t.Error(err)
	}
}

func TestOpenLeavesAloneWhatAnotherProcessPulls(t *testing.T) {
	image := assembled(plain, nil, layerOf(file("f", "x")), layerOf(file("g", "y")))
	var store *Store
	w := newWorld(t, func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, image.layers[1]) {
			if _, err := OpenWith(store.dir, Options{}); err != nil {
				t.Error(err)
			}
		}
		return false
	})
	store = newStore(t, Options{})
	if got := read(t, pulled(t, store, w.push("app", image)), "f"); got != "x" {
		t.Errorf("got %q", got)
	}
}

func TestFullDiskIsNoSpaceAndLeavesNothingHalf(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("a small file system needs root")
	}
	dir := t.TempDir()
	if err := unix.Mount("test", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("a small file system: %v", err)
	}
	defer func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	}()
	w := newWorld(t, nil)
	for name, image := range map[string]*built{
		"while it is fetched":  assembled(plain, nil, layerOf(file("f", strings.Repeat("x", 2<<20)))),
		"while it is unpacked": assembled(gzipped, nil, layerOf(file("f", strings.Repeat("x", 2<<20)))),
	} {
		t.Run(name, func(t *testing.T) {
			store, err := OpenWith(filepath.Join(dir, "images"), Options{})
			if err != nil {
				t.Fatal(err)
			}
			_, err = store.Pull(context.Background(), PullRequest{Reference: w.push("app", image)}, nil)
			if !errors.Is(err, cove.NoSpace) || cove.HintOf(err) == "" {
				t.Errorf("got %v, want no space", err)
			}
			if _, err := store.Prune(context.Background(), unused); err != nil || len(census(t, store)) != 0 {
				t.Errorf("left: %v, %v", census(t, store), err)
			}
		})
	}
}

func TestHammerOfPullsRemovalsAndLooks(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t, nil)
	store := newStore(t, Options{})
	var refs []string
	for _, name := range []string{"app", "base", "cache"} {
		refs = append(refs, w.push(name, assembled(gzipped, nil, layerOf(file("base", "b")), layerOf(file("f", name)))))
	}
	var wait sync.WaitGroup
	for i := range 12 {
		wait.Go(func() {
			ref := refs[i%len(refs)]
			for range 10 {
				var err error
				switch i % 4 {
				case 0, 1:
					_, err = store.Pull(ctx, PullRequest{Reference: ref}, nil)
				case 2:
					err = store.Remove(ctx, ref, unused)
				default:
					_, err = store.Prune(ctx, unused)
				}
				if err != nil && !errors.Is(err, cove.NotFound) {
					t.Error(err)
				}
				if root, err := store.Resolve(ctx, ref); err != nil && !errors.Is(err, cove.NotFound) {
					t.Error(err)
				} else if err == nil && root.Dir == "" {
					t.Error("an image without a tree")
				}
			}
		})
	}
	wait.Wait()
	if _, err := store.Prune(ctx, unused); err != nil || len(census(t, store)) != 0 {
		t.Errorf("left: %v, %v", census(t, store), err)
	}
}
