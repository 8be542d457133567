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

var _ store.Secrets = (*Store)(nil)

// PutSecret implements store.Secrets.
func (s *Store) PutSecret(ctx context.Context, secret store.SealedSecret) error {
	hosts, err := json.Marshal(secret.Hosts)
	if err != nil {
		return cove.Wrap(err, "put secret", secret.Name)
	}
	places, err := json.Marshal(secret.In)
	if err != nil {
		return cove.Wrap(err, "put secret", secret.Name)
	}
	_, err = s.db.ExecContext(ctx,
		`INSERT OR REPLACE INTO secrets (name, hosts, places, sealed, created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?)`,
		secret.Name, string(hosts), string(places), secret.Sealed, secret.CreatedAt.UnixMicro(), secret.UpdatedAt.UnixMicro())
	return cove.Wrap(classify(err), "put secret", secret.Name)
}

// DeleteSecret implements store.Secrets.
func (s *Store) DeleteSecret(ctx context.Context, name string) error {
	_, err := s.db.ExecContext(ctx, `DELETE FROM secrets WHERE name = ?`, name)
	return cove.Wrap(classify(err), "delete secret", name)
}

// Secrets implements store.Secrets.
func (s *Store) Secrets(ctx context.Context) ([]store.SealedSecret, error) {
	secrets, err := s.secrets(ctx)
	return secrets, cove.Wrap(classify(err), "list secrets", "")
}

func (s *Store) secrets(ctx context.Context) ([]store.SealedSecret, error) {
	rows, err := s.db.QueryContext(ctx,
		`SELECT name, hosts, places, sealed, created_at, updated_at FROM secrets ORDER BY name`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var secrets []store.SealedSecret
	for rows.Next() {
		secret, err := scanSecret(rows)
		if err != nil {
			return nil, err
		}
		secrets = append(secrets, secret)
	}
	return secrets, rows.Err()
}

func scanSecret(rows *sql.Rows) (store.SealedSecret, error) {
	var (
		secret           store.SealedSecret
		hosts, places    []byte
		created, updated int64
	)
	if err := rows.Scan(&secret.Name, &hosts, &places, &secret.Sealed, &created, &updated); err != nil {
		return secret, err
	}
	if err := json.Unmarshal(hosts, &secret.Hosts); err != nil {
		return secret, fmt.Errorf("hosts of %s: %w", secret.Name, err)
	}
	if err := json.Unmarshal(places, &secret.In); err != nil {
		return secret, fmt.Errorf("places of %s: %w", secret.Name, err)
	}
	secret.CreatedAt, secret.UpdatedAt = time.UnixMicro(created).UTC(), time.UnixMicro(updated).UTC()
	return secret, nil
}
