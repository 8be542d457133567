package sandbox

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/sandbox/driver"
	"github.com/covehq/cove/store"
)

func TestCreateReturnsARunningSandbox(t *testing.T) {
	r := newRig(t, Options{})
	before := time.Now()
	s := r.create(cove.Spec{Name: "box", Env: map[string]string{"A": "1"}, Labels: map[string]string{"team": "x"}, User: "1000", Workdir: "/w"})

	view := s.View()
	if !regexp.MustCompile(`^[a-z][a-z0-9]{19}$`).MatchString(view.ID) || view.ID != s.ID() {
		t.Errorf("id = %q, want 20 letters and digits, a letter first", view.ID)
	}
	if view.Name != "box" || view.State != cove.StateRunning || view.Runtime != "test" || view.Acquired != cove.AcquiredCold {
		t.Errorf("view = %+v, want box, running, test, cold", view)
	}
	if view.Isolation != cove.IsolationUserspaceKernel || view.Controls[cove.ControlMemory] != cove.Enforced || len(view.Controls) != len(cove.Controls) {
		t.Errorf("isolation = %v, controls = %v, want the driver's", view.Isolation, view.Controls)
	}
	if view.Spec.Limits.Memory != cove.DefaultMemory || view.Spec.TTL != cove.DefaultTTL {
		t.Errorf("spec = %+v, want the defaults in it", view.Spec)
	}
	if view.ExpiresAt == nil || view.ExpiresAt.Before(before.Add(time.Hour)) || view.ExpiresAt.After(time.Now().Add(time.Hour)) {
		t.Errorf("expires at %v, want in one hour", view.ExpiresAt)
	}
	agent := r.world.find(s.ID()).agent
	agent.mu.Lock()
	init := fmt.Sprint(agent.init)
	agent.mu.Unlock()
	if want := "map[accounts:false capabilities:<nil> defaultUser:1000 defaultWorkdir:/w dropped:<nil> envVars:map[A:1] memory:5.36870912e+08 ulimits:<nil>]"; init != want {
		t.Errorf("the guest was told %s, want %s", init, want)
	}
	for _, key := range []string{"box", s.ID()} {
		if found, err := r.Sandbox(t.Context(), key); err != nil || found != s {
			t.Errorf("Sandbox(%s) = %v, %v, want the one created", key, found, err)
		}
	}
	if records := r.records(); !slices.Equal(records, []string{s.ID() + " running"}) {
		t.Errorf("records = %v, want one that runs", records)
	}
	view.Spec.Labels["team"], view.Spec.Env["A"] = "changed", "changed"
	if again := s.View(); again.Spec.Labels["team"] != "x" || again.Spec.Env["A"] != "1" {
		t.Errorf("changing a view changed the sandbox: %+v", again.Spec)
	}
	r.wantEvents("creating", "running")
}

