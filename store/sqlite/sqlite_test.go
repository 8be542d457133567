package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/covehq/cove"
	"github.com/covehq/cove/store"
)

func openStore(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := Open(t.Context(), dir)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func record(id string, created time.Time) store.Record {
	return store.Record{
		ID:        id,
		Owner:     "alice",
		Spec:      cove.Spec{Name: "box-" + id, Labels: map[string]string{"team": "a"}, Env: map[string]string{"A": "\n\""}}.WithDefaults(),
		Asked:     cove.Spec{Name: "box-" + id, Ports: []cove.Port{{Port: 80}}, Mounts: []cove.Mount{{Type: cove.MountTmpfs, Target: "/x", Size: cove.MiB}}},
		State:     cove.StateRunning,
		Isolation: cove.IsolationUserspaceKernel,
		Controls:  map[cove.Control]cove.Enforcement{cove.ControlCPU: cove.Enforced},
		Acquired:  cove.AcquiredCold,
		Handle:    []byte{0, 1, 2, 0xff},
		Previews:  map[int]uint64{80: 2},
		CreatedAt: created,
		ExpiresAt: created.Add(time.Hour),

		IdempotencyKey: "key",
		Fingerprint:    "print",
	}
}

func TestRecordsSurviveReopening(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	s := openStore(t, dir)
	start := time.UnixMicro(1_700_000_000_123_456).UTC()

	living, dead, bare := record("a", start), record("b", start.Add(-time.Second)), record("c", start.Add(time.Second))
	dead.State, dead.Reason, dead.Message = cove.StateFailed, cove.ReasonOOM, "out of memory"
	dead.EndedAt, dead.Handle = start.Add(time.Minute), nil
	bare.ExpiresAt, bare.Controls, bare.Spec = time.Time{}, nil, cove.Spec{Idle: cove.Never}
	removed := record("d", start)
	for _, r := range []store.Record{record("a", start.Add(-time.Hour)), living, dead, bare, removed} {
		if err := s.Put(t.Context(), r); err != nil {
			t.Fatalf("Put %s: %v", r.ID, err)
		}
	}
	if err := s.Delete(t.Context(), removed.ID); err != nil {
		t.Fatalf("Delete: %v", err)
	}
	if err := s.Delete(t.Context(), removed.ID); err != nil {
		t.Errorf("Delete of what is not there = %v, want nil", err)
	}
	if err := s.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}

	got, err := openStore(t, dir).List(t.Context())
	if err != nil {
		t.Fatalf("List: %v", err)
	}
	if diff := cmp.Diff([]store.Record{dead, living, bare}, got); diff != "" {
		t.Errorf("records differ (-want +got):\n%s", diff)
	}
}

func TestSecretsSurviveReopening(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir)
	start := time.UnixMicro(1_700_000_000_123_456).UTC()
	sealed := func(owner, name, content string) store.SealedSecret {
		return store.SealedSecret{Sealed: []byte(content), Secret: cove.Secret{
			Owner: owner, Name: name, Hosts: []string{"a.example.org", "*.b:8443"}, In: []cove.SecretPlace{cove.SecretInBody}, CreatedAt: start, UpdatedAt: start.Add(time.Hour),
		}}
	}
	for _, secret := range []store.SealedSecret{
		sealed("", "B", "b"), sealed("", "A", "old"), sealed("ann", "A", "hers"), sealed("", "A", "\x00\xff"), sealed("", "C", "c"), sealed("ann", "C", "c"),
	} {
		if err := s.PutSecret(t.Context(), secret); err != nil {
			t.Fatalf("PutSecret %s: %v", secret.Name, err)
		}
	}
	for range 2 { // the second one finds none, which is no error
		for _, owner := range []string{"", "ann", "bob"} {
			if err := s.DeleteSecret(t.Context(), owner, "C"); err != nil {
				t.Fatalf("DeleteSecret: %v", err)
			}
		}
	}
	if err := s.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
	s = openStore(t, dir)
	want := []store.SealedSecret{sealed("", "A", "\x00\xff"), sealed("ann", "A", "hers"), sealed("", "B", "b")}
	list, err := s.Secrets(t.Context())
	if err != nil || len(list) != len(want) {
		t.Fatalf("Secrets = %v, %v", list, err)
	}
	for i, w := range want {
		if diff := cmp.Diff(w.Secret, list[i]); diff != "" {
			t.Errorf("secrets differ (-want +got):\n%s", diff)
		}
		got, err := s.Secret(t.Context(), w.Owner, w.Name)
		if diff := cmp.Diff(w, got); err != nil || diff != "" {
			t.Errorf("a secret, %v, differs (-want +got):\n%s", err, diff)
		}
	}
	for owner, name := range map[string]string{"": "C", "ann": "B", "bob": "A"} {
		if _, err := s.Secret(t.Context(), owner, name); !errors.Is(err, cove.NotFound) {
			t.Errorf("%s of %q: %v, want none", name, owner, err)
		}
	}
}

