package store

import (
	"context"

	"github.com/covehq/cove"
)

// HashedKey is a key as it is written down: without itself, by its hash.
type HashedKey struct {
	cove.Key
	Hash []byte
}

// Keys keeps hashed keys. Its methods may be called concurrently. When one of those that
// write has returned without error, a killed process loses nothing of it.
type Keys interface {
	// PutKey writes a new key. It returns an error that is cove.Conflict where its id or
	// name is taken, and cove.NoSpace where the disk is full.
	PutKey(ctx context.Context, k HashedKey) error

	// DeleteKey removes the key with this id. It succeeds when there is none.
	DeleteKey(ctx context.Context, id string) error

	// Keys returns all of them, by name.
	Keys(ctx context.Context) ([]HashedKey, error)
}
