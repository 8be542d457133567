package store

import (
	"maps"
	"slices"
	"time"

	"github.com/covehq/cove"
)

// Record is what is written down about one sandbox. Neither a store nor its callers
// modify the maps and slices in one that has been handed over.
type Record struct {
	ID        string
	Owner     string    // of the key that it was created with; "": none
	Spec      cove.Spec // complete, as it is after the updates so far
	Asked     cove.Spec // complete, as it was asked for
	State     cove.State
	Reason    cove.Reason
	Message   string
	Isolation cove.Isolation
	Controls  map[cove.Control]cove.Enforcement
	Acquired  cove.Acquired

	// Image is the digest of the image that it was made of, or "" for one without.
	Image string

	// Handle is what the driver finds the sandbox by. It is nil before the driver has
	// made one, and again when nothing of the sandbox is left on the host.
	Handle []byte

	// Previews counts, by port, how often what was given out to see it was revoked.
	Previews map[int]uint64

	CreatedAt time.Time
	ExpiresAt time.Time // zero: never
	EndedAt   time.Time // zero: it lives

	IdempotencyKey string // of the request that created it, or ""
	Fingerprint    string // of the spec in that request, to tell a repetition from another
}

// Ended reports whether the sandbox has reached its last state.
func (r Record) Ended() bool {
	return r.State == cove.StateStopped || r.State == cove.StateFailed
}

// View returns the sandbox as the API shows it. It shares nothing with the record.
func (r Record) View() cove.Sandbox {
	view := cove.Sandbox{
		ID:        r.ID,
		Name:      r.Spec.Name,
		Owner:     r.Owner,
		State:     r.State,
		Reason:    r.Reason,
		Message:   r.Message,
		Runtime:   r.Spec.Runtime,
		Isolation: r.Isolation,
		Controls:  maps.Clone(r.Controls),
		Acquired:  r.Acquired,
		CreatedAt: r.CreatedAt,
		Spec:      r.Spec,
	}
	view.Spec.Env, view.Spec.Labels = maps.Clone(r.Spec.Env), maps.Clone(r.Spec.Labels)
	view.Spec.Mounts, view.Spec.Ports = slices.Clone(r.Spec.Mounts), slices.Clone(r.Spec.Ports)
	if !r.ExpiresAt.IsZero() {
		expires := r.ExpiresAt.Truncate(time.Microsecond) // and without the monotonic clock
		view.ExpiresAt = &expires
	}
	return view
}
