// Package sqlite provides store.Store and store.Secrets in one SQLite file of a state directory.
package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"sync"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/covehq/cove"
	"github.com/covehq/cove/store"
)

const (
	databaseName = "cove.db"
	lockName     = "lock"
)

// Store is a store.Store in a state directory, which it holds locked.
type Store struct {
	db   *sql.DB
	put  *sql.Stmt
	lock *os.File

	closing  sync.Once
	closeErr error
}

var _ store.Store = (*Store)(nil)

// Open opens the store in dir, making both where they are missing, and locks dir for as
// long as this process lives or until Close. It returns an error that is cove.Conflict
// where another process has the lock, and one that is cove.NotSupported where a newer
// release has written the database.
func Open(ctx context.Context, dir string) (*Store, error) {
	s, err := open(ctx, dir)
	if err != nil {
		return nil, cove.Wrap(classify(err), "open store", dir)
	}
	return s, nil
}

func open(ctx context.Context, dir string) (_ *Store, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	s := &Store{}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if s.lock, err = lockFile(filepath.Join(dir, lockName)); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, databaseName)
	if err := createPrivate(path); err != nil {
		return nil, err
	}
	if s.db, err = sql.Open("sqlite", dsn(path)); err != nil {
		return nil, err
	}
	// SQLite takes one writer at a time, and a second connection would only add a page
	// cache and waiting for locks.
	s.db.SetMaxOpenConns(1)
	if err := migrate(ctx, s.db, migrations); err != nil {
		return nil, err
	}
	if s.put, err = s.db.PrepareContext(ctx, putSQL); err != nil {
		return nil, err
	}
	return s, nil
}

// dsn names the database at path with the settings of every connection.
//
// WAL with synchronous=NORMAL writes a commit to the log without waiting for the disk:
// it outlives the death of the daemon at any moment, and a power loss can't corrupt the
// database, only take back its last commits (https://sqlite.org/pragma.html#pragma_synchronous).
// The sandboxes of those commits are lost to the same power loss, and what they left on
// disk is in the driver's list, not in ours, so the sweep clears it. Waiting for the disk
// would add milliseconds to each create and save nothing.
func dsn(path string) string {
	settings := url.Values{
		"_pragma": {"busy_timeout(5000)", "journal_mode(WAL)", "synchronous(NORMAL)", "cache_size(-512)"},
		"_txlock": {"immediate"},
	}
	return (&url.URL{Scheme: "file", Path: path, RawQuery: settings.Encode()}).String()
}

// createPrivate makes the database file readable by its owner alone before SQLite can
// make it otherwise; SQLite gives its log files the mode of the database.
func createPrivate(path string) error {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	return file.Close()
}

// Close closes the database and gives up the lock. A second call does nothing and returns
// what the first did.
func (s *Store) Close() error {
	s.closing.Do(func() {
		var errs []error
		if s.put != nil {
			errs = append(errs, s.put.Close())
		}
		if s.db != nil {
			errs = append(errs, s.db.Close())
		}
		if s.lock != nil {
			errs = append(errs, s.lock.Close())
		}
		s.closeErr = errors.Join(errs...)
	})
	return s.closeErr
}

// classify gives err the code that a caller acts on.
func classify(err error) error {
	var failure *sqlite.Error
	if !errors.As(err, &failure) {
		return err
	}
	switch failure.Code() & 0xff {
	case sqlite3.SQLITE_FULL:
		return &cove.Error{Code: cove.NoSpace, Err: err, Hint: "free some space on the disk of the state directory"}
	case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
		return &cove.Error{
			Code: cove.Internal, Err: fmt.Errorf("the database is damaged: %w", err),
			Hint: "stop the daemon, move " + databaseName + " out of the state directory and start it again",
		}
	case sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM:
		return &cove.Error{Code: cove.Forbidden, Err: err, Hint: "make the state directory writable for the daemon's user"}
	}
	return err
}
