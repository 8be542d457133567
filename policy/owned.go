package policy

import (
	"slices"
	"strings"

	"github.com/covehq/cove"
)

// CheckOwned returns what the policy forbids beside Check where callers share a host and
// must not see each other's: an image that is read on the host, and a volume, which has
// nobody's name on it. Either needs a list that has it.
func (p *Policy) CheckOwned(spec *cove.Spec) []Violation {
	if p == nil {
		p = new(Policy)
	}
	v := new(violations)
	scheme, _, found := strings.Cut(spec.Image, ":")
	if found && slices.Contains(schemes, scheme) && p.Images == nil {
		v.unlisted("image", spec.Image)
	}
	for _, mount := range spec.Mounts {
		if mount.Type == cove.MountVolume && p.Volumes == nil {
			v.unlisted("volume", mount.Source)
		}
	}
	return *v
}
