package sandbox

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/sandbox/driver"
	"github.com/covehq/cove/store"
)

// image is what a crash of the daemon leaves: the store's files as they are on disk at
// that moment, and what is on the machine.
type image struct {
	step   string
	dir    string
	things map[string]*thing
}

// crash takes an image while the host goes on, as kill -9 would leave it.
func (r *rig) crash(step string) image {
	taken := image{step: step, dir: filepath.Join(r.t.TempDir(), "state")}
	if err := os.MkdirAll(taken.dir, 0o700); err != nil {
		r.t.Error(err)
	}
	// SQLite writes the log before the database, so in this order a write between the two
	// is a write after the crash.
	for _, name := range []string{"cove.db", "cove.db-wal"} {
		content, err := os.ReadFile(filepath.Join(r.dir, name))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			r.t.Error(err)
		}
		if err := os.WriteFile(filepath.Join(taken.dir, name), content, 0o600); err != nil {
			r.t.Error(err)
		}
	}
	r.world.mu.Lock()
	defer r.world.mu.Unlock()
	taken.things = maps.Clone(r.world.things)
	return taken
}

// restart opens a host on an image.
func (i image) restart(t *testing.T, o Options) *rig {
	w := newWorld()
	w.things = i.things
	return openRig(t, w, i.dir, o)
}

func TestSandboxesSurviveTheDaemon(t *testing.T) {
	r := newRig(t, Options{})
	s := r.create(cove.Spec{Name: "box", TTL: cove.Duration(time.Hour), Idle: cove.Duration(time.Hour)})
	lost := r.create(cove.Spec{Name: "lost"})
	labels := map[string]string{"a": "b"}
	if _, err := s.Update(t.Context(), cove.SandboxUpdate{Labels: &labels}); err != nil {
		t.Fatal(err)
	}
	dead := r.create(cove.Spec{Name: "dead"})
	r.world.die(dead.ID(), driver.Exit{Reason: cove.ReasonOOM})
	eventually(t, "the dead one is buried", func() bool { return len(r.world.ids()) == 2 })
	eventually(t, "its end is written down", func() bool { return slices.Contains(r.records(), dead.ID()+" failed") })
	keyed, err := r.Create(t.Context(), cove.Spec{}, CreateOptions{IdempotencyKey: "key"})
	if err != nil {
		t.Fatal(err)
	}

	before := s.View()
	i := r.crash("at rest")
	half, orphan := &thing{dead: make(chan struct{})}, &thing{dead: make(chan struct{}), agent: newAgent()}
	i.things["halfmade"], i.things["orphan"] = half, orphan
	delete(i.things, lost.ID())
	next := i.restart(t, Options{})

	again, err := next.Sandbox(t.Context(), "box")
	if err != nil {
		t.Fatalf("Sandbox: %v", err)
	}
	view := again.View()
	if view.ID != before.ID || view.State != cove.StateRunning || view.Spec.Labels["a"] != "b" || view.Spec.Idle != before.Spec.Idle || !view.CreatedAt.Equal(before.CreatedAt) {
		t.Errorf("view = %+v, want %+v", view, before)
	}
	if drift := view.ExpiresAt.Sub(*before.ExpiresAt).Abs(); drift > time.Second {
		t.Errorf("expires %v later or earlier than before, want the same deadline", drift)
	}
	if got, err := again.Exec(t.Context(), exec("echo", "alive")); err != nil || got.Stdout != "alive" {
		t.Errorf("Exec = %+v, %v, want it to work", got, err)
	}
	gone, err := next.Sandbox(t.Context(), lost.ID())
	if err != nil {
		t.Fatalf("Sandbox of the lost one: %v", err)
	}
	if view := gone.View(); view.State != cove.StateFailed || view.Reason != cove.ReasonLost {
		t.Errorf("view = %+v, want failed because it was lost", view)
	}
	_, err = gone.Exec(t.Context(), exec("true"))
	wantError(t, err, cove.Gone, "was lost")
	if buried, err := next.Sandbox(t.Context(), "dead"); err != nil || buried.View().Message != "out of memory (limit 512MiB)" {
		t.Errorf("the dead one = %v, %v, want why it died", buried, err)
	}
	if same, err := next.Create(t.Context(), cove.Spec{}, CreateOptions{IdempotencyKey: "key"}); err != nil || same.ID() != keyed.ID() {
		t.Errorf("a repetition after the restart = %v, %v, want the sandbox of before", same, err)
	}
	_, err = next.Create(t.Context(), cove.Spec{Name: "box"}, CreateOptions{})
	wantError(t, err, cove.Conflict, "box")
	eventually(t, "what nobody owns is removed", func() bool {
		return slices.Equal(next.world.ids(), slices.Sorted(slices.Values([]string{s.ID(), keyed.ID()})))
	})
	if n := next.Len(); n != 2 {
		t.Errorf("Len = %d, want 2", n)
	}
	// The attached one is watched.
	next.world.die(again.ID(), driver.Exit{Reason: cove.ReasonKilled})
	eventually(t, "its end is seen", func() bool { return again.View().State == cove.StateFailed })
}

