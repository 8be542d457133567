package key

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/store/sqlite"
)

func openRing(t *testing.T, dir string) (*Ring, *sqlite.Store) {
	t.Helper()
	records, err := sqlite.Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	ring, err := Open(t.Context(), records)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ring.Close()
		records.Close()
	})
	return ring, records
}

func create(t *testing.T, r *Ring, in cove.KeyInput) cove.NewKey {
	t.Helper()
	made, err := r.Create(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

func TestAKeyIs256BitsOfChanceAndKeptAsItsHashT81(t *testing.T) {
	dir := t.TempDir()
	ring, records := openRing(t, dir)
	made := create(t, ring, cove.KeyInput{Name: "ci"})
	other := create(t, ring, cove.KeyInput{Name: "cd"})
	id, secret, ok := strings.Cut(strings.TrimPrefix(made.Secret, "cove_"), "_")
	raw, err := base64.RawURLEncoding.DecodeString(secret)
	if !ok || id != made.ID || err != nil || len(raw) != 32 || strings.HasSuffix(other.Secret, secret) {
		t.Fatalf("the key of id %s is not cove_ID_ and 32 bytes: %v", made.ID, err)
	}
	if made.Owner != "ci" || made.Scope != cove.ScopeRun || made.ExpiresAt != nil {
		t.Errorf("a key of a name alone is %+v", made.Key)
	}
	kept, err := records.Keys(t.Context())
	if err != nil || len(kept) != 2 {
		t.Fatalf("the store has %d keys, %v", len(kept), err)
	}
	if hash := sha256.Sum256([]byte(made.Secret)); !bytes.Equal(kept[1].Hash, hash[:]) {
		t.Error("the store has something else than the hash")
	}
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(files) == 0 {
		t.Fatal(err)
	}
	for _, name := range files {
		content, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(content, []byte(secret)) || bytes.Contains(content, raw) {
			t.Errorf("%s has the key in it", name)
		}
	}
}

func TestCheck(t *testing.T) {
	ring, _ := openRing(t, t.TempDir())
	good := create(t, ring, cove.KeyInput{Name: "ci", Owner: "team", Scope: cove.ScopeRead})
	gone := create(t, ring, cove.KeyInput{Name: "gone"})
	other := create(t, ring, cove.KeyInput{Name: "other"})
	if err := ring.Remove(t.Context(), "gone"); err != nil {
		t.Fatal(err)
	}
	flipped := []byte(good.Secret)
	flipped[len(flipped)-2] ^= 1
	for name, secret := range map[string]string{
		"nothing": "", "a word": "secret", "its id": good.ID, "one that was revoked": gone.Secret, "one with another end": string(flipped),
		"one cut short": good.Secret[:len(good.Secret)-1], "one with more": good.Secret + "A", "one in capitals": strings.ToUpper(good.Secret),
		"the id of one with the secret of another": good.Secret[:len("cove_")+idLength] + other.Secret[len("cove_")+idLength:],
		"an id that there is not":                  "cove_" + strings.Repeat("a", idLength) + good.Secret[len("cove_")+idLength:],
		"zeros":                                    strings.Repeat("\x00", length),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ring.Check(secret)
			if !errors.Is(err, cove.Unauthenticated) || cove.HintOf(err) == "" {
				t.Errorf("got %v, want unauthenticated and a hint", err)
			}
			if len(secret) > 20 && err != nil && strings.Contains(err.Error()+cove.HintOf(err), secret) {
				t.Error("the error has the key in it")
			}
		})
	}
	grant, err := ring.Check(good.Secret)
	if err != nil || grant.Name != "ci" || grant.Owner != "team" || grant.Scope != cove.ScopeRead || grant.Life().Err() != nil {
		t.Errorf("got %+v, %v", grant.Key, err)
	}
}

