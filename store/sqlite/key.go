package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/covehq/cove"
	"github.com/covehq/cove/store"
)

var _ store.Keys = (*Store)(nil)

// PutKey implements store.Keys.
func (s *Store) PutKey(ctx context.Context, k store.HashedKey) error {
	var expires time.Time
	if k.ExpiresAt != nil {
		expires = *k.ExpiresAt
	}
	_, err := s.db.ExecContext(ctx,
		`INSERT INTO keys (id, name, owner, scope, hash, created_at, expires_at) VALUES (?, ?, ?, ?, ?, ?, ?)`,
		k.ID, k.Name, k.Owner, k.Scope, k.Hash, k.CreatedAt.UnixMicro(), micros(expires))
	var failure *sqlite.Error
	if errors.As(err, &failure) && failure.Code()&0xff == sqlite3.SQLITE_CONSTRAINT {
		return cove.Errorf(cove.Conflict, "put key", k.Name, "there is a key of this name", "choose another name, or remove that key")
	}
	return cove.Wrap(classify(err), "put key", k.Name)
}

// DeleteKey implements store.Keys.
func (s *Store) DeleteKey(ctx context.Context, id string) error {
	_, err := s.db.ExecContext(ctx, `DELETE FROM keys WHERE id = ?`, id)
	return cove.Wrap(classify(err), "delete key", id)
}

// Keys implements store.Keys.
func (s *Store) Keys(ctx context.Context) ([]store.HashedKey, error) {
	keys, err := s.keys(ctx)
	return keys, cove.Wrap(classify(err), "list keys", "")
}

func (s *Store) keys(ctx context.Context) ([]store.HashedKey, error) {
	rows, err := s.db.QueryContext(ctx, `SELECT id, name, owner, scope, hash, created_at, expires_at FROM keys ORDER BY name`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var keys []store.HashedKey
	for rows.Next() {
		var (
			k       store.HashedKey
			created int64
			expires sql.NullInt64
		)
		if err := rows.Scan(&k.ID, &k.Name, &k.Owner, &k.Scope, &k.Hash, &created, &expires); err != nil {
			return nil, err
		}
		k.CreatedAt = time.UnixMicro(created).UTC()
		if expires.Valid {
			at := instant(expires)
			k.ExpiresAt = &at
		}
		keys = append(keys, k)
	}
	return keys, rows.Err()
}
