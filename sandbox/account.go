package sandbox

import (
	"path"
	"slices"
	"strings"

	"github.com/covehq/cove"
)

// ownAccounts reports whether the account files are the sandbox's own to complete: not on the
// host's system, which names everybody, on a read-only root, or where something of the caller's
// is mounted.
func ownAccounts(spec *cove.Spec) bool {
	mounted := slices.ContainsFunc(spec.Mounts, func(m cove.Mount) bool {
		target := path.Clean(m.Target)
		return target == "/" || target == "/etc" || strings.HasPrefix(target, "/etc/")
	})
	return !mounted && !spec.ReadOnly && slices.Contains(spec.Features(), cove.FeatureOCI)
}
