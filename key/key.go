// Package key provides the keys with which programs call a daemon over the network: made
// of 256 bits of chance, kept as hashes, and worthless from the moment that they expire or
// are revoked.
package key

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/store"
)

// MaxKeys bounds the keys of one daemon.
const MaxKeys = 10_000

// A key is written as cove_ID_SECRET: the ID finds it, and the secret, 32 bytes in base64
// for URLs, proves it. The prefix is for programs that look for keys where none belong.
const (
	prefix       = "cove_"
	idLength     = 12 // of 32 letters and digits: 60 bits, so that none comes twice
	secretBytes  = 32
	secretLength = 43
	length       = len(prefix) + idLength + 1 + secretLength
)

var namePattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._@-]{0,62}$`)

// Ring is the keys of one daemon. Its methods may be called concurrently. None of its
// errors has any part of a key but its ID.
type Ring struct {
	store store.Keys

	writing sync.Mutex // orders what changes the store

	mu   sync.RWMutex
	keys map[string]*entry // by ID
}

// entry is a key and its life.
type entry struct {
	store.HashedKey
	life context.Context // ends when the key is revoked or expires; its cause says which
	end  context.CancelCauseFunc
	stop context.CancelFunc // of the deadline
}

// The ends of a key. They are causes of what ends with it.
var (
	ErrRevoked = errors.New("the key was revoked")
	ErrExpired = errors.New("the key has expired")
)

// Open returns the ring of the keys that s keeps.
func Open(ctx context.Context, s store.Keys) (*Ring, error) {
	kept, err := s.Keys(ctx)
	if err != nil {
		return nil, cove.Wrap(err, "open keys", "")
	}
	r := &Ring{store: s, keys: make(map[string]*entry, len(kept))}
	for _, k := range kept {
		r.keys[k.ID] = newEntry(k)
	}
	return r, nil
}

// Close ends the grants of all keys. The store stays the caller's to close.
func (r *Ring) Close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.keys {
		e.close(context.Canceled)
	}
	clear(r.keys)
}

func newEntry(k store.HashedKey) *entry {
	e := &entry{HashedKey: k, stop: func() {}}
	e.life, e.end = context.WithCancelCause(context.Background())
	if k.ExpiresAt != nil {
		e.life, e.stop = context.WithDeadlineCause(e.life, *k.ExpiresAt, ErrExpired)
	}
	return e
}

func (e *entry) close(why error) {
	e.end(why)
	e.stop()
}

// Create makes a key and returns it, this once with itself. The error is cove.Invalid, and
// lists all that is wrong with the input, or cove.Conflict for a name that is taken.
func (r *Ring) Create(ctx context.Context, in cove.KeyInput) (cove.NewKey, error) {
	const op = "create key"
	if in.Owner == "" {
		in.Owner = in.Name
	}
	if in.Scope == "" {
		in.Scope = cove.ScopeRun
	}
	if err := check(in); err != nil {
		return cove.NewKey{}, err
	}
	r.writing.Lock()
	defer r.writing.Unlock()
	if r.Len() >= MaxKeys {
		return cove.NewKey{}, cove.Errorf(cove.Exhausted, op, "", fmt.Sprintf("there are %d keys, as many as there may be", MaxKeys), "remove keys that are not needed")
	}
	secret := generate()
	hash := sha256.Sum256([]byte(secret))
	now := time.Now().UTC().Truncate(time.Microsecond)
	k := store.HashedKey{Hash: hash[:], Key: cove.Key{
		ID: idOf(secret), Name: in.Name, Owner: in.Owner, Scope: in.Scope, CreatedAt: now,
	}}
	if in.Expires > 0 {
		at := now.Add(time.Duration(in.Expires))
		k.ExpiresAt = &at
	}
	if err := r.store.PutKey(ctx, k); err != nil {
		return cove.NewKey{}, cove.Wrap(err, op, "")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.keys[k.ID] = newEntry(k)
	return cove.NewKey{Key: k.Key, Secret: secret}, nil
}

func check(in cove.KeyInput) error {
	var problems cove.Problems
	if !namePattern.MatchString(in.Name) {
		problems.Add("name is not 1 to 63 letters, digits, ., _, @ and -, beginning with a letter or digit")
	} else if strings.HasPrefix(in.Name, prefix) {
		problems.Add("name begins as a key does, and would be mistaken for one")
	}
	if in.Owner != in.Name && !namePattern.MatchString(in.Owner) {
		problems.Add("owner is not 1 to 63 letters, digits, ., _, @ and -, beginning with a letter or digit")
	}
	if !in.Scope.Includes(cove.ScopeRead) {
		problems.Add("scope is none of read, run and admin")
	}
	if in.Expires != cove.Never && in.Expires != 0 && in.Expires < cove.Duration(time.Second) {
		problems.Add("expires is less than 1s")
	}
	return problems.Err(cove.Invalid, "create key", "as in: cove key create ci --scope run --expires 720h")
}

// List returns all keys by name, those that have expired included.
func (r *Ring) List() []cove.Key {
	r.mu.RLock()
	defer r.mu.RUnlock()
	list := make([]cove.Key, 0, len(r.keys))
	for _, e := range r.keys {
		list = append(list, e.Key)
	}
	slices.SortFunc(list, func(a, b cove.Key) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// Len returns how many keys there are.
func (r *Ring) Len() int {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return len(r.keys)
}

// Remove revokes the key of that name or ID: when it has returned, the key opens nothing,
// and the grants that it has given have ended. The error is cove.NotFound where there is
// none.
func (r *Ring) Remove(ctx context.Context, nameOrID string) error {
	const op = "remove key"
	r.writing.Lock()
	defer r.writing.Unlock()
	e := r.find(nameOrID)
	if e == nil {
		// Without what was asked for: somebody may have sent a key for a name.
		return cove.Errorf(cove.NotFound, op, "", "there is no such key", "list them with cove key ls")
	}
	if err := r.store.DeleteKey(ctx, e.ID); err != nil {
		return cove.Wrap(err, op, e.ID)
	}
	r.mu.Lock()
	delete(r.keys, e.ID)
	r.mu.Unlock()
	e.close(ErrRevoked)
	return nil
}

func (r *Ring) find(nameOrID string) *entry {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for _, e := range r.keys {
		if e.Name == nameOrID {
			return e
		}
	}
	return r.keys[nameOrID]
}

// Grant is what a key gives for as long as it is good.
type Grant struct {
	cove.Key
	life context.Context
}

// Life returns a context that ends with the key. Its cause is ErrRevoked or ErrExpired.
func (g Grant) Life() context.Context { return g.life }

// Check returns what a key gives. It takes as long for one that is wrong in its first
// letter as for one that is wrong in its last. The error is cove.Unauthenticated; that a
// key has expired is told only to who has it.
func (r *Ring) Check(secret string) (Grant, error) {
	id := idOf(secret)
	r.mu.RLock()
	e := r.keys[id]
	r.mu.RUnlock()
	// One round of SHA-256 is enough, where a password would need many: of 256 bits of
	// chance nobody finds a preimage, and there is no dictionary of them. The lookup by
	// ID tells by its time at most which IDs there are, which are no secret.
	got, want := sha256.Sum256([]byte(secret)), [sha256.Size]byte{}
	if e != nil {
		copy(want[:], e.Hash)
	}
	right := subtle.ConstantTimeCompare(got[:], want[:]) == 1
	switch {
	case e == nil || !right:
		return Grant{}, cove.Errorf(cove.Unauthenticated, "", "", "the key is not one of this daemon's, or was revoked",
			"look which there are with cove key ls on the daemon's machine, and make one with cove key create NAME")
	case e.life.Err() != nil || e.ExpiresAt != nil && !time.Now().Before(*e.ExpiresAt):
		return Grant{}, cove.Errorf(cove.Unauthenticated, "", "", "key "+e.Name+" has expired",
			"make another with cove key create NAME on the daemon's machine")
	}
	return Grant{e.Key, e.life}, nil
}

// generate returns a new key.
func generate() string {
	var secret [secretBytes]byte
	_, _ = rand.Read(secret[:]) // never fails, see there
	return prefix + strings.ToLower(rand.Text()[:idLength]) + "_" + base64.RawURLEncoding.EncodeToString(secret[:])
}

// Looks reports whether a text is written as a key.
func Looks(text string) bool { return idOf(text) != "" }

// idOf returns the ID in a key, or "" for what is not written as one.
func idOf(secret string) string {
	if len(secret) != length || !strings.HasPrefix(secret, prefix) || secret[len(prefix)+idLength] != '_' {
		return ""
	}
	return secret[len(prefix) : len(prefix)+idLength]
}
