package httpapi

import (
	"net/http"
	"testing"

	"github.com/covehq/cove"
)

// The statuses are part of the API: a change here breaks clients.
func TestStatusOfEveryCode(t *testing.T) {
	want := map[cove.Code]int{
		cove.Invalid: 400, cove.Unauthenticated: 401, cove.Forbidden: 403, cove.NotFound: 404,
		cove.Conflict: 409, cove.Gone: 410, cove.TooLarge: 413, cove.NotSupported: 422,
		cove.Exhausted: 429, cove.Internal: 500, cove.Unavailable: 503, cove.Timeout: 504, cove.NoSpace: 507,
	}
	if len(Codes()) != len(want) {
		t.Errorf("the table has %d codes, want %d", len(Codes()), len(want))
	}
	for _, code := range Codes() {
		if got := Status(code); got != want[code] {
			t.Errorf("Status(%s) = %d, want %d", code, got, want[code])
		}
		if got := CodeOf(Status(code)); got != code {
			t.Errorf("CodeOf(Status(%s)) = %s, want it back", code, got)
		}
	}
}

func TestCodeOfStatusesThatAreNotOurs(t *testing.T) {
	for status, want := range map[int]cove.Code{
		http.StatusMethodNotAllowed:            cove.Invalid,
		http.StatusUnsupportedMediaType:        cove.Invalid,
		http.StatusTeapot:                      cove.Invalid,
		http.StatusRequestTimeout:              cove.Timeout,
		http.StatusRequestHeaderFieldsTooLarge: cove.TooLarge,
		http.StatusBadGateway:                  cove.Unavailable,
		http.StatusNotImplemented:              cove.NotSupported,
		http.StatusLoopDetected:                cove.Internal,
	} {
		if got := CodeOf(status); got != want {
			t.Errorf("CodeOf(%d) = %s, want %s", status, got, want)
		}
	}
	if got := Status("no such code"); got != http.StatusInternalServerError {
		t.Errorf("Status of an unknown code = %d, want 500", got)
	}
}