// Every way in which a create can fail leaves nothing: not on the machine, not in the
// store, not in the host; and the same create succeeds right after.
func TestFailedCreateLeavesNothing(t *testing.T) {
	broken := errors.New("it broke")
	step := func(name string, err error) func(*rig, context.CancelFunc) {
		return func(r *rig, _ context.CancelFunc) { r.world.set(failing(name, err)) }
	}
	cancelAt := func(name string) func(*rig, context.CancelFunc) {
		return func(r *rig, cancel context.CancelFunc) {
			r.world.set(func(ctx context.Context, at, _ string) error {
				if at == name {
					cancel()
					return ctx.Err()
				}
				return nil
			})
		}
	}
	putOf := func(state cove.State, err error) func(*rig, context.CancelFunc) {
		return func(r *rig, cancel context.CancelFunc) {
			r.store.fail(func(record store.Record) error {
				if record.State != state {
					return nil
				}
				if err == nil {
					cancel()
				}
				return err
			}, nil)
		}
	}
	full := &cove.Error{Code: cove.NoSpace, Op: "put record", Err: broken, Hint: "free some space"}
	tests := []struct {
		name  string
		fault func(*rig, context.CancelFunc)
		code  cove.Code
		is    error
	}{
		{"the store can't note it", putOf(cove.StateCreating, full), cove.NoSpace, broken},
		{"the store can't note that it runs", putOf(cove.StateRunning, full), cove.NoSpace, broken},
		{"the driver fails at once", step("create", broken), cove.Internal, broken},
		{"the driver fails half-way", step("boot", broken), cove.Internal, broken},
		{"the driver fails at the end", step("booted", broken), cove.Internal, broken},
		{"the driver says why", step("boot", &cove.Error{Code: cove.NotFound, Op: "pull", Err: broken, Hint: "x"}), cove.NotFound, broken},
		{"the driver returns a bare code", step("boot", cove.NoSpace), cove.NoSpace, cove.NoSpace},
		{"the guest can't be dialled", step("dial", broken), cove.Unavailable, cove.Unavailable},
		{"the guest refuses its settings", func(r *rig, _ context.CancelFunc) {
			r.world.set(func(_ context.Context, at, id string) error {
				if at == "booted" {
					r.world.find(id).agent.initError = errors.New("no such user")
				}
				return nil
			})
		}, cove.Invalid, cove.Invalid},
		{"it dies before the guest answers", func(r *rig, _ context.CancelFunc) {
			r.world.set(func(_ context.Context, at, id string) error {
				if at == "booted" {
					r.world.die(id, driver.Exit{Reason: cove.ReasonOOM})
				}
				return nil
			})
		}, cove.Unavailable, cove.Unavailable},
		{"the caller leaves before it is made", putOf(cove.StateCreating, nil), cove.Unavailable, context.Canceled},
		{"the caller leaves while the driver begins", cancelAt("create"), cove.Unavailable, context.Canceled},
		{"the caller leaves while the driver works", cancelAt("boot"), cove.Unavailable, context.Canceled},
		{"the caller leaves when the driver is through", func(r *rig, cancel context.CancelFunc) {
			r.world.set(func(_ context.Context, at, _ string) error {
				if at == "booted" {
					cancel() // which the driver does not notice any more
				}
				return nil
			})
		}, cove.Unavailable, context.Canceled},
		{"the caller leaves while the guest is dialled", cancelAt("dial"), cove.Unavailable, context.Canceled},
		{"the caller leaves at the last write", putOf(cove.StateRunning, nil), cove.Unavailable, context.Canceled},
		{"the caller leaves right after the last write", func(r *rig, cancel context.CancelFunc) {
			r.store.mu.Lock()
			defer r.store.mu.Unlock()
			r.store.written = func(record store.Record) {
				if record.State == cove.StateRunning {
					cancel()
				}
			}
		}, cove.Unavailable, context.Canceled},
		{"somebody removes it while the driver works", func(r *rig, _ context.CancelFunc) {
			r.world.set(func(ctx context.Context, at, id string) error {
				if at == "boot" {
					s, err := r.Sandbox(ctx, "box")
					if err != nil {
						return err
					}
					go s.Destroy(context.Background())
					<-ctx.Done()
					return ctx.Err()
				}
				return nil
			})
		}, cove.Gone, cove.Gone},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r := newRig(t, Options{})
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			test.fault(r, cancel)
			_, err := r.Create(ctx, cove.Spec{Name: "box"}, CreateOptions{IdempotencyKey: "key"})
			if cove.CodeOf(err) != test.code || !errors.Is(err, test.is) {
				t.Errorf("Create = %v (%s), want %s because of %v", err, cove.CodeOf(err), test.code, test.is)
			}
			var e *cove.Error
			if !errors.As(err, &e) || e.Op != "create" {
				t.Errorf("Create = %#v, want an error of create", err)
			}
			r.empty()
			want := []string{"creating", "failed create", "removed create"}
			if test.code == cove.Gone {
				want = []string{"creating", "stopped removed", "removed removed"}
			}
			r.wantEvents(want...)

			r.world.set(nil)
			r.store.fail(nil, nil)
			r.store.mu.Lock()
			r.store.written = nil
			r.store.mu.Unlock()
			if _, err := r.Create(t.Context(), cove.Spec{Name: "box"}, CreateOptions{IdempotencyKey: "key"}); err != nil {
				t.Errorf("the same create without the fault = %v, want nil", err)
			}
		})
	}
}

func TestCreateThatCannotBeUndoneIsClearedLater(t *testing.T) {
	r := newRig(t, Options{SweepInterval: 5 * time.Millisecond})
	r.world.set(func(_ context.Context, at, _ string) error {
		if at == "dial" || at == "destroy" {
			return errors.New("it broke")
		}
		return nil
	})
	if _, err := r.Create(t.Context(), cove.Spec{Name: "box"}, CreateOptions{IdempotencyKey: "key"}); err == nil {
		t.Fatal("Create = nil, want an error")
	}
	if len(r.world.ids()) != 1 {
		t.Fatalf("on the machine: %v, want what could not be destroyed", r.world.ids())
	}
	r.world.set(nil)
	// Neither the name nor the key is kept from the next create.
	s, err := r.Create(t.Context(), cove.Spec{Name: "box"}, CreateOptions{IdempotencyKey: "key"})
	if err != nil {
		t.Fatalf("Create = %v, want nil", err)
	}
	eventually(t, "only the second sandbox is left", func() bool { return slices.Equal(r.world.ids(), []string{s.ID()}) })
	eventually(t, "only its record is left", func() bool { return slices.Equal(r.records(), []string{s.ID() + " running"}) })
}

