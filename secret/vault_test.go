package secret_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/covehq/cove"
	"github.com/covehq/cove/secret"
	"github.com/covehq/cove/store"
	"github.com/covehq/cove/store/sqlite"
)

const value = "ghp_Value0123456789abcdefghijABCDEFGHIJ99"

type world struct {
	*secret.Vault
	store   *sqlite.Store
	dir     string
	keyFile string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{dir: t.TempDir()}
	w.keyFile = filepath.Join(w.dir, "secret.key")
	w.reopen(t)
	return w
}

// reopen is what a daemon does that starts again.
func (w *world) reopen(t *testing.T) {
	t.Helper()
	if w.store != nil {
		w.store.Close()
	}
	var err error
	if w.store, err = sqlite.Open(t.Context(), w.dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.store.Close() })
	if w.Vault, err = secret.Open(w.store, w.keyFile); err != nil {
		t.Fatal(err)
	}
}

func (w *world) set(t *testing.T, name, value string) cove.Secret {
	t.Helper()
	s, err := w.Set(t.Context(), "", name, cove.SecretInput{Value: value, Hosts: []string{"api.example.org"}})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSecretsOutliveTheDaemon(t *testing.T) {
	w := newWorld(t)
	first, err := w.Set(t.Context(), "", "TOKEN", cove.SecretInput{
		Value: value, Hosts: []string{"API.Example.org:443", "*.example.org:8443", "api.example.org."}, In: []cove.SecretPlace{"query", "header", "query"},
	})
	if err != nil {
		t.Fatal(err)
	}
	w.set(t, "OTHER", "another value 1")
	w.reopen(t)
	want := cove.Secret{
		Name: "TOKEN", Hosts: []string{"api.example.org", "*.example.org:8443"}, In: []cove.SecretPlace{"header", "query"},
		CreatedAt: first.CreatedAt, UpdatedAt: first.UpdatedAt,
	}
	got, s, err := w.Value(t.Context(), "", "TOKEN")
	if diff := cmp.Diff(want, s); err != nil || got != value || diff != "" {
		t.Errorf("Value = %q, %v; differs (-want +got):\n%s", got, err, diff)
	}
	list, err := w.List(t.Context())
	if err != nil || len(list) != 2 || list[0].Name != "OTHER" || list[1].Name != "TOKEN" {
		t.Errorf("List = %+v, %v", list, err)
	}
	changed := w.set(t, "TOKEN", "a new value 123")
	if !changed.CreatedAt.Equal(first.CreatedAt) || !changed.UpdatedAt.After(first.UpdatedAt) {
		t.Errorf("after a change made at %v and %v, before at %v", changed.CreatedAt, changed.UpdatedAt, first.UpdatedAt)
	}
	if got, _, _ := w.Value(t.Context(), "", "TOKEN"); got != "a new value 123" {
		t.Errorf("Value after a change = %q", got)
	}
	if err := w.Remove(t.Context(), "", "TOKEN"); err != nil {
		t.Error(err)
	}
	if _, _, err := w.Value(t.Context(), "", "TOKEN"); !errors.Is(err, cove.NotFound) || cove.HintOf(err) == "" {
		t.Errorf("Value of what was removed = %v", err)
	}
	if err := w.Remove(t.Context(), "", "TOKEN"); !errors.Is(err, cove.NotFound) {
		t.Errorf("Remove of what was removed = %v", err)
	}
}

func TestT83NoFileHasTheValueOrIsForOthersToRead(t *testing.T) {
	w := newWorld(t)
	w.set(t, "TOKEN", value)
	entries, err := os.ReadDir(w.dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		path := filepath.Join(w.dir, entry.Name())
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(content, []byte(value)) || bytes.Contains(content, []byte(value[4:20])) {
			t.Errorf("%s has the value", path)
		}
		if info, _ := entry.Info(); info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
	}
}

func TestKeyThatIsLostOrAnotherIsAClearErrorAndLosesNothing(t *testing.T) {
	for name, spoil := range map[string]func(path string) error{
		"lost":               os.Remove,
		"another":            func(path string) error { return os.WriteFile(path, bytes.Repeat([]byte("x"), 32), 0o600) },
		"cut":                func(path string) error { return os.Truncate(path, 10) },
		"for others to read": func(path string) error { return os.Chmod(path, 0o644) },
		"a directory":        func(path string) error { return errors.Join(os.Remove(path), os.Mkdir(path, 0o700)) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.set(t, "TOKEN", value)
			key, err := os.ReadFile(w.keyFile)
			if err != nil {
				t.Fatal(err)
			}
			if err := spoil(w.keyFile); err != nil {
				t.Fatal(err)
			}
			w.reopen(t)
			_, _, got := w.Value(t.Context(), "", "TOKEN")
			_, set := w.Set(t.Context(), "", "OTHER", cove.SecretInput{Value: "another value 1", Hosts: []string{"example.org"}})
			for call, err := range map[string]error{"Value": got, "Set": set} {
				if !errors.Is(err, cove.Unavailable) || cove.HintOf(err) == "" || !strings.Contains(err.Error(), w.keyFile) {
					t.Errorf("%s = %v (hint %q), want the key file and a hint", call, err, cove.HintOf(err))
				}
			}
			if list, err := w.List(t.Context()); err != nil || len(list) != 1 {
				t.Errorf("List = %v, %v", list, err)
			}
			os.RemoveAll(w.keyFile)
			if err := os.WriteFile(w.keyFile, key, 0o600); err != nil {
				t.Fatal(err)
			}
			if got, _, err := w.Value(t.Context(), "", "TOKEN"); err != nil || got != value {
				t.Errorf("with the key put back: Value = %q, %v", got, err)
			}
		})
	}
}

