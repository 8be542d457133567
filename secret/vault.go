// Package secret provides the daemon's secrets: kept encrypted, each bound to the hosts
// that it may go to, and what stands in for them inside of sandboxes.
package secret

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/store"
)

// Vault is the secrets of one daemon. Its methods may be called concurrently. No error of
// it has any part of a value.
type Vault struct {
	store store.Secrets
	key   *keyFile

	mu sync.Mutex // orders what reads and then writes
}

// Open returns the vault of what s keeps. The key is in a file of this name, which is made
// when the first secret is set; a directory for it has to exist. What is wrong with the
// key is told by the calls that need it, so that a daemon without its key can still start.
func Open(s store.Secrets, keyFile string) (*Vault, error) {
	if s == nil || keyFile == "" {
		return nil, cove.Errorf(cove.Invalid, "open secrets", keyFile, "a store and a key file are needed", "")
	}
	return &Vault{store: s, key: newKeyFile(keyFile)}, nil
}

// Set makes a secret or replaces it. What it returns has hosts in lower case and places
// filled in. The error is cove.Invalid, and lists all that is wrong with the input.
func (v *Vault) Set(ctx context.Context, name string, in cove.SecretInput) (cove.Secret, error) {
	s, err := v.set(ctx, name, in)
	return s, cove.Wrap(err, "set secret", id(name))
}

func (v *Vault) set(ctx context.Context, name string, in cove.SecretInput) (cove.Secret, error) {
	s, err := check(name, in)
	if err != nil {
		return cove.Secret{}, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	kept, err := v.store.Secrets(ctx)
	if err != nil {
		return cove.Secret{}, err
	}
	s.CreatedAt = time.Now().UTC().Truncate(time.Microsecond)
	s.UpdatedAt = s.CreatedAt
	others := slices.DeleteFunc(kept, func(k store.SealedSecret) bool {
		if k.Name == name {
			s.CreatedAt = k.CreatedAt
		}
		return k.Name == name
	})
	key, err := v.key.forWriting(others)
	if err != nil {
		return cove.Secret{}, err
	}
	sealed, err := seal(key, s, in.Value)
	if err != nil {
		return cove.Secret{}, err
	}
	return s, v.store.PutSecret(ctx, store.SealedSecret{Secret: s, Sealed: sealed})
}

// Remove forgets a secret. The error is cove.NotFound where there is none. It needs no key.
func (v *Vault) Remove(ctx context.Context, name string) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if _, err := v.find(ctx, id(name)); err != nil {
		return cove.Wrap(err, "remove secret", id(name))
	}
	return cove.Wrap(v.store.DeleteSecret(ctx, name), "remove secret", id(name))
}

// List returns all secrets by name, without their values. It needs no key.
func (v *Vault) List(ctx context.Context) ([]cove.Secret, error) {
	kept, err := v.store.Secrets(ctx)
	if err != nil {
		return nil, cove.Wrap(err, "list secrets", "")
	}
	list := make([]cove.Secret, 0, len(kept))
	for _, k := range kept {
		if !strings.HasPrefix(k.Name, leasePrefix) {
			list = append(list, k.Secret)
		}
	}
	return list, nil
}

// Value returns a secret with its value. The error is cove.NotFound where there is none,
// and cove.Unavailable where the key is lost or another one: nothing is changed then.
func (v *Vault) Value(ctx context.Context, name string) (string, cove.Secret, error) {
	value, s, err := v.value(ctx, id(name))
	return value, s, cove.Wrap(err, "read secret", id(name))
}

func (v *Vault) value(ctx context.Context, name string) (string, cove.Secret, error) {
	kept, err := v.find(ctx, name)
	if err != nil {
		return "", cove.Secret{}, err
	}
	key, err := v.key.read()
	if errors.Is(err, errNoKey) {
		return "", cove.Secret{}, v.key.lost()
	} else if err != nil {
		return "", cove.Secret{}, err
	}
	value, err := open(key, kept)
	if err != nil {
		return "", cove.Secret{}, v.key.wrong(name)
	}
	return value, kept.Secret, nil
}

func (v *Vault) find(ctx context.Context, name string) (store.SealedSecret, error) {
	kept, err := v.store.Secrets(ctx)
	if err != nil {
		return store.SealedSecret{}, err
	}
	for _, k := range kept {
		if k.Name == name {
			return k, nil
		}
	}
	return store.SealedSecret{}, &cove.Error{
		Code: cove.NotFound, Err: errors.New("there is no such secret"),
		Hint: fmt.Sprintf("set it: cove secret set %s", id(name)),
	}
}
