package secret_test

import (
	"context"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/covehq/cove"
	"github.com/covehq/cove/secret"
	"github.com/covehq/cove/store/sqlite"
)

// vaultIn opens the vault of a directory.
func vaultIn(t *testing.T, dir string) *secret.Vault {
	t.Helper()
	records, err := sqlite.Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { records.Close() })
	vault, err := secret.Open(records, filepath.Join(dir, "secrets.key"))
	if err != nil {
		t.Fatal(err)
	}
	return vault
}

func TestWhatIsLentIsKeptUntilItIsReturned(t *testing.T) {
	vault := vaultIn(t, t.TempDir())
	leases := []secret.Lease{{Name: "TOKEN", Placeholder: "abcdefgh1", Value: "hgfedcba2"}, {Name: "OTHER", Placeholder: "zyxwvuts3"}}
	if err := vault.Lend(t.Context(), "one", leases); err != nil {
		t.Fatal(err)
	}
	if got, err := vault.Lent(t.Context(), "one"); err != nil || !reflect.DeepEqual(got, leases) {
		t.Errorf("lent %v, %v, want %v", got, err, leases)
	}
	if got, err := vault.Lent(t.Context(), "two"); err != nil || got != nil {
		t.Errorf("lent to another: %v, %v", got, err)
	}
	if got, err := vault.Borrowers(t.Context()); err != nil || !reflect.DeepEqual(got, []string{"one"}) {
		t.Errorf("borrowers %v, %v", got, err)
	}
	for range 2 {
		if err := vault.Return(t.Context(), "one"); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := vault.Lent(t.Context(), "one"); err != nil || got != nil {
		t.Errorf("after the return: %v, %v", got, err)
	}
}

func TestWhatIsLentIsNobodysSecret(t *testing.T) {
	vault := vaultIn(t, t.TempDir())
	if err := vault.Lend(t.Context(), "one", []secret.Lease{{Name: "TOKEN", Placeholder: "abcdefgh1", Value: "hgfedcba2"}}); err != nil {
		t.Fatal(err)
	}
	if list, err := vault.List(t.Context()); err != nil || len(list) > 0 {
		t.Errorf("list: %v, %v", list, err)
	}
	if value, _, err := vault.Value(t.Context(), "", "sandbox/one"); cove.CodeOf(err) != cove.NotFound {
		t.Errorf("value: %q, %v", value, err)
	}
	if err := vault.Remove(t.Context(), "", "sandbox/one"); cove.CodeOf(err) != cove.NotFound {
		t.Errorf("remove: %v", err)
	}
	if _, err := vault.Set(context.WithoutCancel(t.Context()), "", "sandbox/one", cove.SecretInput{Value: "0123456789", Hosts: []string{"a.test"}}); cove.CodeOf(err) != cove.Invalid {
		t.Errorf("set: %v", err)
	}
}

func TestAUseGoesNowhereThatTheSecretDoesNot(t *testing.T) {
	bound := cove.Secret{Hosts: []string{"api.a.test", "*.b.test:8443"}, In: []cove.SecretPlace{cove.SecretInHeader}}
	for _, c := range []struct {
		name  string
		hosts string
		in    []cove.SecretPlace
		ok    bool
	}{
		{"the same", "api.a.test *.b.test:8443", nil, true},
		{"another spelling of it", "API.a.test.:443 X.b.test:8443", nil, true},
		{"a narrower name", "*.c.b.test:8443", []cove.SecretPlace{cove.SecretInHeader}, true},
		{"another port", "x.b.test", nil, false},
		{"the parent of a wildcard", "b.test:8443", nil, false},
		{"a name that ends alike", "evilapi.a.test", nil, false},
		{"another place", "api.a.test", []cove.SecretPlace{cove.SecretInBody}, false},
		{"no name at all", "*", nil, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := secret.Within(cove.SecretUse{Hosts: strings.Fields(c.hosts), In: c.in}, bound)
			if (err == nil) != c.ok || err != nil && cove.CodeOf(err) != cove.Forbidden {
				t.Errorf("got %v", err)
			}
		})
	}
}
