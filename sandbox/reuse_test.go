package sandbox

import (
	"context"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/covehq/cove"
)

func TestReuseTakesTheSandboxOfThatName(t *testing.T) {
	dir, w := filepath.Join(t.TempDir(), "state"), newWorld()
	r := openRig(t, w, dir, Options{})
	spec := cove.Spec{Name: "box", Ports: []cove.Port{{Port: 80}}, Env: map[string]string{"TOKEN": "s3cret"}, Limits: cove.Limits{Memory: cove.GiB}}
	first, reused, err := r.Reuse(t.Context(), spec, CreateOptions{})
	if err != nil || reused {
		t.Fatalf("the first: reused %v, %v", reused, err)
	}
	long := cove.Duration(5 * time.Hour)
	if _, err := first.Update(t.Context(), cove.SandboxUpdate{TTL: &long}); err != nil {
		t.Fatal(err)
	}
	second, reused, err := r.Reuse(t.Context(), spec, CreateOptions{})
	if err != nil || !reused || second != first {
		t.Fatalf("the second: %v, reused %v, %v, want the first", second, reused, err)
	}
	r.shut()
	r = openRig(t, w, dir, Options{})
	third, reused, err := r.Reuse(t.Context(), spec, CreateOptions{})
	if err != nil || !reused || third.ID() != first.ID() {
		t.Fatalf("after a restart: reused %v, %v, want the first", reused, err)
	}
	if err := third.Destroy(t.Context()); err != nil {
		t.Fatal(err)
	}
	fourth, reused, err := r.Reuse(t.Context(), spec, CreateOptions{})
	if err != nil || reused || fourth.ID() == first.ID() {
		t.Errorf("after its end: reused %v, %v, want a new one", reused, err)
	}
}

func TestReuseNamesEveryDifference(t *testing.T) {
	r := newRig(t, Options{})
	spec := cove.Spec{
		Name: "box", Env: map[string]string{"TOKEN": "s3cret", "OLD": "1"}, Limits: cove.Limits{Memory: cove.GiB}, Labels: map[string]string{"team": "a"},
		Ports: []cove.Port{{Port: 80}},
	}
	r.create(spec)
	other := cove.Spec{
		Name: "box", Env: map[string]string{"TOKEN": "0ther", "NEW": "1"}, Workdir: "/src", User: "1000", ReadOnly: true, Labels: map[string]string{"team": "b"},
		TTL: cove.Never,
	}
	_, _, err := r.Reuse(t.Context(), other, CreateOptions{})
	wantError(t, err, cove.Conflict,
		"limits.memory is 1GiB, asked for is 512MiB", "env.TOKEN has another value", "env.OLD is set, and not asked for", "env.NEW is asked for, and not set",
		`workdir is "/workspace", asked for is "/src"`, `user is "user", asked for is "1000"`, "read_only is false, asked for is true",
		`labels.team is "a", asked for is "b"`, "ttl is 1h0m0s, asked for is never", `ports is [{"port":80,"address":"127.0.0.1"}], asked for is null`)
	if strings.Contains(err.Error(), "s3cret") || strings.Contains(err.Error(), "0ther") {
		t.Errorf("values of variables are shown: %v", err)
	}
	if r.Len() != 1 {
		t.Errorf("%d sandboxes, want the one", r.Len())
	}
}

func TestReuseNeedsANameAndAValidSpec(t *testing.T) {
	r := newRig(t, Options{})
	_, _, err := r.Reuse(t.Context(), cove.Spec{}, CreateOptions{})
	wantError(t, err, cove.Invalid, "no name")
	_, _, err = r.Reuse(t.Context(), cove.Spec{Name: "box", Workdir: "src"}, CreateOptions{})
	wantError(t, err, cove.Invalid, "workdir")
}

// Many callers that want the same name at once get one sandbox, also when the first
// attempt to make it fails.
func TestReuseHammer(t *testing.T) {
	r := newRig(t, Options{})
	var once sync.Once
	r.world.set(func(_ context.Context, at, _ string) (err error) {
		if at == "boot" {
			once.Do(func() { err = context.DeadlineExceeded })
		}
		return err
	})
	var group sync.WaitGroup
	ids, errs := make([]string, 16), make([]error, 16)
	for i := range ids {
		group.Go(func() {
			var s *Sandbox
			if s, _, errs[i] = r.Reuse(t.Context(), cove.Spec{Name: "box"}, CreateOptions{}); errs[i] == nil {
				ids[i] = s.ID()
			}
		})
	}
	group.Wait()
	made, failed := map[string]int{}, 0
	for i, err := range errs {
		if err != nil {
			failed++
		} else {
			made[ids[i]]++
		}
	}
	if len(made) != 1 || failed != 1 || r.Len() != 1 {
		t.Errorf("made %v, %d failed, %d live; want one sandbox for all but the one whose create failed", made, failed, r.Len())
	}
}
