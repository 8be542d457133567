// Package store provides the contract for what the host writes down about sandboxes, so
// that a daemon that comes back finds what an earlier one made.
package store

import "context"

// Store keeps the records of one host. Its methods may be called concurrently. When Put
// or Delete has returned without error, a killed process loses nothing of it.
type Store interface {
	// Put writes a record, in place of an earlier one with its ID. It returns an error
	// that is cove.NoSpace where the disk is full.
	Put(ctx context.Context, r Record) error

	// Delete removes the record with this id. It succeeds when there is none.
	Delete(ctx context.Context, id string) error

	// List returns all records, oldest sandbox first.
	List(ctx context.Context) ([]Record, error)

	// Close releases the store for another process.
	Close() error
}