// Wherever in the life of a sandbox the daemon is killed, the next one either has the
// sandbox, and it works, or nothing of it is left; and what was acknowledged holds.
func TestDaemonMayDieAtEveryStep(t *testing.T) {
	r := newRig(t, Options{})
	type crashed struct {
		image
		acknowledged string // the last step that was, for certain, when the image was taken
	}
	var mu sync.Mutex
	var images []crashed
	var acknowledged atomic.Value
	acknowledged.Store("")
	take := func(step string) {
		before := acknowledged.Load().(string)
		taken := r.crash(step)
		mu.Lock()
		defer mu.Unlock()
		images = append(images, crashed{taken, before})
	}
	acknowledge := func(step string) {
		acknowledged.Store(step)
		take(step)
	}
	r.world.set(func(_ context.Context, at, _ string) error {
		if at != "probe" && at != "list" {
			take("driver " + at)
		}
		return nil
	})
	r.store.fail(func(record store.Record) error {
		take("before put " + string(record.State))
		return nil
	}, func(string) error {
		take("before delete")
		return nil
	})
	s := r.create(cove.Spec{Name: "box"})
	acknowledge("created")
	labels := map[string]string{"a": "b"}
	if _, err := s.Update(t.Context(), cove.SandboxUpdate{Labels: &labels}); err != nil {
		t.Fatal(err)
	}
	acknowledge("updated")
	if err := s.Destroy(t.Context()); err != nil {
		t.Fatal(err)
	}
	acknowledge("destroyed")
	r.world.set(nil)
	r.store.fail(nil, nil)

	seen := make(map[string]bool)
	for _, i := range images {
		seen[i.step] = true
		t.Run(i.step, func(t *testing.T) {
			// The agent of the first host's sandbox is gone by now: what was on the
			// machine gets another.
			for id, was := range i.things {
				i.things[id] = &thing{dead: make(chan struct{})}
				if was.agent != nil {
					i.things[id].agent = newAgent()
				}
			}
			next := i.restart(t, Options{SweepInterval: 5 * time.Millisecond})
			found, err := next.Sandbox(t.Context(), "box")
			if err == nil && found.View().State == cove.StateRunning {
				if i.acknowledged == "destroyed" {
					t.Error("a destroyed sandbox runs")
				}
				if i.acknowledged == "updated" && found.View().Spec.Labels["a"] != "b" {
					t.Error("an update that was acknowledged is lost")
				}
				if got, err := found.Exec(t.Context(), exec("echo", "alive")); err != nil || got.Stdout != "alive" {
					t.Errorf("Exec = %+v, %v, want it to work", got, err)
				}
				if err := found.Destroy(t.Context()); err != nil {
					t.Errorf("Destroy: %v", err)
				}
			} else if i.step == "created" || i.step == "updated" {
				t.Errorf("a sandbox that was acknowledged does not run: %v", err)
			}
			eventually(t, "nothing is left", func() bool { return len(next.world.ids()) == 0 && next.Len() == 0 })
			if list, err := next.List(t.Context(), Filter{}); err != nil || len(list) != 0 && list[0].Reason != cove.ReasonLost {
				t.Errorf("List = %+v, %v, want nothing, or why it is gone", list, err)
			}
		})
	}
	for _, step := range []string{"before put creating", "driver create", "driver boot", "driver booted", "driver dial", "before put running", "created", "before put stopped", "driver destroy", "before delete"} {
		if !seen[step] {
			t.Errorf("no crash was tried at step %q of %v", step, slices.Sorted(maps.Keys(seen)))
		}
	}
}

