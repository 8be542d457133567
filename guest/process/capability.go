package process

import (
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/covehq/cove"
)

// SetCapabilities gives commands that start from now on the capabilities that a Spec adds, and
// takes those from root's that it drops; one that is in both stays. Of what is added, root's
// have what the agent has anyway; others get theirs by the ambient set. The error is
// cove.Invalid for a name that is none, and cove.NotSupported where this kernel has no
// ambient set and user is not root, or where the agent has not got what it is to give.
func (t *Table) SetCapabilities(add, drop []string, user int) error {
	have := held()
	given, err := numbers(add, have)
	if err != nil {
		return err
	}
	dropped, err := numbers(drop, have)
	if err != nil {
		return err
	}
	known := cove.Capabilities()
	for _, n := range given {
		if !slices.Contains(have, n) {
			return cove.Errorf(cove.NotSupported, "init", known[n], "the runtime did not give the agent this capability", "leave it out of cap_add")
		}
	}
	if len(given) > 0 && user != 0 && !hasAmbient() {
		return cove.Errorf(cove.NotSupported, "init", fmt.Sprint(add), "only root can have capabilities on this kernel", "set user to root as well")
	}
	if slices.Contains(add, cove.AllCapabilities) {
		given = slices.DeleteFunc(given, func(n uintptr) bool { return slices.Contains(dropped, n) })
	}
	// What the agent has not, no command can have.
	dropped = slices.DeleteFunc(dropped, func(n uintptr) bool { return slices.Contains(given, n) || !slices.Contains(have, n) })
	t.dropped.Store(&dropped)
	if !hasAmbient() {
		given = nil
	}
	t.ambient.Store(&given)
	return nil
}

// numbers returns the capabilities of these names by number, of which ALL is those of have.
func numbers(names []string, have []uintptr) ([]uintptr, error) {
	known := cove.Capabilities()
	var found []uintptr
	for _, text := range names {
		name, ok := cove.ParseCapability(text)
		switch {
		case !ok:
			return nil, cove.Errorf(cove.Invalid, "init", text, "there is no such capability", "use a name of capabilities(7)")
		case name == cove.AllCapabilities:
			return slices.Clone(have), nil
		default:
			found = append(found, uintptr(slices.Index(known, name)))
		}
	}
	return found, nil
}

// hasAmbient reports whether this kernel has ambient capabilities: Linux since 4.3, and not
// gVisor.
func hasAmbient() bool {
	_, err := unix.PrctlRetInt(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_IS_SET, unix.CAP_CHOWN, 0, 0)
	return err == nil
}

// held returns the capabilities that this process has, by number.
func held() []uintptr {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	if err := unix.Capget(&header, &sets[0]); err != nil {
		return nil
	}
	var numbers []uintptr
	for n := range len(cove.Capabilities()) {
		if sets[n/32].Permitted&(1<<(n%32)) != 0 {
			numbers = append(numbers, uintptr(n))
		}
	}
	return numbers
}

// given returns the ambient capabilities of a command of uid.
func (t *Table) given(uid int) []uintptr {
	numbers := t.ambient.Load()
	if numbers == nil || uid == 0 {
		return nil
	}
	return *numbers
}
