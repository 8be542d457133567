package sandbox

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"github.com/covehq/cove"
	"github.com/covehq/cove/secret"
)

// SetSecret makes or changes a secret: its caller's own, or of a caller who finds what is
// anybody's, everybody's. Sandboxes that use it have the new value at once. An owner may have
// a secret of a name that everybody has one of, and means its own by it.
func (h *Host) SetSecret(ctx context.Context, name string, in cove.SecretInput) (cove.Secret, error) {
	vault, err := h.vault("set secret")
	if err != nil {
		return cove.Secret{}, err
	}
	owner, err := CallerOf(ctx).keeps()
	if err != nil {
		return cove.Secret{}, err
	}
	set, err := vault.Set(ctx, owner, name, in)
	return set, h.wrap(err, "set secret", "")
}

// keeps is whose secrets a caller sets and removes: everybody's if it finds what is anybody's,
// and else its own.
func (c Caller) keeps() (string, error) {
	switch {
	case c.All:
		return "", nil
	case c.Owner == "":
		return "", cove.Errorf(cove.Forbidden, "secret", "", "a caller without an owner keeps no secrets", "use a key, which has one")
	}
	return c.Owner, nil
}

// RemoveSecret removes a secret that SetSecret made for this caller, or with an owner that
// one's. Sandboxes that use it can't from then on. The error is cove.NotFound where there is
// none that the caller sees, and cove.Forbidden for one that is everybody's and not this
// caller's to change.
func (h *Host) RemoveSecret(ctx context.Context, owner, name string) error {
	const op = "remove secret"
	vault, err := h.vault(op)
	if err != nil {
		return err
	}
	caller := CallerOf(ctx)
	own, err := caller.keeps()
	if err != nil {
		return err
	}
	if owner = cmp.Or(owner, own); !caller.Sees(owner) {
		return noSecret(op)
	}
	err = vault.Remove(ctx, owner, name)
	if errors.Is(err, cove.NotFound) && !caller.All {
		if shared, err := h.Secret(ctx, "", name); err == nil && shared.Owner == "" {
			return cove.Errorf(cove.Forbidden, op, name, "this secret is everybody's", "ask an admin to remove it, or set your own of that name (cove secret set)")
		}
	}
	return h.wrap(err, op, "")
}

// Secret returns the secret that its caller means by a name, its own or else everybody's, or
// with an owner that one's, without its value. The error is cove.NotFound where there is none
// that the caller sees; it does not have the name, which may be a value in the wrong place.
func (h *Host) Secret(ctx context.Context, owner, name string) (cove.Secret, error) {
	list, err := h.Secrets(ctx)
	if err != nil {
		return cove.Secret{}, err
	}
	meant := []string{owner}
	if own, err := CallerOf(ctx).keeps(); owner == "" && err == nil {
		meant = []string{own, ""}
	}
	for _, owner := range meant {
		i := slices.IndexFunc(list, func(s cove.Secret) bool { return s.Owner == owner && s.Name == name })
		if i >= 0 {
			return list[i], nil
		}
	}
	return cove.Secret{}, noSecret("find secret")
}

func noSecret(op string) error {
	return cove.Errorf(cove.NotFound, op, "", "there is no such secret", "list them with cove secret ls")
}

// Secrets returns the secrets that its caller may use, or for one who finds what is anybody's
// all of them, by name and without their values.
func (h *Host) Secrets(ctx context.Context) ([]cove.Secret, error) {
	vault, err := h.vault("list secrets")
	if err != nil {
		return nil, err
	}
	list, err := vault.List(ctx)
	caller := CallerOf(ctx)
	list = slices.DeleteFunc(list, func(s cove.Secret) bool { return s.Owner != "" && !caller.Sees(s.Owner) })
	return list, h.wrap(err, "list secrets", "")
}

func (h *Host) vault(op string) (*secret.Vault, error) {
	if h.network.Vault == nil {
		return nil, cove.Errorf(cove.NotSupported, op, "", "this host keeps no secrets", "start the daemon with a data directory")
	}
	return h.network.Vault, nil
}
