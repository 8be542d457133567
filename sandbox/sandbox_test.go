package sandbox

import (
	"context"
	"errors"
	"fmt"
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

func TestUnknownDeadAndRemovedSandboxes(t *testing.T) {
	r := newRig(t, Options{})
	_, err := r.Sandbox(t.Context(), "nobody")
	wantError(t, err, cove.NotFound, "nobody")
	_, err = r.Sandbox(t.Context(), "a\nb")
	wantError(t, err, cove.NotFound, `"a\nb"`)

	s := r.create(cove.Spec{Name: "box"})
	r.world.die(s.ID(), driver.Exit{Reason: cove.ReasonOOM, Message: "killed by the kernel"})
	eventually(t, "its remains are cleared", func() bool { return len(r.world.ids()) == 0 })
	eventually(t, "its end is written down", func() bool { return slices.Equal(r.records(), []string{s.ID() + " failed"}) })
	view := s.View()
	if view.State != cove.StateFailed || view.Reason != cove.ReasonOOM || view.Message != "out of memory (limit 512MiB)" {
		t.Errorf("view = %+v, want failed for lack of memory", view)
	}
	if list, err := r.List(t.Context(), Filter{State: cove.StateFailed}); err != nil || len(list) != 1 {
		t.Errorf("List = %v, %v, want the dead one", list, err)
	}
	dead, err := r.Sandbox(t.Context(), s.ID())
	if err != nil {
		t.Fatalf("Sandbox of a dead one = %v, want it for inspection", err)
	}
	_, err = dead.Exec(t.Context(), exec("true"))
	wantError(t, err, cove.Gone, "was killed: out of memory (limit 512MiB)")
	ttl := cove.Duration(time.Hour)
	_, err = dead.Update(t.Context(), cove.SandboxUpdate{TTL: &ttl})
	wantError(t, err, cove.Gone, "update")
	_, err = dead.Files().Stat(t.Context(), "/a", "")
	wantError(t, err, cove.Gone, "stat")

	for range 2 {
		if err := dead.Destroy(t.Context()); err != nil {
			t.Errorf("Destroy: %v", err)
		}
	}
	_, err = r.Sandbox(t.Context(), s.ID())
	wantError(t, err, cove.Gone, s.ID(), "out of memory")
	r.empty()
	r.wantEvents("creating", "running", "failed oom", "removed oom")
}

func TestDeadSandboxIsForgottenAfterAWhile(t *testing.T) {
	r := newRig(t, Options{Retain: 30 * time.Millisecond})
	s := r.create(cove.Spec{Name: "box"})
	r.world.die(s.ID(), driver.Exit{Reason: cove.ReasonExited, Message: "exit code 1"})
	eventually(t, "it is forgotten", func() bool {
		_, err := r.Sandbox(t.Context(), s.ID())
		return errors.Is(err, cove.Gone)
	})
	r.empty()
	r.wantEvents("creating", "running", "failed exited", "removed exited")
}

func TestUsesOfASandboxThatIsBeingMadeConflict(t *testing.T) {
	r := newRig(t, Options{})
	r.world.set(func(ctx context.Context, at, id string) error {
		if at != "boot" {
			return nil
		}
		s, err := r.Sandbox(ctx, "box")
		if err != nil {
			return err
		}
		if state := s.View().State; state != cove.StateCreating {
			t.Errorf("state = %s, want creating", state)
		}
		_, err = s.Exec(ctx, exec("true"))
		wantError(t, err, cove.Conflict, "being created")
		_, err = s.Update(ctx, cove.SandboxUpdate{})
		wantError(t, err, cove.Conflict, "being created")
		return nil
	})
	r.create(cove.Spec{Name: "box"})
}

func TestDestroyRemovesEverything(t *testing.T) {
	r := newRig(t, Options{})
	s := r.create(cove.Spec{Name: "box"})
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			if err := s.Destroy(t.Context()); err != nil {
				t.Errorf("Destroy: %v", err)
			}
			if len(r.world.ids()) != 0 {
				t.Errorf("on the machine after Destroy: %v", r.world.ids())
			}
		})
	}
	group.Wait()
	r.empty()
	r.wantEvents("creating", "running", "stopped removed", "removed removed")
}