func TestAllCanBeSetAgainAfterAKeyIsLost(t *testing.T) {
	w := newWorld(t)
	w.set(t, "TOKEN", value)
	if err := os.Remove(w.keyFile); err != nil {
		t.Fatal(err)
	}
	w.set(t, "TOKEN", "a new value 123") // it needs nothing of the old one
	if got, _, err := w.Value(t.Context(), "", "TOKEN"); err != nil || got != "a new value 123" {
		t.Errorf("Value = %q, %v", got, err)
	}
}

func TestSecretCanNotBeBoundElsewhereInTheDatabase(t *testing.T) {
	w := newWorld(t)
	w.set(t, "TOKEN", value)
	for name, change := range map[string]func(*cove.Secret){
		"hosts":  func(s *cove.Secret) { s.Hosts = []string{"evil.example.org"} },
		"places": func(s *cove.Secret) { s.In = []cove.SecretPlace{"body"} },
		"name":   func(s *cove.Secret) { s.Name = "RENAMED" },
		"owners": func(s *cove.Secret) { s.Owner = "eve" },
	} {
		forged, err := w.store.Secret(t.Context(), "", "TOKEN")
		if err != nil {
			t.Fatal(err)
		}
		original := forged
		change(&forged.Secret)
		if err := w.store.PutSecret(t.Context(), forged); err != nil {
			t.Fatal(err)
		}
		if got, _, err := w.Value(t.Context(), forged.Owner, forged.Name); err == nil || got != "" {
			t.Errorf("with other %s: Value = %q, %v, want an error", name, got, err)
		}
		if err := w.store.PutSecret(t.Context(), original); err != nil {
			t.Fatal(err)
		}
	}
}

