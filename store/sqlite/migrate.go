package sqlite

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/covehq/cove"
)

// migrations are the steps from an empty database to the schema of this release. A step
// that was released is never changed; the list is append-only.
var migrations = []string{
	`CREATE TABLE sandboxes (
		id              TEXT PRIMARY KEY,
		name            TEXT NOT NULL,
		state           TEXT NOT NULL,
		reason          TEXT NOT NULL,
		message         TEXT NOT NULL,
		runtime         TEXT NOT NULL,
		isolation       TEXT NOT NULL,
		acquired        TEXT NOT NULL,
		spec            TEXT NOT NULL, -- JSON
		controls        TEXT NOT NULL, -- JSON
		handle          BLOB,
		created_at      INTEGER NOT NULL, -- microseconds since 1970
		expires_at      INTEGER,          -- NULL: never
		ended_at        INTEGER,          -- NULL: it lives
		idempotency_key TEXT NOT NULL,
		fingerprint     TEXT NOT NULL
	) STRICT, WITHOUT ROWID`,
	`ALTER TABLE sandboxes ADD COLUMN image TEXT NOT NULL DEFAULT ''`,   // a digest
	`ALTER TABLE sandboxes ADD COLUMN asked TEXT NOT NULL DEFAULT '{}'`, // JSON
	`CREATE TABLE secrets (
		name       TEXT PRIMARY KEY,
		hosts      TEXT NOT NULL,    -- JSON
		places     TEXT NOT NULL,    -- JSON
		sealed     BLOB NOT NULL,    -- the value; the key is in a file of its own
		created_at INTEGER NOT NULL, -- microseconds since 1970
		updated_at INTEGER NOT NULL
	) STRICT, WITHOUT ROWID`,
	`ALTER TABLE sandboxes ADD COLUMN previews TEXT NOT NULL DEFAULT 'null'`, // JSON
	`ALTER TABLE sandboxes ADD COLUMN owner TEXT NOT NULL DEFAULT ''`,
	`CREATE TABLE keys (
		id         TEXT PRIMARY KEY,
		name       TEXT NOT NULL UNIQUE,
		owner      TEXT NOT NULL,
		scope      TEXT NOT NULL,
		hash       BLOB NOT NULL,    -- SHA-256 of the key, which is 256 bits of chance
		created_at INTEGER NOT NULL, -- microseconds since 1970
		expires_at INTEGER           -- NULL: never
	) STRICT, WITHOUT ROWID`,
	`CREATE TABLE owned (
		owner      TEXT NOT NULL,    -- '': everybody, as all were before
		name       TEXT NOT NULL,
		hosts      TEXT NOT NULL,    -- JSON
		places     TEXT NOT NULL,    -- JSON
		sealed     BLOB NOT NULL,
		created_at INTEGER NOT NULL, -- microseconds since 1970
		updated_at INTEGER NOT NULL,
		PRIMARY KEY (owner, name)
	) STRICT, WITHOUT ROWID;
	INSERT INTO owned SELECT '', name, hosts, places, sealed, created_at, updated_at FROM secrets;
	DROP TABLE secrets;
	ALTER TABLE owned RENAME TO secrets`,
}

// migrate brings the database up to the last of steps, each in a transaction that also
// notes it. It refuses a database that has more steps than these.
func migrate(ctx context.Context, db *sql.DB, steps []string) error {
	const table = `CREATE TABLE IF NOT EXISTS migrations (
		version    INTEGER PRIMARY KEY,
		applied_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP
	) STRICT`
	if _, err := db.ExecContext(ctx, table); err != nil {
		return err
	}
	var version int
	if err := db.QueryRowContext(ctx, `SELECT coalesce(max(version), 0) FROM migrations`).Scan(&version); err != nil {
		return err
	}
	if version > len(steps) {
		return &cove.Error{
			Code: cove.NotSupported,
			Err:  fmt.Errorf("the database has schema %d and this release knows %d", version, len(steps)),
			Hint: "run the newer release that wrote it, or another state directory",
		}
	}
	for ; version < len(steps); version++ {
		if err := apply(ctx, db, version+1, steps[version]); err != nil {
			return fmt.Errorf("schema %d: %w", version+1, err)
		}
	}
	return nil
}

func apply(ctx context.Context, db *sql.DB, version int, step string) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() // does nothing after Commit
	if _, err := tx.ExecContext(ctx, step); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, `INSERT INTO migrations (version) VALUES (?)`, version); err != nil {
		return err
	}
	return tx.Commit()
}
