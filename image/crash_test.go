package image

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/covehq/cove"
)

// TestPullOfAnotherProcess is the body of the processes that the test below kills; by
// itself it does nothing.
func TestPullOfAnotherProcess(t *testing.T) {
	dir, ref := os.Getenv("TEST_STORE"), os.Getenv("TEST_IMAGE")
	if dir == "" {
		return
	}
	store, err := OpenWith(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.Pull(context.Background(), PullRequest{Reference: ref}, nil); err != nil {
		t.Fatal(err)
	}
	if err := store.Remove(context.Background(), ref, unused); err != nil {
		t.Fatal(err)
	}
}

func TestT87PullIsKilledAtAnyMoment(t *testing.T) {
	var entries []entry
	for i := range 300 {
		entries = append(entries, file(fmt.Sprintf("d%d/f%d", i%7, i), strings.Repeat("x", 5000)))
	}
	image := assembled(gzipped, nil, layerOf(entries...), layerOf(file("f", "whole"), file("d1/.wh..wh..opq", "")))
	var requests, killAt atomic.Int64
	var child atomic.Pointer[os.Process]
	w := newWorld(t, func(http.ResponseWriter, *http.Request) bool {
		if p := child.Load(); p != nil && requests.Add(1) == killAt.Load() {
			_ = p.Kill()
		}
		return false
	})
	ref := w.push("app", image)
	dir := filepath.Join(t.TempDir(), "images")
	// At a request of its, and then some time after its last one: while it unpacks, while
	// it enters the image into the index, and while it removes it.
	for round := range 16 {
		requests.Store(0)
		killAt.Store(int64(round + 1))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestPullOfAnotherProcess$")
		cmd.Env = append(os.Environ(), "TEST_STORE="+dir, "TEST_IMAGE="+ref, "DOCKER_CONFIG="+t.TempDir())
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		child.Store(cmd.Process)
		if round >= 6 { // more than the requests that there are
			timer := time.AfterFunc(time.Duration(round-5)*25*time.Millisecond, func() { _ = cmd.Process.Kill() })
			defer timer.Stop()
		}
		_ = cmd.Wait() // killed, or faster than that
		cancel()
		child.Store(nil)

		store, err := OpenWith(dir, Options{})
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		for _, left := range census(t, store) {
			if strings.HasPrefix(left, trashPrefix) || strings.HasSuffix(left, partial) && !strings.HasPrefix(left, "blobs/") {
				t.Errorf("round %d: %s is left", round, left)
			}
		}
		root := pulled(t, store, ref)
		if got := read(t, root, "f") + fmt.Sprint(len(listing(t, root.Dir))); got != "whole265" {
			t.Errorf("round %d: got %s, want the whole image", round, got)
		}
		if round%2 == 0 {
			if _, err := store.Prune(t.Context(), unused); err != nil || len(census(t, store)) != 0 {
				t.Errorf("round %d: left %v, %v", round, census(t, store), err)
			}
		} else if err := store.Remove(t.Context(), ref, unused); err != nil && cove.CodeOf(err) != cove.NotFound {
			t.Errorf("round %d: %v", round, err)
		}
	}
}
