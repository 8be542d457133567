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

// Secrets keeps sealed secrets. Its methods may be called concurrently. When one of those
// that write has returned without error, a killed process loses nothing of it.
type Secrets interface {
	// PutSecret writes a secret, in place of an earlier one with its name. It returns an
	// error that is cove.NoSpace where the disk is full.
	PutSecret(ctx context.Context, s SealedSecret) error

	// DeleteSecret removes the secret of this name. It succeeds when there is none.
	DeleteSecret(ctx context.Context, name string) error

	// Secrets returns all of them, by name.
	Secrets(ctx context.Context) ([]SealedSecret, error)
}