func TestCreateHasATimeLimit(t *testing.T) {
	r := newRig(t, Options{CreateTimeout: 20 * time.Millisecond})
	r.world.set(func(ctx context.Context, at, _ string) error {
		if at == "boot" {
			<-ctx.Done()
			return ctx.Err()
		}
		return nil
	})
	_, err := r.Create(t.Context(), cove.Spec{}, CreateOptions{})
	wantError(t, err, cove.Timeout, "did not come up within 20ms")
	r.empty()
}

func TestBootsWaitForEachOther(t *testing.T) {
	r := newRig(t, Options{MaxBoots: 2})
	var mu sync.Mutex
	var now, most int
	r.world.set(func(ctx context.Context, at, _ string) error {
		mu.Lock()
		defer mu.Unlock()
		switch at {
		case "create":
			now++
			most = max(most, now)
		case "booted":
			now--
		}
		return nil
	})
	var group sync.WaitGroup
	for range 12 {
		group.Go(func() {
			if _, err := r.Create(t.Context(), cove.Spec{}, CreateOptions{}); err != nil {
				t.Errorf("Create: %v", err)
			}
		})
	}
	group.Wait()
	if most > 2 {
		t.Errorf("%d sandboxes booted at the same time, want at most 2", most)
	}
}

func TestNames(t *testing.T) {
	r := newRig(t, Options{})
	first := r.create(cove.Spec{Name: "box"})
	_, err := r.Create(t.Context(), cove.Spec{Name: "box"}, CreateOptions{})
	wantError(t, err, cove.Conflict, "box", first.ID())

	// A dead sandbox can be found by its name until somebody else takes it.
	r.world.die(first.ID(), driver.Exit{Reason: cove.ReasonKilled})
	eventually(t, "the first has failed", func() bool { return first.View().State == cove.StateFailed })
	if found, err := r.Sandbox(t.Context(), "box"); err != nil || found != first {
		t.Errorf("Sandbox(box) = %v, %v, want the dead one", found, err)
	}
	second := r.create(cove.Spec{Name: "box"})
	if found, err := r.Sandbox(t.Context(), "box"); err != nil || found != second {
		t.Errorf("Sandbox(box) = %v, %v, want the living one", found, err)
	}
	if err := first.Destroy(t.Context()); err != nil {
		t.Fatalf("Destroy: %v", err)
	}
	if found, err := r.Sandbox(t.Context(), "box"); err != nil || found != second {
		t.Errorf("Sandbox(box) after the dead one was removed = %v, %v, want the living one", found, err)
	}
	if err := second.Destroy(t.Context()); err != nil {
		t.Fatalf("Destroy: %v", err)
	}
	_, err = r.Sandbox(t.Context(), "box")
	wantError(t, err, cove.NotFound, "box")
}

func TestIdempotencyKeys(t *testing.T) {
	r := newRig(t, Options{})
	create := func(spec cove.Spec, key string) (*Sandbox, error) {
		return r.Create(t.Context(), spec, CreateOptions{IdempotencyKey: key})
	}
	first, err := create(cove.Spec{Name: "box"}, "k1")
	if err != nil {
		t.Fatalf("Create: %v", err)
	}
	// The same spec, with a default written out.
	if again, err := create(cove.Spec{Name: "box", Image: cove.DefaultImage}, "k1"); err != nil || again != first {
		t.Errorf("the same create again = %v, %v, want the same sandbox", again, err)
	}
	_, err = create(cove.Spec{Name: "box", ReadOnly: true}, "k1")
	wantError(t, err, cove.Conflict, first.ID(), "another spec")
	if other, err := create(cove.Spec{}, "k2"); err != nil || other == first {
		t.Errorf("another key = %v, %v, want another sandbox", other, err)
	}
	_, err = create(cove.Spec{}, strings.Repeat("k", 256))
	wantError(t, err, cove.Invalid, "idempotency key")
	_, err = create(cove.Spec{}, "a\nb")
	wantError(t, err, cove.Invalid, "idempotency key")

	// A runtime that has become unavailable does not matter to a repetition.
	r.world.set(failing("probe", errors.New("broken")))
	if err := r.runtimes["test"].reset(t.Context()); err == nil {
		t.Fatal("the runtime is still available")
	}
	if again, err := create(cove.Spec{Name: "box"}, "k1"); err != nil || again != first {
		t.Errorf("the same create without the runtime = %v, %v, want the same sandbox", again, err)
	}
	r.world.set(nil)
	if err := first.Destroy(t.Context()); err != nil {
		t.Fatalf("Destroy: %v", err)
	}
	if err := r.runtimes["test"].reset(t.Context()); err != nil {
		t.Fatal(err)
	}
	if anew, err := create(cove.Spec{Name: "box"}, "k1"); err != nil || anew == first {
		t.Errorf("the same create after the sandbox was removed = %v, %v, want another sandbox", anew, err)
	}
}

