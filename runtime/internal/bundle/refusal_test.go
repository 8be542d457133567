package bundle

import (
	"errors"
	"testing"

	"github.com/covehq/cove"
)

func TestARefusalIsTheImagesWhereItsAccountsAre(t *testing.T) {
	for text, want := range map[string]cove.Code{
		"runc run failed: unable to setup user: unable to find user 0: bufio.Scanner: token too long": cove.Invalid,
		"unable to find group 0: no matching entries in group file":                                   cove.Invalid,
		"unable to start container process: exec: no such file or directory":                          cove.Internal,
	} {
		if got := cove.CodeOf(Refusal(errors.New(text))); got != want {
			t.Errorf("%s: got %v, want %v", text, got, want)
		}
	}
}