func TestReasonOfAnEndSurvivesADaemonThatDiesWhileItClears(t *testing.T) {
	r := newRig(t, Options{})
	s := r.create(cove.Spec{})
	images := make(chan image, 1)
	r.world.set(func(_ context.Context, at, _ string) error {
		if at == "destroy" {
			images <- r.crash("driver destroy")
		}
		return nil
	})
	r.world.die(s.ID(), driver.Exit{Reason: cove.ReasonOOM})
	next := (<-images).restart(t, Options{})
	found, err := next.Sandbox(t.Context(), s.ID())
	if err != nil || found.View().Reason != cove.ReasonOOM {
		t.Errorf("Sandbox = %v, %v, want it out of memory, not lost", found, err)
	}
	if ids := next.world.ids(); len(ids) != 0 {
		t.Errorf("on the machine: %v, want nothing", ids)
	}
}

func TestKeyOfAFailedCreateIsFreeAfterARestart(t *testing.T) {
	r := newRig(t, Options{})
	r.world.set(func(_ context.Context, at, id string) error {
		switch at {
		case "booted":
			r.world.find(id).agent.initError = errors.New("no such user")
		case "destroy":
			return errors.New("the mount is busy")
		}
		return nil
	})
	create := func(r *rig) (*Sandbox, error) {
		return r.Create(t.Context(), cove.Spec{Name: "box"}, CreateOptions{IdempotencyKey: "key"})
	}
	if _, err := create(r); !errors.Is(err, cove.Invalid) {
		t.Fatalf("Create = %v, want invalid", err)
	}
	i := r.crash("at rest")
	w := newWorld()
	w.things = i.things
	w.set(failing("remove", errors.New("the mount is still busy")))
	next := openRig(t, w, i.dir, Options{})
	s, err := create(next)
	if err != nil || s.View().State != cove.StateRunning {
		t.Errorf("Create after the restart = %v, %v, want a sandbox that runs", s, err)
	}
}

func TestDriverThatCannotTellIsAskedAgain(t *testing.T) {
	r := newRig(t, Options{})
	s := r.create(cove.Spec{Name: "box"})
	expiring := r.create(cove.Spec{TTL: cove.Duration(50 * time.Millisecond)})
	i := r.crash("at rest")
	w := newWorld()
	w.things = i.things
	w.set(failing("attach", errors.New("the engine does not answer")))
	next := openRig(t, w, i.dir, Options{SweepInterval: 5 * time.Millisecond})

	absent, err := next.Sandbox(t.Context(), s.ID())
	if err != nil || absent.View().State != cove.StateRunning {
		t.Fatalf("Sandbox = %v, %v, want it, as it may run", absent, err)
	}
	_, err = absent.Exec(t.Context(), exec("true"))
	wantError(t, err, cove.Unavailable, "the engine does not answer")
	// A lease holds also for what could not be attached.
	eventually(t, "the other one has expired", func() bool { return slices.Equal(w.ids(), []string{s.ID()}) })
	if other, err := next.Sandbox(t.Context(), expiring.ID()); err != nil || other.View().Reason != cove.ReasonExpired {
		t.Errorf("the other one = %v, %v, want it expired", other, err)
	}
	w.set(nil)
	eventually(t, "it is attached", func() bool {
		_, err := absent.Exec(t.Context(), exec("true"))
		return err == nil
	})
	if err := absent.Destroy(t.Context()); err != nil {
		t.Errorf("Destroy: %v", err)
	}
}

func TestSandboxOfARuntimeThatIsNotThere(t *testing.T) {
	r := newRig(t, Options{})
	s := r.create(cove.Spec{})
	i := r.crash("at rest")
	other := newWorld()
	next := openRig(t, newWorld(), i.dir, Options{Drivers: map[string]driver.Opener{"other": opener(other)}})
	found, err := next.Sandbox(t.Context(), s.ID())
	if err != nil {
		t.Fatalf("Sandbox: %v", err)
	}
	_, err = found.Exec(t.Context(), exec("true"))
	wantError(t, err, cove.Unavailable, "runtime test is not part of this host")
	if err := found.Destroy(t.Context()); err == nil || !strings.Contains(err.Error(), "runtime test is not part of this host") {
		t.Errorf("Destroy = %v, want an error: its remains can't be removed", err)
	}
	if records := next.records(); len(records) != 1 {
		t.Errorf("records = %v, want the one of what is left", records)
	}
}

