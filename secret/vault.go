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

// Set makes a secret or replaces it. Each owner has names of its own; the owner "" is
// everybody. What it returns has hosts in lower case and places filled in. The error is
// cove.Invalid, and lists all that is wrong with the input, or cove.Exhausted where an owner
// has as many as it may have.
func (v *Vault) Set(ctx context.Context, owner, name string, in cove.SecretInput) (cove.Secret, error) {
	s, err := v.set(ctx, owner, name, in)
	return s, cove.Wrap(err, "set secret", id(name))
}

func (v *Vault) set(ctx context.Context, owner, name string, in cove.SecretInput) (cove.Secret, error) {
	s, err := check(name, in)
	if err != nil {
		return cove.Secret{}, err
	}
	s.Owner = owner
	v.mu.Lock()
	defer v.mu.Unlock()
	s.CreatedAt = time.Now().UTC().Truncate(time.Microsecond)
	s.UpdatedAt = s.CreatedAt
	kept, err := v.store.Secrets(ctx)
	if err != nil {
		return cove.Secret{}, err
	}
	others := 0
	for _, k := range kept {
		switch {
		case k.Owner == owner && k.Name == name:
			s.CreatedAt = k.CreatedAt
		case k.Owner == owner:
			others++
		}
	}
	if owner != "" && others >= maxOwned {
		return cove.Secret{}, &cove.Error{
			Code: cove.Exhausted, Err: fmt.Errorf("%s has %d secrets, and that is the most", owner, others), Hint: "remove some: cove secret rm",
		}
	}
	return s, v.put(ctx, s, in.Value, kept)
}

// maxOwned is how many secrets an owner may have. Who may set them for everybody has the
// machine.
const maxOwned = 100

// put seals a secret, and writes it down beside those that are kept. The caller holds mu.
func (v *Vault) put(ctx context.Context, s cove.Secret, value string, kept []cove.Secret) error {
	key, err := v.key.forWriting(func() (store.SealedSecret, error) {
		for _, k := range kept {
			if k.Owner != s.Owner || k.Name != s.Name {
				return v.store.Secret(ctx, k.Owner, k.Name)
			}
		}
		return store.SealedSecret{}, cove.NotFound
	})
	if err != nil {
		return err
	}
	sealed, err := seal(key, s, value)
	if err != nil {
		return err
	}
	return v.store.PutSecret(ctx, store.SealedSecret{Secret: s, Sealed: sealed})
}

// Remove forgets a secret. The error is cove.NotFound where there is none. It needs no key.
func (v *Vault) Remove(ctx context.Context, owner, name string) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if _, err := v.find(ctx, owner, id(name)); err != nil {
		return cove.Wrap(err, "remove secret", id(name))
	}
	return cove.Wrap(v.store.DeleteSecret(ctx, owner, name), "remove secret", id(name))
}

// List returns all secrets by name and then by owner, without their values.
func (v *Vault) List(ctx context.Context) ([]cove.Secret, error) {
	kept, err := v.store.Secrets(ctx)
	if err != nil {
		return nil, cove.Wrap(err, "list secrets", "")
	}
	return slices.DeleteFunc(kept, func(s cove.Secret) bool { return strings.HasPrefix(s.Name, leasePrefix) }), nil
}

// Value returns an owner's secret with its value. The error is cove.NotFound where there is
// none, and cove.Unavailable where the key is lost or another one: nothing is changed then.
func (v *Vault) Value(ctx context.Context, owner, name string) (string, cove.Secret, error) {
	value, s, err := v.value(ctx, owner, id(name))
	return value, s, cove.Wrap(err, "read secret", id(name))
}

// For is Value of the secret that an owner means by a name: its own, else everybody's.
func (v *Vault) For(ctx context.Context, owner, name string) (string, cove.Secret, error) {
	value, s, err := v.Value(ctx, owner, name)
	if owner != "" && errors.Is(err, cove.NotFound) {
		return v.Value(ctx, "", name)
	}
	return value, s, err
}

func (v *Vault) value(ctx context.Context, owner, name string) (string, cove.Secret, error) {
	kept, err := v.find(ctx, owner, name)
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

func (v *Vault) find(ctx context.Context, owner, name string) (store.SealedSecret, error) {
	kept, err := v.store.Secret(ctx, owner, name)
	if errors.Is(err, cove.NotFound) {
		return store.SealedSecret{}, &cove.Error{
			Code: cove.NotFound, Err: errors.New("there is no such secret"),
			Hint: fmt.Sprintf("set it: cove secret set %s", id(name)),
		}
	}
	return kept, err
}
