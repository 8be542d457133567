package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/store"
)

const columns = `id, name, state, reason, message, runtime, isolation, acquired, spec, controls, handle,
	created_at, expires_at, ended_at, idempotency_key, fingerprint, image, asked, previews, owner`

const putSQL = `INSERT OR REPLACE INTO sandboxes (` + columns + `)
	VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`

// Put implements store.Store.
func (s *Store) Put(ctx context.Context, r store.Record) error {
	spec, err := json.Marshal(r.Spec)
	if err != nil {
		return cove.Wrap(err, "put record", r.ID)
	}
	asked, err := json.Marshal(r.Asked)
	if err != nil {
		return cove.Wrap(err, "put record", r.ID)
	}
	controls, err := json.Marshal(r.Controls)
	if err != nil {
		return cove.Wrap(err, "put record", r.ID)
	}
	previews, err := json.Marshal(r.Previews)
	if err != nil {
		return cove.Wrap(err, "put record", r.ID)
	}
	_, err = s.put.ExecContext(ctx,
		r.ID, r.Spec.Name, r.State, r.Reason, r.Message, r.Spec.Runtime, r.Isolation, r.Acquired,
		string(spec), string(controls), r.Handle,
		r.CreatedAt.UnixMicro(), micros(r.ExpiresAt), micros(r.EndedAt), r.IdempotencyKey, r.Fingerprint, r.Image, string(asked), string(previews), r.Owner)
	return cove.Wrap(classify(err), "put record", r.ID)
}

// Delete implements store.Store.
func (s *Store) Delete(ctx context.Context, id string) error {
	_, err := s.db.ExecContext(ctx, `DELETE FROM sandboxes WHERE id = ?`, id)
	return cove.Wrap(classify(err), "delete record", id)
}

// List implements store.Store.
func (s *Store) List(ctx context.Context) ([]store.Record, error) {
	records, err := s.list(ctx)
	return records, cove.Wrap(classify(err), "list records", "")
}

func (s *Store) list(ctx context.Context) ([]store.Record, error) {
	rows, err := s.db.QueryContext(ctx, `SELECT `+columns+` FROM sandboxes ORDER BY created_at, id`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var records []store.Record
	for rows.Next() {
		r, err := scan(rows)
		if err != nil {
			return nil, err
		}
		records = append(records, r)
	}
	return records, rows.Err()
}

// scan reads a row. Name and runtime are columns for people with an SQL shell; the spec
// has them too, and is what counts.
func scan(rows *sql.Rows) (store.Record, error) {
	var (
		r                store.Record
		name, runtime    string
		spec, asked      []byte
		controls         []byte
		previews         []byte
		created          int64
		expires, endedAt sql.NullInt64
	)
	err := rows.Scan(&r.ID, &name, &r.State, &r.Reason, &r.Message, &runtime, &r.Isolation, &r.Acquired,
		&spec, &controls, &r.Handle, &created, &expires, &endedAt, &r.IdempotencyKey, &r.Fingerprint, &r.Image, &asked, &previews, &r.Owner)
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(spec, &r.Spec); err != nil {
		return r, fmt.Errorf("spec of %s: %w", r.ID, err)
	}
	if err := json.Unmarshal(asked, &r.Asked); err != nil {
		return r, fmt.Errorf("asked spec of %s: %w", r.ID, err)
	}
	if err := json.Unmarshal(controls, &r.Controls); err != nil {
		return r, fmt.Errorf("controls of %s: %w", r.ID, err)
	}
	if err := json.Unmarshal(previews, &r.Previews); err != nil {
		return r, fmt.Errorf("previews of %s: %w", r.ID, err)
	}
	r.CreatedAt = time.UnixMicro(created).UTC()
	r.ExpiresAt, r.EndedAt = instant(expires), instant(endedAt)
	return r, nil
}

// micros writes a time, and the zero time as NULL.
func micros(t time.Time) sql.NullInt64 {
	return sql.NullInt64{Int64: t.UnixMicro(), Valid: !t.IsZero()}
}

// instant reads what micros wrote.
func instant(n sql.NullInt64) time.Time {
	if !n.Valid {
		return time.Time{}
	}
	return time.UnixMicro(n.Int64).UTC()
}