// TestSecretsOfBeforeAreEverybodys has a database as it was before secrets had owners.
func TestSecretsOfBeforeAreEverybodys(t *testing.T) {
	dir := t.TempDir()
	db, err := sql.Open("sqlite", dsn(filepath.Join(dir, databaseName)))
	if err != nil {
		t.Fatal(err)
	}
	before := slices.IndexFunc(migrations, func(step string) bool { return strings.Contains(step, "CREATE TABLE owned") })
	if err := migrate(t.Context(), db, migrations[:before]); err != nil {
		t.Fatal(err)
	}
	_, err = db.ExecContext(t.Context(), `INSERT INTO secrets (name, hosts, places, sealed, created_at, updated_at) VALUES ('TOKEN', '["a.test"]', '["header"]', x'0102', 1, 2)`)
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	want := store.SealedSecret{Sealed: []byte{1, 2}, Secret: cove.Secret{
		Name: "TOKEN", Hosts: []string{"a.test"}, In: []cove.SecretPlace{cove.SecretInHeader}, CreatedAt: time.UnixMicro(1).UTC(), UpdatedAt: time.UnixMicro(2).UTC(),
	}}
	got, err := openStore(t, dir).Secret(t.Context(), "", "TOKEN")
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v; differs (-want +got):\n%s", err, diff)
	}
}

func TestDirectoryBelongsToOneStoreAtATime(t *testing.T) {
	dir := t.TempDir()
	first := openStore(t, dir)
	_, err := Open(t.Context(), dir)
	if !errors.Is(err, cove.Conflict) {
		t.Fatalf("second Open = %v, want conflict", err)
	}
	if !strings.Contains(err.Error(), "in use by another daemon, process ") || cove.HintOf(err) == "" {
		t.Errorf("second Open = %q with hint %q, want the holder and a hint", err, cove.HintOf(err))
	}
	if err := first.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
	openStore(t, dir)
}

func TestFilesArePrivate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	s := openStore(t, dir)
	if err := s.Put(t.Context(), record("a", time.Now())); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{".", databaseName, databaseName + "-wal", lockName} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Errorf("stat %s: %v", name, err)
		} else if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("mode of %s = %v, want nothing for others", name, info.Mode())
		}
	}
}

