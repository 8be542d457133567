package bundle

import "testing"

func TestOverlayOptionsCantBeInjected(t *testing.T) {
	if got, want := escapeOverlay(`/a,upperdir=/b:c\d`), `/a\,upperdir=/b\:c\\d`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