func TestDestroyGoesOnWithoutItsCaller(t *testing.T) {
	r := newRig(t, Options{})
	s := r.create(cove.Spec{})
	begun, goOn := make(chan struct{}), make(chan struct{})
	r.world.set(func(ctx context.Context, at, _ string) error {
		if at == "destroy" {
			close(begun)
			<-goOn
		}
		return nil
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-begun
		cancel()
	}()
	if err := s.Destroy(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Destroy = %v, want canceled", err)
	}
	close(goOn)
	eventually(t, "it is removed all the same", func() bool {
		_, err := r.Sandbox(t.Context(), s.ID())
		return errors.Is(err, cove.Gone)
	})
	r.empty()
}

func TestFailedDestroyIsTriedAgain(t *testing.T) {
	r := newRig(t, Options{SweepInterval: 5 * time.Millisecond})
	s := r.create(cove.Spec{})
	r.world.set(failing("destroy", errors.New("the mount is busy")))
	err := s.Destroy(t.Context())
	if err == nil || !strings.Contains(err.Error(), "the mount is busy") {
		t.Errorf("Destroy = %v, want the driver's error", err)
	}
	_, err = s.Exec(t.Context(), exec("true"))
	wantError(t, err, cove.Gone, "removed")
	r.world.set(nil)
	eventually(t, "it is removed", func() bool { return len(r.world.ids()) == 0 && len(r.records()) == 0 })
	eventually(t, "it is forgotten", func() bool {
		_, err := r.Sandbox(t.Context(), s.ID())
		return errors.Is(err, cove.Gone)
	})
	r.empty()
}

func TestDestroyWorksOnAFullDisk(t *testing.T) {
	r := newRig(t, Options{SweepInterval: 5 * time.Millisecond})
	s := r.create(cove.Spec{})
	r.store.fail(func(store.Record) error { return cove.NoSpace }, func(string) error { return cove.NoSpace })
	if err := s.Destroy(t.Context()); err != nil {
		t.Errorf("Destroy on a full disk = %v, want nil", err)
	}
	if len(r.world.ids()) != 0 {
		t.Errorf("on the machine: %v, want nothing", r.world.ids())
	}
	_, err := r.Create(t.Context(), cove.Spec{}, CreateOptions{})
	if !errors.Is(err, cove.NoSpace) {
		t.Errorf("Create on a full disk = %v, want no space", err)
	}
	r.store.fail(nil, nil)
	eventually(t, "the records are deleted", func() bool { return len(r.records()) == 0 })
	r.empty()
}

func TestWatcherThatFailsTriesAgain(t *testing.T) {
	r := newRig(t, Options{})
	var waits atomic.Int32
	r.world.set(func(_ context.Context, at, _ string) error {
		if at == "wait" && waits.Add(1) == 1 {
			return errors.New("interrupted") // which tells nothing about the sandbox
		}
		return nil
	})
	s := r.create(cove.Spec{})
	eventually(t, "it waits again", func() bool { return waits.Load() == 2 })
	if state := s.View().State; state != cove.StateRunning {
		t.Errorf("state = %s, want running", state)
	}
	r.world.die(s.ID(), driver.Exit{Reason: cove.ReasonKilled})
	eventually(t, "it is seen dead", func() bool { return s.View().Reason == cove.ReasonKilled })
}

func TestUpdate(t *testing.T) {
	r := newRig(t, Options{})
	s := r.create(cove.Spec{Labels: map[string]string{"a": "1"}})
	ttl, idle, labels := cove.Duration(2*time.Hour), cove.Duration(time.Minute), map[string]string{"b": "2"}
	view, err := s.Update(t.Context(), cove.SandboxUpdate{TTL: &ttl, Idle: &idle, Labels: &labels})
	if err != nil {
		t.Fatalf("Update: %v", err)
	}
	if until := time.Until(*view.ExpiresAt); until < 119*time.Minute || view.Spec.TTL != ttl || view.Spec.Idle != idle || view.Spec.Labels["b"] != "2" || len(view.Spec.Labels) != 1 {
		t.Errorf("view = %+v, want what was asked for", view)
	}
	labels["b"] = "changed"
	if got := s.View().Spec.Labels["b"]; got != "2" {
		t.Errorf("label = %s, want no share in the caller's map", got)
	}
	if list, err := r.List(t.Context(), Filter{Labels: map[string]string{"b": "2"}}); err != nil || len(list) != 1 {
		t.Errorf("List by the new label = %v, %v, want it", list, err)
	}
	if list, err := r.List(t.Context(), Filter{Labels: map[string]string{"a": "1"}}); err != nil || len(list) != 0 {
		t.Errorf("List by the old label = %v, %v, want nothing", list, err)
	}
	never := cove.Never
	if view, err = s.Update(t.Context(), cove.SandboxUpdate{TTL: &never}); err != nil || view.ExpiresAt != nil || view.Spec.Idle != idle {
		t.Errorf("Update to never = %+v, %v, want no end, and the idle limit as it was", view, err)
	}
	negative, tooMany := cove.Duration(-1), map[string]string{}
	for i := range 300 {
		tooMany[fmt.Sprint(i)] = ""
	}
	_, err = s.Update(t.Context(), cove.SandboxUpdate{TTL: &negative, Idle: &negative, Labels: &tooMany})
	wantError(t, err, cove.Invalid, "ttl", "idle", "300 labels")

	r.store.fail(func(store.Record) error { return cove.NoSpace }, nil)
	before := s.View()
	if _, err := s.Update(t.Context(), cove.SandboxUpdate{TTL: &ttl}); !errors.Is(err, cove.NoSpace) {
		t.Errorf("Update on a full disk = %v, want no space", err)
	}
	if after := s.View(); after.ExpiresAt != before.ExpiresAt || after.Spec.TTL != never {
		t.Errorf("a failed update changed the sandbox: %+v", after)
	}
	r.wantEvents("creating", "running", "updated", "updated")
}

func TestLeases(t *testing.T) {
	const short = cove.Duration(40 * time.Millisecond)
	ended := func(s *Sandbox) func() bool {
		return func() bool { return s.View().State == cove.StateStopped }
	}
	t.Run("a sandbox ends at its deadline, whatever it does", func(t *testing.T) {
		r := newRig(t, Options{})
		s := r.create(cove.Spec{TTL: short})
		_, err := s.Exec(t.Context(), exec("sleep"))
		wantError(t, err, cove.Gone, "expired", "time to live of 40ms has passed")
		eventually(t, "its remains are cleared", func() bool { return len(r.world.ids()) == 0 })
		if view := s.View(); view.State != cove.StateStopped || view.Reason != cove.ReasonExpired {
			t.Errorf("view = %+v, want stopped because it expired", view)
		}
		r.wantEvents("creating", "running", "stopped expired")
	})
	t.Run("a sandbox that is not used ends", func(t *testing.T) {
		r := newRig(t, Options{})
		s := r.create(cove.Spec{Idle: short})
		eventually(t, "it ends", ended(s))
		if reason := s.View().Reason; reason != cove.ReasonIdle {
			t.Errorf("reason = %s, want idle", reason)
		}
	})
	t.Run("a sandbox in use is not idle", func(t *testing.T) {
		r := newRig(t, Options{})
		s := r.create(cove.Spec{Idle: short})
		got, err := s.Exec(t.Context(), cove.ExecRequest{Command: cove.Command{Argv: []string{"sleep"}}, Timeout: 5 * short})
		if err != nil || !got.TimedOut {
			t.Errorf("Exec = %+v, %v, want its own time-out", got, err)
		}
		eventually(t, "it ends afterwards", ended(s))
	})
	t.Run("an update moves the deadline", func(t *testing.T) {
		r := newRig(t, Options{})
		s := r.create(cove.Spec{TTL: cove.Never})
		lasting := r.create(cove.Spec{TTL: short, Idle: short})
		never := cove.Never
		if _, err := lasting.Update(t.Context(), cove.SandboxUpdate{TTL: &never, Idle: &never}); err != nil {
			t.Fatalf("Update: %v", err)
		}
		ttl := 2 * short
		if _, err := s.Update(t.Context(), cove.SandboxUpdate{TTL: &ttl}); err != nil {
			t.Fatalf("Update: %v", err)
		}
		eventually(t, "the one with the later deadline ends", ended(s))
		if state := lasting.View().State; state != cove.StateRunning {
			t.Errorf("state = %s, want running", state)
		}
	})
	t.Run("the earliest of many deadlines is kept", func(t *testing.T) {
		r := newRig(t, Options{})
		var group sync.WaitGroup
		for i := range 40 {
			group.Go(func() {
				r.create(cove.Spec{TTL: cove.Duration(1+i%7) * 10 * cove.Duration(time.Millisecond)})
			})
		}
		group.Wait()
		eventually(t, "all have ended", func() bool { return r.Len() == 0 && len(r.world.ids()) == 0 })
	})
}

func TestLeaseQueueIsInOrder(t *testing.T) {
	l := newLeases()
	now := time.Now().Add(-time.Hour)
	owners := make([]*Sandbox, 100)
	for i := range owners {
		owners[i] = &Sandbox{id: fmt.Sprint(i)}
		owners[i].lease.owner = owners[i]
		l.set(&owners[i].lease, now.Add(time.Duration((i*37)%100)*time.Second))
	}
	l.set(&owners[5].lease, time.Time{})
	l.set(&owners[5].lease, time.Time{}) // what is not in the queue stays out of it
	l.set(&owners[6].lease, now.Add(-time.Second))
	var last time.Time
	for n := range 99 {
		s, _ := l.pop()
		if s == nil || s == owners[5] || (n == 0) != (s == owners[6]) || s.lease.due.Before(last) {
			t.Fatalf("pop %d = %+v after %v, want the next in order", n, s, last)
		}
		last = s.lease.due
	}
	if s, wait := l.pop(); s != nil || wait <= 0 {
		t.Errorf("pop of an empty queue = %v, %v, want a wait", s, wait)
	}
}

func TestCloseLeavesTheSandboxes(t *testing.T) {
	r := newRig(t, Options{})
	s := r.create(cove.Spec{})
	agent := r.world.find(s.ID()).agent
	booting := make(chan struct{})
	r.world.set(func(ctx context.Context, at, _ string) error {
		if at == "boot" {
			close(booting)
			<-ctx.Done()
			return ctx.Err()
		}
		return nil
	})
	errs := make(chan error, 2)
	go func() {
		_, err := r.Create(context.Background(), cove.Spec{}, CreateOptions{})
		errs <- err
	}()
	go func() {
		_, err := s.Exec(context.Background(), exec("sleep"))
		errs <- err
	}()
	<-booting
	eventually(t, "the command runs", func() bool { return len(agent.running()) == 1 })
	if err := r.Close(t.Context()); err != nil {
		t.Fatalf("Close: %v", err)
	}
	for range 2 {
		wantError(t, <-errs, cove.Unavailable, "closing")
	}
	if ids := r.world.ids(); !slices.Equal(ids, []string{s.ID()}) {
		t.Errorf("on the machine: %v, want the sandbox that ran", ids)
	}
	if records := r.records(); !slices.Equal(records, []string{s.ID() + " running"}) {
		t.Errorf("records = %v, want one that runs", records)
	}
	_, err := r.Create(t.Context(), cove.Spec{}, CreateOptions{})
	wantError(t, err, cove.Unavailable, "closing")
	_, err = s.Exec(t.Context(), exec("true"))
	wantError(t, err, cove.Unavailable, "closing")
	wantError(t, s.Destroy(t.Context()), cove.Unavailable, "closing")
}

func TestGuestsWordsDoNotBreakTheLog(t *testing.T) {
	r := newRig(t, Options{})
	s := r.create(cove.Spec{})
	r.world.die(s.ID(), driver.Exit{Reason: cove.ReasonKilled, Message: "x\nlevel=ERROR msg=forged\x1b[2J"})
	eventually(t, "it is seen dead", func() bool { return r.Len() == 0 })
	if message := s.View().Message; message != "x level=ERROR msg=forged [2J" {
		t.Errorf("message = %q, want one line", message)
	}
	for line := range strings.Lines(r.log.String()) {
		if !strings.HasPrefix(line, "time=") || strings.ContainsRune(line, '\x1b') {
			t.Errorf("log line %q, want only the host's own", line)
		}
	}
}