func TestEachOwnerHasSecretsOfItsOwnT82(t *testing.T) {
	w := newWorld(t)
	in := func(value string) cove.SecretInput {
		return cove.SecretInput{Value: value, Hosts: []string{"api.example.org"}}
	}
	for owner, value := range map[string]string{"": "everybody's 12345", "ann": "ann's own 1234567", "bob": "bob's own 1234567"} {
		if s, err := w.Set(t.Context(), owner, "TOKEN", in(value)); err != nil || s.Owner != owner {
			t.Fatalf("set by %q: of %q, %v", owner, s.Owner, err)
		}
	}
	w.reopen(t)
	for owner, want := range map[string]string{"": "everybody's 12345", "ann": "ann's own 1234567", "bob": "bob's own 1234567", "eve": "everybody's 12345"} {
		if got, s, err := w.For(t.Context(), owner, "TOKEN"); err != nil || got != want || s.Owner != owner && owner != "eve" {
			t.Errorf("for %q: %q of %q, %v, want %q", owner, got, s.Owner, err, want)
		}
	}
	if got, _, err := w.Value(t.Context(), "eve", "TOKEN"); !errors.Is(err, cove.NotFound) || got != "" {
		t.Errorf("of eve, who has none: %q, %v", got, err)
	}
	if err := w.Remove(t.Context(), "eve", "TOKEN"); !errors.Is(err, cove.NotFound) {
		t.Errorf("removed by eve: %v", err)
	}
	if err := w.Remove(t.Context(), "ann", "TOKEN"); err != nil {
		t.Error(err)
	}
	for owner, want := range map[string]string{"ann": "everybody's 12345", "bob": "bob's own 1234567"} {
		if got, _, err := w.For(t.Context(), owner, "TOKEN"); err != nil || got != want {
			t.Errorf("for %q, after ann has removed hers: %q, %v, want %q", owner, got, err, want)
		}
	}
	list, err := w.List(t.Context())
	if err != nil || len(list) != 2 || list[0].Owner != "" || list[1].Owner != "bob" {
		t.Errorf("List = %+v, %v", list, err)
	}
}