func TestNewerSchemaIsRefused(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir)
	if err := migrate(t.Context(), s.db, append(migrations[:len(migrations):len(migrations)], `CREATE TABLE later (id TEXT)`)); err != nil {
		t.Fatalf("migrate to a later schema: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	_, err := Open(t.Context(), dir)
	if !errors.Is(err, cove.NotSupported) || !strings.Contains(err.Error(), "schema") || cove.HintOf(err) == "" {
		t.Errorf("Open of a newer schema = %v (hint %q), want unsupported with a hint", err, cove.HintOf(err))
	}
}

func TestFailedMigrationLeavesTheSchemaAsItWas(t *testing.T) {
	s := openStore(t, t.TempDir())
	steps := append(migrations[:len(migrations):len(migrations)], `CREATE TABLE half (id TEXT); CREATE TABLE sandboxes (id TEXT)`)
	if err := migrate(t.Context(), s.db, steps); err == nil {
		t.Fatal("migrate = nil, want an error")
	}
	var n int
	if err := s.db.QueryRow(`SELECT count(*) FROM sqlite_master WHERE name = 'half'`).Scan(&n); err != nil || n != 0 {
		t.Errorf("tables left by the failed step = %d (%v), want 0", n, err)
	}
	if err := migrate(t.Context(), s.db, migrations); err != nil {
		t.Errorf("migrate after the failure = %v, want nil", err)
	}
}

func TestDamagedDatabaseSaysWhatToDo(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, databaseName), []byte(strings.Repeat("not a database ", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Open(t.Context(), dir)
	if err == nil || cove.HintOf(err) == "" {
		t.Errorf("Open of a damaged database = %v (hint %q), want an error with a hint", err, cove.HintOf(err))
	}
	// The failed Open must have given the lock back.
	if err := os.Remove(filepath.Join(dir, databaseName)); err != nil {
		t.Fatal(err)
	}
	openStore(t, dir)
}

func TestFullDatabaseIsNoSpaceAndStaysReadable(t *testing.T) {
	s := openStore(t, t.TempDir())
	kept := record("kept", time.Now())
	if err := s.Put(t.Context(), kept); err != nil {
		t.Fatal(err)
	}
	// SQLite answers with the size that the database has already.
	if err := s.db.QueryRow(`PRAGMA max_page_count(1)`).Scan(new(int)); err != nil {
		t.Fatal(err)
	}
	big := record("big", time.Now())
	big.Message = strings.Repeat("x", 1<<20)
	if err := s.Put(t.Context(), big); !errors.Is(err, cove.NoSpace) {
		t.Errorf("Put into a full database = %v, want no space", err)
	}
	records, err := s.List(t.Context())
	if err != nil || len(records) != 1 {
		t.Errorf("List of a full database = %d records, %v, want 1", len(records), err)
	}
	if err := s.Delete(t.Context(), "kept"); err != nil {
		t.Errorf("Delete from a full database = %v, want nil", err)
	}
}

func TestCancelledPutIsAnError(t *testing.T) {
	s := openStore(t, t.TempDir())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Put(ctx, record("a", time.Now())); !errors.Is(err, context.Canceled) {
		t.Errorf("Put = %v, want context canceled", err)
	}
}

func TestHammer(t *testing.T) {
	s := openStore(t, t.TempDir())
	var group sync.WaitGroup
	for worker := range 8 {
		group.Go(func() {
			id := string(rune('a' + worker))
			for range 50 {
				if err := s.Put(t.Context(), record(id, time.Now())); err != nil {
					t.Errorf("Put: %v", err)
				}
				if _, err := s.List(t.Context()); err != nil {
					t.Errorf("List: %v", err)
				}
				if err := s.Delete(t.Context(), id); err != nil {
					t.Errorf("Delete: %v", err)
				}
			}
		})
	}
	group.Wait()
	if records, err := s.List(t.Context()); err != nil || len(records) != 0 {
		t.Errorf("records left = %d, %v, want none", len(records), err)
	}
}

// BenchmarkCreate is what a create costs: the record before, the record after.
func BenchmarkCreate(b *testing.B) {
	s, err := Open(b.Context(), b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	r := record("a", time.Now())
	for b.Loop() {
		for range 2 {
			if err := s.Put(b.Context(), r); err != nil {
				b.Fatal(err)
			}
		}
	}
}

func TestKeysSurviveReopening(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir)
	at := time.UnixMicro(1_700_000_000_123_456).UTC()
	expires := at.Add(time.Hour)
	ci := store.HashedKey{Key: cove.Key{ID: "1", Name: "ci", Owner: "team", Scope: cove.ScopeRun, CreatedAt: at}, Hash: []byte{0, 1, 0xff}}
	admin := store.HashedKey{Key: cove.Key{ID: "2", Name: "admin", Owner: "admin", Scope: cove.ScopeAdmin, CreatedAt: at, ExpiresAt: &expires}, Hash: []byte{2}}
	gone := store.HashedKey{Key: cove.Key{ID: "3", Name: "gone", CreatedAt: at}, Hash: []byte{3}}
	for _, k := range []store.HashedKey{ci, admin, gone} {
		if err := s.PutKey(t.Context(), k); err != nil {
			t.Fatalf("PutKey %s: %v", k.Name, err)
		}
	}
	again := ci
	again.ID = "4"
	if err := s.PutKey(t.Context(), again); !errors.Is(err, cove.Conflict) || strings.Contains(err.Error(), "UNIQUE") {
		t.Errorf("a second key of one name: %v, want conflict in our words", err)
	}
	for range 2 {
		if err := s.DeleteKey(t.Context(), gone.ID); err != nil {
			t.Fatalf("DeleteKey: %v", err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	got, err := openStore(t, dir).Keys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]store.HashedKey{admin, ci}, got); diff != "" {
		t.Errorf("keys after reopening (-want +got):\n%s", diff)
	}
}
