package sandbox

import (
	"cmp"
	"context"

	"github.com/covehq/cove"
	"github.com/covehq/cove/policy"
)

// Caller is on whose behalf a call is made. What it makes is its owner's; it finds what
// is its owner's, and does not learn what else there is.
type Caller struct {
	Owner string
	All   bool // it finds what is anybody's
}

type callerKey struct{}

// As returns a context for calls on behalf of a caller. Calls with a context that is not
// made so see everything, and what they make is nobody's.
func As(ctx context.Context, c Caller) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}

// CallerOf returns on whose behalf calls with ctx are made.
func CallerOf(ctx context.Context) Caller {
	if c, ok := ctx.Value(callerKey{}).(Caller); ok {
		return c
	}
	return Caller{All: true}
}

// Sees reports whether the caller may know of what is an owner's.
func (c Caller) Sees(owner string) bool { return c.All || c.Owner == owner }

// owned is a name, or an idempotency key, that each owner can have for itself.
type owned struct{ owner, name string }

// named returns the sandbox that a caller means by a name: its owner's own, else the only
// one there is among those that it sees. The caller of named holds mu.
func (h *Host) named(c Caller, name string) (*Sandbox, error) {
	if s := h.names[owned{c.Owner, name}]; s != nil || !c.All {
		return s, nil
	}
	var found *Sandbox
	for at, s := range h.names {
		switch {
		case at.name != name:
		case found == nil || found.snapshot().Ended():
			found = s
		case !s.snapshot().Ended():
			return nil, cove.Errorf(cove.Conflict, "find sandbox", name, "several owners have a sandbox of this name", "name it by its id")
		}
	}
	return found, nil
}

// forbidOwned notes what the operator's policy does not allow a caller who sees only its
// own: what all of them would share, and what is read on the host.
func (h *Host) forbidOwned(ctx context.Context, p *problems, spec *cove.Spec) {
	if CallerOf(ctx).All {
		return
	}
	h.forbid(p, func(operator *policy.Policy) []policy.Violation { return operator.CheckOwned(spec) })
}

// byAge orders sandboxes, the oldest first.
func byAge(a, b cove.Sandbox) int {
	return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), cmp.Compare(a.ID, b.ID))
}