func TestLeasesHoldAcrossRestarts(t *testing.T) {
	r := newRig(t, Options{})
	s := r.create(cove.Spec{TTL: cove.Duration(30 * time.Millisecond)})
	i := r.crash("at rest")
	eventually(t, "its time is over", func() bool { return s.View().State == cove.StateStopped })
	for id := range i.things {
		i.things[id] = &thing{dead: make(chan struct{}), agent: newAgent()}
	}
	next := i.restart(t, Options{})
	eventually(t, "it is removed from the machine", func() bool { return len(next.world.ids()) == 0 })
	found, err := next.Sandbox(t.Context(), s.ID())
	if err != nil || found.View().Reason != cove.ReasonExpired {
		t.Errorf("Sandbox = %v, %v, want it expired", found, err)
	}
}

func TestWallClockThatWasSetBackDoesNotExtendALease(t *testing.T) {
	r := newRig(t, Options{})
	day := 24 * time.Hour
	record := store.Record{
		ID: "a", State: cove.StateRunning, Spec: cove.Spec{Runtime: "test", TTL: cove.Duration(time.Hour), Idle: cove.Never},
		ExpiresAt: time.Now().Add(day),
	}
	r.load(record)
	s, err := r.Sandbox(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	if left := time.Until(*s.View().ExpiresAt); left > time.Hour {
		t.Errorf("the lease lasts for %v, want at most its hour", left)
	}
}

func TestEndedSandboxesAreForgottenAfterARestart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	w := newWorld()
	r := openRig(t, w, dir, Options{})
	base := store.Record{State: cove.StateFailed, Reason: cove.ReasonOOM, Spec: cove.Spec{Runtime: "test"}.WithDefaults()}
	put := func(id string, change func(*store.Record)) {
		record := base
		record.ID, record.EndedAt = id, time.Now()
		change(&record)
		if err := r.store.Put(t.Context(), record); err != nil {
			t.Fatal(err)
		}
	}
	put("old", func(r *store.Record) { r.EndedAt = time.Now().Add(-time.Hour) })
	put("recent", func(r *store.Record) {})
	put("uncleared", func(r *store.Record) { r.Handle = []byte("handle of uncleared") })
	put("removed", func(r *store.Record) {
		r.State, r.Reason, r.Handle = cove.StateStopped, cove.ReasonRemoved, []byte("x")
	})
	put("unborn", func(r *store.Record) { r.Reason, r.Handle = cove.ReasonCreate, []byte("x") })
	r.shut()
	for _, id := range []string{"uncleared", "removed", "unborn"} {
		w.add(id, &thing{dead: make(chan struct{})})
	}
	next := openRig(t, w, dir, Options{})
	if records := next.records(); !slices.Equal(records, []string{"recent failed", "uncleared failed"}) {
		t.Errorf("records = %v, want the recent ones", records)
	}
	if ids := w.ids(); len(ids) != 0 {
		t.Errorf("on the machine: %v, want nothing", ids)
	}
}

func TestSweepTellsOwnFromForeign(t *testing.T) {
	r := newRig(t, Options{SweepInterval: 5 * time.Millisecond})
	kept := r.create(cove.Spec{})
	r.world.add("stray", &thing{dead: make(chan struct{})})
	r.world.set(failing("remove", errors.New("busy")))
	eventually(t, "removing fails", func() bool { return strings.Contains(r.log.String(), "busy") })
	r.world.set(nil)
	eventually(t, "the stray is removed", func() bool { return slices.Equal(r.world.ids(), []string{kept.ID()}) })
}

func TestOpenNeedsAStoreAndADriver(t *testing.T) {
	for _, o := range []Options{{}, {Drivers: map[string]driver.Opener{"test": opener(newWorld())}}} {
		_, err := Open(t.Context(), o)
		wantError(t, err, cove.Invalid, "store and a driver")
	}
}
