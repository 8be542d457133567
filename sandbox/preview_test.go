package sandbox

import (
	"errors"
	"path/filepath"
	"testing"

	"github.com/covehq/cove"
	"github.com/covehq/cove/store"
)

func TestT72RevokedPreviewsStayRevoked(t *testing.T) {
	dir, w := filepath.Join(t.TempDir(), "state"), newWorld()
	first := openRig(t, w, dir, Options{})
	s := first.create(cove.Spec{})
	want := func(s *Sandbox, port int, epoch uint64) {
		t.Helper()
		if got, err := s.PreviewEpoch(port); err != nil || got != epoch {
			t.Errorf("the epoch of port %d is %d, %v, want %d", port, got, err, epoch)
		}
	}
	want(s, 80, 0)
	for range 2 {
		if err := s.RevokePreviews(t.Context(), 80); err != nil {
			t.Fatal(err)
		}
	}
	want(s, 80, 2)
	want(s, 81, 0)
	for _, port := range []int{0, -1, 65536} {
		wantError(t, s.RevokePreviews(t.Context(), port), cove.Invalid)
	}
	full := errors.New("disk full")
	first.store.fail(func(store.Record) error { return full }, nil)
	if err := s.RevokePreviews(t.Context(), 80); !errors.Is(err, full) {
		t.Errorf("a revocation that can't be written down: %v", err)
	}
	want(s, 80, 2)
	first.store.fail(nil, nil)
	first.shut()

	second := openRig(t, w, dir, Options{})
	again, err := second.Sandbox(t.Context(), s.ID())
	if err != nil {
		t.Fatal(err)
	}
	want(again, 80, 2)
	if err := again.Destroy(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, err = again.PreviewEpoch(80)
	wantError(t, err, cove.Gone)
	wantError(t, again.RevokePreviews(t.Context(), 80), cove.Gone)
}
