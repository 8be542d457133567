package store

import (
	"context"

	"github.com/covehq/cove"
)

// SealedSecret is a secret as it is written down: with a value that only the holder of
// the key can read.
type SealedSecret struct {
	cove.Secret
	Sealed []byte
}

// Secrets keeps sealed secrets. Each owner has names of its own; the owner "" is everybody.
// Its methods may be called concurrently. When one of those that write has returned without
// error, a killed process loses nothing of it.
type Secrets interface {
	// PutSecret writes a secret, in place of an earlier one with its owner and name. It
	// returns an error that is cove.NoSpace where the disk is full.
	PutSecret(ctx context.Context, s SealedSecret) error

	// DeleteSecret removes the secret of this owner and name. It succeeds when there is none.
	DeleteSecret(ctx context.Context, owner, name string) error

	// Secret returns the secret of this owner and name. The error is cove.NotFound where
	// there is none.
	Secret(ctx context.Context, owner, name string) (SealedSecret, error)

	// Secrets returns all of them without what is sealed, by name and then by owner.
	Secrets(ctx context.Context) ([]cove.Secret, error)
}
