package bundle

import (
	"strings"

	"github.com/covehq/cove"
)

// Refusal returns why a runtime did not start a sandbox where its image is to blame, else err.
// runc and engines read the accounts of an image, whatever user they are told, and say of those
// that they can't read that they lack the user.
func Refusal(err error) error {
	if !strings.Contains(err.Error(), "unable to find user") && !strings.Contains(err.Error(), "unable to find group") {
		return err
	}
	return cove.Errorf(cove.Invalid, "create", "", "the image's /etc/passwd or /etc/group can't be read by the runtime",
		"mend the image: both are files, with short lines; or use runtime gvisor, which does not read them")
}
