package driver

import (
	"regexp"
	"slices"

	"github.com/covehq/cove"
)

var idPattern = regexp.MustCompile(`^[a-z0-9]{1,40}$`)

// ValidID reports whether id can be a sandbox's. Drivers make names of ids: of directories,
// of cgroups, of containers. In none of those does such a text lead anywhere else.
func ValidID(id string) bool { return idPattern.MatchString(id) }

// CheckID returns nil for what can be a sandbox's id, and else an error that is cove.Invalid.
// op is what was to be done: "create", "remove".
func CheckID(op, id string) error {
	if !ValidID(id) {
		return cove.Errorf(cove.Invalid, op, id, "not a sandbox id", "")
	}
	return nil
}

// IDs returns the ids among names, sorted, each once. It is for a List that gathers the names
// of all that a driver makes, among which others may have put theirs. It makes use of names.
func IDs(names []string) []string {
	names = slices.DeleteFunc(names, func(name string) bool { return !ValidID(name) })
	slices.Sort(names)
	return slices.Compact(names)
}
