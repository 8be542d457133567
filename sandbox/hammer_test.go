package sandbox

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/sandbox/driver"
)

// Many callers do everything to a few sandboxes at once, while some die and the sweep
// runs. Every error is one that the contract allows, what a Destroy has acknowledged
// stays gone, events tell one linear life of each sandbox, and nothing is left.
func TestHammer(t *testing.T) {
	r := newRig(t, Options{SweepInterval: 3 * time.Millisecond, Retain: 20 * time.Millisecond, MaxSandboxes: 6})
	names := []string{"a", "b", "c", "d"}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()

	var lives lives
	watched := make(chan struct{})
	subscription := r.Subscribe(t.Context(), 0)
	go func() {
		defer close(watched)
		for event, err := range subscription {
			if errors.Is(err, cove.Exhausted) {
				t.Errorf("the subscriber was too slow: %v", err)
			}
			if err != nil {
				return
			}
			if problem := lives.see(event); problem != "" {
				t.Error(problem)
			}
		}
	}()

	allowed := func(doing string, err error) {
		switch cove.CodeOf(err) {
		case "", cove.Gone, cove.NotFound, cove.Conflict, cove.Exhausted:
		default:
			if ctx.Err() == nil && !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s = %v (%s)", doing, err, cove.CodeOf(err))
			}
		}
	}
	var group sync.WaitGroup
	for worker := range 8 {
		random := rand.New(rand.NewPCG(uint64(worker), 7))
		group.Go(func() {
			for ctx.Err() == nil {
				r.oneThing(ctx, t, random, names[random.IntN(len(names))], allowed)
			}
		})
	}
	group.Wait()
	for _, s := range r.all() {
		if err := s.Destroy(t.Context()); err != nil {
			t.Errorf("Destroy: %v", err)
		}
	}
	r.empty()
	for _, s := range r.all() {
		if n := s.inUse(); n != 0 {
			t.Errorf("%d uses of %s left", n, s.ID())
		}
	}
	if err := r.Close(t.Context()); err != nil {
		t.Errorf("Close: %v", err)
	}
	<-watched
	if problems := lives.unfinished(); len(problems) != 0 {
		t.Errorf("sandboxes without an end: %v", problems)
	}
	if len(lives.last) < 20 {
		t.Errorf("only %d sandboxes lived, want a hammer", len(lives.last))
	}
}

// oneThing does something at random to the sandbox with that name.
func (r *rig) oneThing(ctx context.Context, t *testing.T, random *rand.Rand, name string, allowed func(string, error)) {
	brief, cancel := context.WithTimeout(ctx, time.Duration(random.IntN(30))*time.Millisecond)
	defer cancel()
	s, err := r.Sandbox(ctx, name)
	allowed("Sandbox", err)
	if err != nil {
		spec := cove.Spec{Name: name}
		if random.IntN(4) == 0 {
			spec.TTL = cove.Duration(20 * time.Millisecond)
		}
		within := ctx
		if random.IntN(3) == 0 {
			within = brief
		}
		_, err := r.Create(within, spec, CreateOptions{IdempotencyKey: fmt.Sprint("key-", random.IntN(3), name)})
		if !errors.Is(err, cove.Unavailable) || !strings.Contains(err.Error(), "while it came up: out of memory") {
			allowed("Create", err)
		}
		return
	}
	switch random.IntN(12) {
	case 0:
		err := s.Destroy(ctx)
		allowed("Destroy", err)
		if _, err := r.Sandbox(ctx, s.ID()); err == nil && ctx.Err() == nil {
			t.Errorf("a destroyed sandbox is found")
		}
		if _, err := s.Exec(t.Context(), exec("true")); !errors.Is(err, cove.Gone) && ctx.Err() == nil {
			t.Errorf("Exec on a destroyed sandbox = %v, want gone", err)
		}
	case 1:
		r.world.die(s.ID(), driver.Exit{Reason: cove.ReasonOOM})
	case 2:
		ttl := cove.Duration(1+random.IntN(100)) * cove.Duration(time.Millisecond)
		_, err := s.Update(ctx, cove.SandboxUpdate{TTL: &ttl})
		allowed("Update", err)
	case 3:
		_, err := r.List(ctx, Filter{Labels: map[string]string{"x": "y"}})
		allowed("List", err)
	case 4:
		_, err := s.Exec(brief, exec("sleep"))
		allowed("Exec that is left", err)
	default:
		got, err := s.Exec(ctx, exec("echo", name))
		allowed("Exec", err)
		if err == nil && got.Stdout != name {
			t.Errorf("Exec = %+v, want %s", got, name)
		}
	}
}

// lives is what the events tell about each sandbox.
type lives struct {
	last map[string]cove.EventType
}

// see returns what is wrong with an event after those before it, or "".
func (l *lives) see(event cove.Event) string {
	if l.last == nil {
		l.last = make(map[string]cove.EventType)
	}
	follows := map[cove.EventType][]cove.EventType{
		cove.EventCreating: {""},
		cove.EventRunning:  {cove.EventCreating},
		cove.EventUpdated:  {cove.EventRunning, cove.EventUpdated},
		cove.EventStopped:  {cove.EventCreating, cove.EventRunning, cove.EventUpdated},
		cove.EventFailed:   {cove.EventCreating, cove.EventRunning, cove.EventUpdated},
		cove.EventRemoved:  {cove.EventStopped, cove.EventFailed},
	}
	id := event.Sandbox.ID
	before := l.last[id]
	l.last[id] = event.Type
	if !slices.Contains(follows[event.Type], before) {
		return fmt.Sprintf("sandbox %s: %s after %q", id, event.Type, before)
	}
	return ""
}

func (l *lives) unfinished() (ids []string) {
	for id, last := range l.last {
		if last != cove.EventRemoved {
			ids = append(ids, id+" "+string(last))
		}
	}
	return ids
}
