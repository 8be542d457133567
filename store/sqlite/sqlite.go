// Package sqlite provides store.Store in one SQLite file of a state directory.
package sqlite

import (
	"context"

	"github.com/covehq/cove"
	"github.com/covehq/cove/store"
)

// Open opens the store in dir, making both where they are missing, and locks dir: a
// second Open fails with an error that is cove.Conflict.
func Open(ctx context.Context, dir string) (store.Store, error) { return nil, cove.NotSupported }
