package cove

import "time"

// Scope is what a key lets its holder do. Each scope includes those before it.
type Scope string

// The scopes, from the least on.
const (
	// ScopeRead looks at its owner's sandboxes, their files and output included, and
	// changes nothing.
	ScopeRead Scope = "read"
	// ScopeRun makes sandboxes, and does everything with its owner's. It keeps secrets of
	// its owner's own.
	ScopeRun Scope = "run"
	// ScopeAdmin does everything with everybody's sandboxes, and with keys, everybody's
	// secrets and images.
	ScopeAdmin Scope = "admin"
)

// Includes reports whether who has s may do what needs other. A scope that is none
// includes nothing and is included nowhere.
func (s Scope) Includes(other Scope) bool {
	return s.rank() > 0 && other.rank() > 0 && s.rank() >= other.rank()
}

func (s Scope) rank() int {
	switch s {
	case ScopeRead:
		return 1
	case ScopeRun:
		return 2
	case ScopeAdmin:
		return 3
	}
	return 0
}

// Key lets programs call a daemon over the network. The key itself was shown once, when
// it was made.
type Key struct {
	ID        string     `json:"id" doc:"the part of the key that is no secret" example:"k5tqzmb2ahx4"`
	Name      string     `json:"name" example:"ci"`
	Owner     string     `json:"owner" doc:"whose sandboxes it sees and makes; several keys may have one owner" example:"ci"`
	Scope     Scope      `json:"scope" enum:"read,run,admin" doc:"read looks at its owner's sandboxes, run makes and uses them, admin does everything with everybody's"`
	CreatedAt time.Time  `json:"created_at"`
	ExpiresAt *time.Time `json:"expires_at,omitempty" doc:"absent: never"`
}

// KeyInput asks for a key.
type KeyInput struct {
	Name    string   `json:"name" doc:"unique; 1 to 63 letters, digits, ., _, @ and -, beginning with a letter or digit" example:"ci"`
	Owner   string   `json:"owner,omitempty" doc:"default the name"`
	Scope   Scope    `json:"scope,omitempty" enum:"read,run,admin" doc:"default run"`
	Expires Duration `json:"expires,omitempty" doc:"time until it is worthless, at least 1s; default never"`
}

// NewKey is a key with what is shown this once.
type NewKey struct {
	Key
	Secret string `json:"key" doc:"to be sent as Authorization: Bearer, or X-API-Key; it can't be shown again"`
}