func TestWhatWasSealedBeforeThereWereOwnersIsOpened(t *testing.T) {
	w := newWorld(t)
	key := bytes.Repeat([]byte("k"), 32)
	if err := os.WriteFile(w.keyFile, key, 0o600); err != nil {
		t.Fatal(err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		t.Fatal(err)
	}
	s := cove.Secret{Name: "TOKEN", Hosts: []string{"api.example.org"}, In: []cove.SecretPlace{"header"}}
	bound, err := json.Marshal([]any{s.Name, s.Hosts, s.In})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.store.PutSecret(t.Context(), store.SealedSecret{Secret: s, Sealed: aead.Seal([]byte{1}, nil, []byte(value), bound)}); err != nil {
		t.Fatal(err)
	}
	if got, _, err := w.For(t.Context(), "ann", "TOKEN"); err != nil || got != value {
		t.Errorf("Value = %q, %v", got, err)
	}
	if _, err := w.Set(t.Context(), "ann", "OTHER", cove.SecretInput{Value: value, Hosts: s.Hosts}); err != nil {
		t.Errorf("set beside it: %v", err)
	}
}

func TestAnOwnerHasSoManySecretsAndNoMore(t *testing.T) {
	w := newWorld(t)
	in := cove.SecretInput{Value: value, Hosts: []string{"api.example.org"}}
	for i := range 100 {
		if _, err := w.Set(t.Context(), "ann", fmt.Sprintf("A%d", i), in); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Set(t.Context(), "ann", "B", in); !errors.Is(err, cove.Exhausted) || cove.HintOf(err) == "" {
		t.Errorf("the 101st: %v", err)
	}
	for owner, name := range map[string]string{"ann": "A7", "bob": "B", "": "B"} { // one that is there, and of others
		if _, err := w.Set(t.Context(), owner, name, in); err != nil {
			t.Errorf("%s of %q: %v", name, owner, err)
		}
	}
}

func TestInputThatCanNotBeIsRefusedWithAllThatIsWrong(t *testing.T) {
	hosts := []string{"api.example.org"}
	for _, c := range []struct {
		test, name string
		in         cove.SecretInput
		want       string
	}{
		{"no binding", "A", cove.SecretInput{Value: value}, "bound to no host"},
		{"an empty name", "", cove.SecretInput{Value: value, Hosts: hosts}, "a name is"},
		{"a name with a dash", "A-B", cove.SecretInput{Value: value, Hosts: hosts}, "a name is"},
		{"a name that begins with a digit", "1A", cove.SecretInput{Value: value, Hosts: hosts}, "a name is"},
		{"a name of 129", strings.Repeat("A", 129), cove.SecretInput{Value: value, Hosts: hosts}, "a name is"},
		{"no value", "A", cove.SecretInput{Hosts: hosts}, "empty"},
		{"a huge value", "A", cove.SecretInput{Value: strings.Repeat("x", 64<<10+1), Hosts: hosts}, "65536 is the most"},
		{"a short value", "A", cove.SecretInput{Value: "1234567", Hosts: hosts}, "less than 8"},
		{"a value of punctuation", "A", cove.SecretInput{Value: "!!!!!!!!!!!!abc", Hosts: hosts}, "less than 8"},
		{"a newline at the end", "A", cove.SecretInput{Value: value + "\n", Hosts: hosts}, "ends in a newline"},
		{"a newline in it", "A", cove.SecretInput{Value: value + "\n" + value, Hosts: hosts}, "control character"},
		{"a newline for bodies and headers", "A", cove.SecretInput{Value: value + "\n" + value, Hosts: hosts, In: []cove.SecretPlace{"body", "header"}}, "control character"},
		{"a NUL for bodies", "A", cove.SecretInput{Value: value + "\x00", Hosts: hosts, In: []cove.SecretPlace{"body"}}, "control character"},
		{"a space at the end", "A", cove.SecretInput{Value: value + " ", Hosts: hosts}, "space"},
		{"letters that are not ASCII", "A", cove.SecretInput{Value: value + "é", Hosts: hosts}, "ASCII"},
		{"no such place", "A", cove.SecretInput{Value: value, Hosts: hosts, In: []cove.SecretPlace{"path"}}, "no place"},
		{"a star alone", "A", cove.SecretInput{Value: value, Hosts: []string{"*"}}, "a * elsewhere"},
		{"a star in the middle", "A", cove.SecretInput{Value: value, Hosts: []string{"api.*.org"}}, "a * elsewhere"},
		{"an address", "A", cove.SecretInput{Value: value, Hosts: []string{"192.0.2.1"}}, "as only addresses do"},
		{"an address in disguise", "A", cove.SecretInput{Value: value, Hosts: []string{"0x7f.1"}}, "as only addresses do"},
		{"an address in brackets", "A", cove.SecretInput{Value: value, Hosts: []string{"[::1]:443"}}, "host"},
		{"a URL", "A", cove.SecretInput{Value: value, Hosts: []string{"https://example.org"}}, "is a URL"},
		{"a port by another spelling", "A", cove.SecretInput{Value: value, Hosts: []string{"example.org:+443"}}, "no such port"},
		{"a port of zeros", "A", cove.SecretInput{Value: value, Hosts: []string{"example.org:0443"}}, "no such port"},
		{"a port too high", "A", cove.SecretInput{Value: value, Hosts: []string{"example.org:65536"}}, "no such port"},
		{"a name of 300", "A", cove.SecretInput{Value: value, Hosts: []string{strings.Repeat("a.", 150) + "org"}}, "253"},
		{"an empty label", "A", cove.SecretInput{Value: value, Hosts: []string{"a..org"}}, "a part that is empty"},
		{"all at once", "-", cove.SecretInput{Value: "x", In: []cove.SecretPlace{"x"}}, "a name is letters, digits and _, at most 128 and no digit first; it is bound to no host; \"x\" is no place"},
	} {
		t.Run(c.test, func(t *testing.T) {
			w := newWorld(t)
			_, err := w.Set(t.Context(), "", c.name, c.in)
			if !errors.Is(err, cove.Invalid) || !strings.Contains(err.Error(), c.want) || cove.HintOf(err) == "" {
				t.Fatalf("Set = %v (hint %q), want %q", err, cove.HintOf(err), c.want)
			}
			if len(c.in.Value) > 3 && strings.Contains(err.Error(), c.in.Value) {
				t.Errorf("the error has the value: %v", err)
			}
			if list, err := w.List(t.Context()); err != nil || len(list) != 0 {
				t.Errorf("List = %v, %v", list, err)
			}
			if _, err := os.Stat(w.keyFile); err == nil {
				t.Error("a key was made")
			}
		})
	}
}

func TestValueInPlaceOfANameIsNotRepeated(t *testing.T) {
	w := newWorld(t)
	const misplaced = "ghp-in-the-wrong-place"
	_, err := w.Set(t.Context(), "", misplaced, cove.SecretInput{Value: value})
	_, _, err2 := w.Value(t.Context(), "", misplaced)
	for _, err := range []error{err, err2, w.Remove(t.Context(), "", misplaced)} {
		if err == nil || strings.Contains(err.Error()+cove.HintOf(err), misplaced) {
			t.Errorf("error = %v, hint %q", err, cove.HintOf(err))
		}
	}
}

func TestLinesMayBeInABody(t *testing.T) {
	w := newWorld(t)
	const key = "-----BEGIN KEY-----\nabcdefgh\tijk\r\n-----END KEY-----\n"
	if _, err := w.Set(t.Context(), "", "KEY", cove.SecretInput{Value: key, Hosts: []string{"example.org"}, In: []cove.SecretPlace{"body"}}); err != nil {
		t.Fatal(err)
	}
	if got, _, err := w.Value(t.Context(), "", "KEY"); err != nil || got != key {
		t.Errorf("Value = %q, %v", got, err)
	}
}

func TestTwoProcessesThatSetTheirFirstSecretHaveOneKey(t *testing.T) {
	w := newWorld(t)
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			other, err := secret.Open(w.store, w.keyFile)
			if err != nil {
				t.Error(err)
				return
			}
			name := string(rune('A' + i))
			if _, err := other.Set(t.Context(), "", name, cove.SecretInput{Value: value, Hosts: []string{"example.org"}}); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	list, err := w.List(t.Context())
	if err != nil || len(list) != 8 {
		t.Fatalf("List = %d, %v", len(list), err)
	}
	for _, s := range list {
		if got, _, err := w.Value(t.Context(), "", s.Name); err != nil || got != value {
			t.Errorf("%s = %q, %v", s.Name, got, err)
		}
	}
}

func TestPlaceholderHasTheShapeOfItsValue(t *testing.T) {
	for value, prefix := range map[string]string{
		value: "ghp_",
		"github_pat_11ABCDEFG0123456789_abcdefghijklmnopqrstuvwxyz": "github_pat_",
		"sk-ant-api03-abcDEF123456-_x":                              "sk-ant-api03-",
		"sk-proj-abcDEF1234567890":                                  "sk-proj-",
		"sk-short123":                                               "",
		"xoxb-123456789012-abcdefABCDEF":                            "xoxb-",
		"AKIAIOSFODNN7EXAMPLE":                                      "AKIA",
		"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl":         "eyJ",
		"correct horse battery":                                     "",
		"postgres://user:p%40ss\"w\\rd@db/x":                        "",
		"12345678":                                                  "",
	} {
		seen := map[string]bool{}
		for range 20 {
			p := secret.Placeholder(value)
			if len(p) != len(value) || !strings.HasPrefix(p, prefix) || p == value {
				t.Fatalf("Placeholder(%q) = %q", value, p)
			}
			for i := range value {
				if class(p[i]) != class(value[i]) {
					t.Errorf("Placeholder(%q) = %q: place %d is of another class", value, p, i)
				}
			}
			seen[p] = true
		}
		if len(seen) < 20 {
			t.Errorf("Placeholder(%q) is not random: %v", value, seen)
		}
	}
}

// class is what a placeholder keeps: of other characters, which it is.
func class(c byte) string {
	switch {
	case c >= '0' && c <= '9':
		return "digit"
	case c >= 'a' && c <= 'z':
		return "small"
	case c >= 'A' && c <= 'Z':
		return "capital"
	}
	return string(c)
}
