package sandbox

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/covehq/cove"
)

func owner(t *testing.T, name string) context.Context {
	t.Helper()
	return As(t.Context(), Caller{Owner: name})
}

func TestOwnersShareNothingT82(t *testing.T) {
	r := newRig(t, Options{})
	alice, bob, admin := owner(t, "alice"), owner(t, "bob"), As(t.Context(), Caller{Owner: "root", All: true})
	create := func(ctx context.Context, options CreateOptions) *Sandbox {
		t.Helper()
		made, err := r.Create(ctx, cove.Spec{Name: "web"}, options)
		if err != nil {
			t.Fatal(err)
		}
		return made
	}
	hers := create(alice, CreateOptions{IdempotencyKey: "once"})
	his := create(bob, CreateOptions{IdempotencyKey: "once"})
	if hers.ID() == his.ID() || hers.View().Owner != "alice" || his.View().Owner != "bob" {
		t.Fatalf("one name and one idempotency key gave %s of %q and %s of %q", hers.ID(), hers.View().Owner, his.ID(), his.View().Owner)
	}
	if again := create(alice, CreateOptions{IdempotencyKey: "once"}); again != hers {
		t.Error("her idempotency key gave something else")
	}
	if same, reused, err := r.Reuse(bob, cove.Spec{Name: "web"}, CreateOptions{}); err != nil || !reused || same != his {
		t.Errorf("his name was not reused as his: %v", err)
	}
	for _, test := range []struct {
		name string
		ctx  context.Context
		ask  string
		want *Sandbox
		code cove.Code
	}{
		{"her id, by her", alice, hers.ID(), hers, ""},
		{"her id, by him", bob, hers.ID(), nil, cove.NotFound},
		{"her id, by the admin", admin, hers.ID(), hers, ""},
		{"her id, by the host's own", t.Context(), hers.ID(), hers, ""},
		{"the name, by her", alice, "web", hers, ""},
		{"the name, by him", bob, "web", his, ""},
		{"the name, by somebody else", owner(t, "carol"), "web", nil, cove.NotFound},
		{"the name, by nobody's caller", owner(t, ""), "web", nil, cove.NotFound},
		{"the name, by the admin", admin, "web", nil, cove.Conflict},
	} {
		got, err := r.Sandbox(test.ctx, test.ask)
		if got != test.want || test.code != "" && cove.CodeOf(err) != test.code {
			t.Errorf("%s: %v, %v", test.name, got != nil, err)
		}
	}
	for ctx, want := range map[context.Context]int{alice: 1, bob: 1, admin: 2, owner(t, "carol"): 0} {
		if list, err := r.List(ctx, Filter{}); err != nil || len(list) != want {
			t.Errorf("%+v lists %d, want %d", CallerOf(ctx), len(list), want)
		}
	}
	if err := hers.Destroy(alice); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Sandbox(alice, hers.ID()); !errors.Is(err, cove.Gone) {
		t.Errorf("what was hers is %v to her, want gone", err)
	}
	if _, err := r.Sandbox(bob, hers.ID()); !errors.Is(err, cove.NotFound) {
		t.Errorf("what was hers is %v to him, want not found", err)
	}
	if got, err := r.Sandbox(admin, "web"); got != his {
		t.Errorf("the only one of a name: %v", err)
	}
	follow, stop := context.WithCancel(bob)
	defer stop()
	for _, events := range []func() []string{
		func() (seen []string) {
			for event := range r.Events(bob, 0) {
				seen = append(seen, event.Sandbox.Owner)
			}
			return seen
		},
		func() (seen []string) {
			for event := range r.Subscribe(follow, 0) {
				if seen = append(seen, event.Sandbox.Owner); event.Type == cove.EventRunning {
					stop()
				}
			}
			return seen
		},
	} {
		if seen := events(); len(seen) == 0 || slices.ContainsFunc(seen, func(owner string) bool { return owner != "bob" }) {
			t.Errorf("he saw events of %q", seen)
		}
	}
}

func TestAnOwnersSandboxesSurviveTheHostT82(t *testing.T) {
	w, dir := newWorld(), t.TempDir()
	first := openRig(t, w, dir, Options{})
	made, err := first.Create(owner(t, "alice"), cove.Spec{Name: "web"}, CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	first.shut()
	next := openRig(t, w, dir, Options{})
	if _, err := next.Sandbox(owner(t, "bob"), made.ID()); !errors.Is(err, cove.NotFound) {
		t.Errorf("after a restart he gets %v", err)
	}
	if found, err := next.Sandbox(owner(t, "alice"), "web"); err != nil || found.ID() != made.ID() {
		t.Errorf("after a restart she gets %v", err)
	}
}

func TestWhatOwnersWouldShareNeedsThePolicyT82(t *testing.T) {
	r := newRig(t, Options{})
	for name, spec := range map[string]cove.Spec{
		"a directory of the host": {Image: "rootfs:/etc"},
		"an archive of the host":  {Image: "docker-archive:/x.tar"},
		"an image of the engine":  {Image: "docker-daemon:private"},
		"a named volume":          {Mounts: []cove.Mount{{Type: cove.MountVolume, Source: "data", Target: "/data"}}},
	} {
		if _, err := r.Create(owner(t, "alice"), spec, CreateOptions{}); !errors.Is(err, cove.Forbidden) {
			t.Errorf("%s: %v, want forbidden", name, err)
		}
		if _, err := r.Create(t.Context(), spec, CreateOptions{}); errors.Is(err, cove.Forbidden) {
			t.Errorf("%s, for who sees all: %v", name, err)
		}
	}
}