func TestAGrantEndsWithItsKey(t *testing.T) {
	ring, _ := openRing(t, t.TempDir())
	brief := create(t, ring, cove.KeyInput{Name: "brief", Expires: cove.Duration(time.Second)})
	named := create(t, ring, cove.KeyInput{Name: "named"})
	byID := create(t, ring, cove.KeyInput{Name: "by-id"})
	grants := map[string]Grant{}
	for _, k := range []cove.NewKey{brief, named, byID} {
		grant, err := ring.Check(k.Secret)
		if err != nil {
			t.Fatal(err)
		}
		grants[k.Name] = grant
	}
	for _, name := range []string{"named", byID.ID} {
		if err := ring.Remove(t.Context(), name); err != nil {
			t.Fatal(err)
		}
		if err := ring.Remove(t.Context(), name); !errors.Is(err, cove.NotFound) {
			t.Errorf("removing %s twice: %v", name, err)
		}
	}
	for _, name := range []string{"named", "by-id"} {
		if why := context.Cause(grants[name].Life()); !errors.Is(why, ErrRevoked) {
			t.Errorf("the grant of %s ended by %v", name, why)
		}
	}
	<-grants["brief"].Life().Done()
	if why := context.Cause(grants["brief"].Life()); !errors.Is(why, ErrExpired) {
		t.Errorf("the grant of a key that expires ended by %v", why)
	}
	if _, err := ring.Check(brief.Secret); !errors.Is(err, cove.Unauthenticated) || !strings.Contains(err.Error(), "expired") {
		t.Errorf("an expired key: %v", err)
	}
}

func TestKeysSurviveTheDaemon(t *testing.T) {
	dir := t.TempDir()
	ring, records := openRing(t, dir)
	made := create(t, ring, cove.KeyInput{Name: "ci", Scope: cove.ScopeAdmin, Expires: cove.Duration(time.Hour)})
	gone := create(t, ring, cove.KeyInput{Name: "gone"})
	if err := ring.Remove(t.Context(), "gone"); err != nil {
		t.Fatal(err)
	}
	ring.Close()
	if err := records.Close(); err != nil {
		t.Fatal(err)
	}
	next, _ := openRing(t, dir)
	if grant, err := next.Check(made.Secret); err != nil || grant.Scope != cove.ScopeAdmin || !grant.ExpiresAt.Equal(*made.ExpiresAt) {
		t.Errorf("after a restart: %+v, %v", grant.Key, err)
	}
	if _, err := next.Check(gone.Secret); !errors.Is(err, cove.Unauthenticated) {
		t.Errorf("a revoked key after a restart: %v", err)
	}
}

func TestCreateSaysAllThatIsWrong(t *testing.T) {
	ring, _ := openRing(t, t.TempDir())
	create(t, ring, cove.KeyInput{Name: "taken"})
	for name, test := range map[string]struct {
		in   cove.KeyInput
		code cove.Code
		want []string
	}{
		"everything":          {cove.KeyInput{Name: "a b", Owner: "-", Scope: "root", Expires: 1}, cove.Invalid, []string{"name", "owner", "scope", "expires"}},
		"no name":             {cove.KeyInput{}, cove.Invalid, []string{"name"}},
		"control characters":  {cove.KeyInput{Name: "a\x1b[31m"}, cove.Invalid, []string{"name"}},
		"a key for a name":    {cove.KeyInput{Name: generate()}, cove.Invalid, []string{"name"}},
		"a name that is long": {cove.KeyInput{Name: strings.Repeat("a", 64)}, cove.Invalid, []string{"name"}},
		"a name that is used": {cove.KeyInput{Name: "taken"}, cove.Conflict, []string{"there is a key of this name"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ring.Create(t.Context(), test.in)
			if cove.CodeOf(err) != test.code {
				t.Fatalf("got %v, want %s", err, test.code)
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not say %q", err, want)
				}
			}
		})
	}
	if ring.Len() != 1 {
		t.Errorf("there are %d keys, want 1", ring.Len())
	}
}

func TestHammer(t *testing.T) {
	ring, _ := openRing(t, t.TempDir())
	var group sync.WaitGroup
	for worker := range 8 {
		group.Go(func() {
			for i := range 10 {
				name := fmt.Sprintf("%d-%d", worker, i)
				made, err := ring.Create(t.Context(), cove.KeyInput{Name: name})
				if err != nil {
					t.Error(err)
					return
				}
				grant, err := ring.Check(made.Secret)
				if err != nil {
					t.Error(err)
					return
				}
				ring.List()
				if err := ring.Remove(t.Context(), name); err != nil || grant.Life().Err() == nil {
					t.Errorf("removed with %v, life %v", err, grant.Life().Err())
				}
				if _, err := ring.Check(made.Secret); err == nil {
					t.Error("a revoked key is good")
				}
			}
		})
	}
	group.Wait()
	if ring.Len() != 0 {
		t.Errorf("%d keys are left", ring.Len())
	}
}
