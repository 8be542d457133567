package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
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
		`INSERT OR REPLACE INTO secrets (owner, name, hosts, places, sealed, created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?, ?)`,
		secret.Owner, secret.Name, string(hosts), string(places), secret.Sealed, secret.CreatedAt.UnixMicro(), secret.UpdatedAt.UnixMicro())
	return cove.Wrap(classify(err), "put secret", secret.Name)
}

// DeleteSecret implements store.Secrets.
func (s *Store) DeleteSecret(ctx context.Context, owner, name string) error {
	_, err := s.db.ExecContext(ctx, `DELETE FROM secrets WHERE owner = ? AND name = ?`, owner, name)
	return cove.Wrap(classify(err), "delete secret", name)
}

// Secret implements store.Secrets.
func (s *Store) Secret(ctx context.Context, owner, name string) (store.SealedSecret, error) {
	var sealed store.SealedSecret
	row := s.db.QueryRowContext(ctx, `SELECT `+secretColumns+`, sealed FROM secrets WHERE owner = ? AND name = ?`, owner, name)
	secret, err := scanSecret(row.Scan, &sealed.Sealed)
	if errors.Is(err, sql.ErrNoRows) {
		return sealed, cove.Wrap(cove.NotFound, "find secret", name)
	}
	sealed.Secret = secret
	return sealed, cove.Wrap(classify(err), "find secret", name)
}

// Secrets implements store.Secrets.
func (s *Store) Secrets(ctx context.Context) ([]cove.Secret, error) {
	secrets, err := s.secrets(ctx)
	return secrets, cove.Wrap(classify(err), "list secrets", "")
}

func (s *Store) secrets(ctx context.Context) ([]cove.Secret, error) {
	rows, err := s.db.QueryContext(ctx, `SELECT `+secretColumns+` FROM secrets ORDER BY name, owner`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var secrets []cove.Secret
	for rows.Next() {
		secret, err := scanSecret(rows.Scan)
		if err != nil {
			return nil, err
		}
		secrets = append(secrets, secret)
	}
	return secrets, rows.Err()
}

const secretColumns = `owner, name, hosts, places, created_at, updated_at`

// scanSecret reads a row of secretColumns, and of more.
func scanSecret(scan func(...any) error, more ...any) (cove.Secret, error) {
	var (
		secret           cove.Secret
		hosts, places    []byte
		created, updated int64
	)
	if err := scan(append([]any{&secret.Owner, &secret.Name, &hosts, &places, &created, &updated}, more...)...); err != nil {
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