// reset makes a test independent of how long a failed probe is believed.
func (r *runtime) reset(ctx context.Context) error {
	r.forget()
	_, err := r.probe(ctx, always)
	return err
}

func TestConcurrentCreatesWithOneKeyMakeOneSandbox(t *testing.T) {
	r := newRig(t, Options{})
	var group sync.WaitGroup
	found := make([]*Sandbox, 16)
	for i := range found {
		group.Go(func() {
			var err error
			if found[i], err = r.Create(t.Context(), cove.Spec{Name: "box"}, CreateOptions{IdempotencyKey: "key"}); err != nil {
				t.Errorf("Create: %v", err)
			}
		})
	}
	group.Wait()
	for _, s := range found {
		if s != found[0] {
			t.Errorf("two sandboxes, %v and %v, want one", s, found[0])
		}
	}
	if n := len(r.world.ids()); n != 1 {
		t.Errorf("%d sandboxes on the machine, want 1", n)
	}
}

func TestRepetitionTakesOverFromACallerThatLeft(t *testing.T) {
	r := newRig(t, Options{})
	booting := make(chan struct{})
	var once sync.Once
	r.world.set(func(ctx context.Context, at, _ string) error {
		var err error
		if at == "boot" {
			once.Do(func() {
				close(booting)
				<-ctx.Done()
				err = ctx.Err()
			})
		}
		return err
	})
	ctx, cancel := context.WithCancel(t.Context())
	first := make(chan error, 1)
	go func() {
		_, err := r.Create(ctx, cove.Spec{}, CreateOptions{IdempotencyKey: "key"})
		first <- err
	}()
	<-booting
	second := make(chan error, 1)
	go func() {
		_, err := r.Create(t.Context(), cove.Spec{}, CreateOptions{IdempotencyKey: "key"})
		second <- err
	}()
	cancel()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Errorf("first Create = %v, want canceled", err)
	}
	if err := <-second; err != nil {
		t.Errorf("second Create = %v, want nil", err)
	}
}

func TestRepetitionFailsAsTheFirstDid(t *testing.T) {
	r := newRig(t, Options{})
	booting, fail := make(chan struct{}), make(chan struct{})
	var boots int
	r.world.set(func(_ context.Context, at, _ string) error {
		if at != "boot" {
			return nil
		}
		boots++
		close(booting)
		<-fail
		return cove.NoSpace
	})
	errs := make(chan error, 2)
	create := func() {
		_, err := r.Create(t.Context(), cove.Spec{}, CreateOptions{IdempotencyKey: "key"})
		errs <- err
	}
	go create()
	<-booting
	s := r.byKey(owned{"", "key"})
	repeated := make(chan error, 1)
	go func() {
		_, err := s.repeat(t.Context(), s.digest)
		repeated <- err
	}()
	close(fail)
	if err := <-errs; !errors.Is(err, cove.NoSpace) {
		t.Errorf("first = %v, want no space", err)
	}
	if err := <-repeated; !errors.Is(err, cove.NoSpace) {
		t.Errorf("repetition = %v, want no space", err)
	}
	if boots != 1 {
		t.Errorf("%d boots, want 1", boots)
	}
}

func TestHostHasALimitOfSandboxes(t *testing.T) {
	r := newRig(t, Options{MaxSandboxes: 2})
	first := r.create(cove.Spec{})
	r.create(cove.Spec{})
	if n := r.Len(); n != 2 {
		t.Errorf("Len = %d, want 2", n)
	}
	_, err := r.Create(t.Context(), cove.Spec{}, CreateOptions{})
	wantError(t, err, cove.Exhausted, "2 sandboxes")
	// The dead don't count.
	r.world.die(first.ID(), driver.Exit{Reason: cove.ReasonExited})
	eventually(t, "the first is seen dead", func() bool { return r.Len() == 1 })
	r.create(cove.Spec{})
}
