package containerd

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/sandbox/driver"
	"github.com/covehq/cove/sandbox/drivertest"
)

// fleet is a variant of each way in which agents are reached: by their socket, by a door, and
// by streams that the engine connects.
var fleet = []string{"", "gvisor", "runc"}

func TestT91SandboxesGoOnWithoutTheEngineAndAcrossItsRestart(t *testing.T) {
	engineProgram(t)
	bin := binaries(t)
	for _, variant := range fleet {
		t.Run("containerd:"+variant, func(t *testing.T) {
			e := startEngine(t)
			d := e.driver(bin, variant)
			stays, goes := create(t, d, "stays"), create(t, d, "goes")
			e.stop()
			healthy(t, stays, "while the engine is stopped")
			if _, err := d.Probe(t.Context()); !errors.Is(err, cove.Unavailable) || cove.HintOf(err) == "" {
				t.Errorf("Probe: got %v, want unavailable with a hint", err)
			}
			spec := cove.Spec{}.WithDefaults()
			if _, err := d.Create(t.Context(), "never", &spec); !errors.Is(err, cove.Unavailable) {
				t.Errorf("Create: got %v, want unavailable", err)
			}
			if left := d.traces("never"); len(left) > 0 {
				t.Errorf("of a sandbox that was not made there is %v", left)
			}
			if err := goes.Destroy(t.Context()); !errors.Is(err, cove.Unavailable) {
				t.Errorf("Destroy: got %v, want unavailable", err)
			}
			if ids := d.cgroups.List(); slices.Contains(ids, "goes") {
				t.Errorf("groups: got %v, not that of one that was destroyed", ids)
			}
			e.start()
			if err := goes.Destroy(t.Context()); err != nil {
				t.Errorf("Destroy again: %v", err)
			}
			healthy(t, stays, "after the engine's restart")
			again, err := e.driver(bin, variant).Attach(t.Context(), "stays", stays.Handle())
			if err != nil {
				t.Fatal(err)
			}
			healthy(t, again, "attached")
			if err := again.Destroy(t.Context()); err != nil {
				t.Error(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			if _, err := stays.Wait(ctx); err != nil {
				t.Errorf("Wait, from before the restart: %v", err)
			}
			if err := stays.Destroy(t.Context()); err != nil {
				t.Error(err)
			}
			swept(t, d)
		})
	}
}

func TestT91AnEngineThatHangsIsNotWaitedForLong(t *testing.T) {
	e := startEngine(t)
	d := e.driver(binaries(t), "")
	m := create(t, d, "before")
	e.halt()
	spec := cove.Spec{}.WithDefaults()
	before := runtime.NumGoroutine()
	var group sync.WaitGroup
	for i := range 10 {
		group.Go(func() {
			if _, err := d.Create(t.Context(), fmt.Sprintf("hang%d", i), &spec); !errors.Is(err, cove.Unavailable) {
				t.Errorf("Create: got %v, want unavailable", err)
			}
		})
	}
	healthy(t, m, "while the engine hangs")
	group.Wait()
	if after := runtime.NumGoroutine(); after > before+5 {
		t.Errorf("goroutines: got %d after ten calls, want the %d of before", after, before)
	}
	e.signal(syscall.SIGCONT)
	create(t, d, "after")
	swept(t, d)
}

func TestT91ARestartInTheMiddleLeavesNothing(t *testing.T) {
	e := startEngine(t)
	d := e.driver(binaries(t), "")
	for round := range 3 {
		var group sync.WaitGroup
		begun := make(chan struct{}, 4)
		for i := range cap(begun) {
			group.Go(func() {
				spec := cove.Spec{}.WithDefaults()
				begun <- struct{}{}
				m, err := d.Create(t.Context(), fmt.Sprintf("r%dn%d", round, i), &spec)
				if err == nil {
					_ = m.Destroy(t.Context()) // what it leaves is the sweep's
				}
			})
		}
		for range cap(begun) {
			<-begun
		}
		time.Sleep(time.Duration(50*(round+1)) * time.Millisecond) // into another part of the work each time
		e.kill()
		e.start()
		group.Wait()
	}
	swept(t, d)
}

// TestT91AContainerRemovedByHandIsASandboxThatEnded has somebody else delete the container.
func TestT91AContainerRemovedByHandIsASandboxThatEnded(t *testing.T) {
	e := startEngine(t)
	for _, variant := range fleet {
		t.Run("containerd:"+variant, func(t *testing.T) {
			d := e.driver(binaries(t), variant)
			m := create(t, d, "abc")
			if err := d.removeTask(t.Context(), "abc"); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			if exit, err := m.Wait(ctx); err != nil || exit.Reason != cove.ReasonKilled {
				t.Errorf("Wait: got %+v, %v, want killed", exit, err)
			}
			if err := m.Destroy(t.Context()); err != nil {
				t.Error(err)
			}
			swept(t, d)
		})
	}
}

func TestT91AnEngineThatIsKilledInTheMiddleOfExec(t *testing.T) {
	t.Parallel()
	bin := binaries(t)
	e := startEngine(t)
	for _, variant := range fleet {
		t.Run("containerd:"+variant, func(t *testing.T) {
			d := e.driver(bin, variant)
			m := create(t, d, "abc")
			talk := drivertest.StartTalk(t, m)
			e.kill()
			talk.GoesOn(t, "whose engine was killed") // its shim lives
			healthy(t, m, "whose engine was killed")
			e.start()
			talk.GoesOn(t, "whose engine came back")
			healthy(t, m, "whose engine came back")
			again, err := e.driver(bin, variant).Attach(t.Context(), "abc", m.Handle())
			if err != nil {
				t.Fatal(err)
			}
			drivertest.StartTalk(t, again)
			if err := again.Destroy(t.Context()); err != nil {
				t.Error(err)
			}
			talk.Breaks(t, "whose sandbox was destroyed")
			if err := m.Destroy(t.Context()); err != nil {
				t.Error(err)
			}
			swept(t, d)
		})
	}
}

func TestT91AShimThatIsKilledInTheMiddleOfExecTakesItsSandboxAlong(t *testing.T) {
	t.Parallel()
	bin := binaries(t)
	e := startEngine(t)
	for _, variant := range fleet {
		t.Run("containerd:"+variant, func(t *testing.T) {
			d := e.driver(bin, variant)
			m := create(t, d, "abc")
			talk := drivertest.StartTalk(t, m)
			d.endHelpers(d.container("abc"))
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			if exit, err := m.Wait(ctx); err != nil || exit.Reason == "" || exit.Message == "" {
				t.Errorf("Wait: got %+v, %v, want why it ended", exit, err)
			}
			talk.Breaks(t, "whose shim was killed")
			if err := m.Destroy(t.Context()); err != nil {
				t.Error(err)
			}
			swept(t, d)
		})
	}
}

func TestT91AnEngineThatIsKilledInTheMiddleOfDestroy(t *testing.T) {
	t.Parallel()
	bin := binaries(t)
	e := startEngine(t)
	for _, variant := range fleet {
		t.Run("containerd:"+variant, func(t *testing.T) {
			d := e.driver(bin, variant)
			var machines []driver.Machine
			for i := range 5 {
				machines = append(machines, create(t, d, fmt.Sprintf("middle%d", i)))
			}
			failed := make([]error, len(machines))
			var destroying sync.WaitGroup
			ended := make(chan struct{}, len(machines))
			for i, m := range machines {
				destroying.Go(func() { failed[i] = m.Destroy(context.Background()) })
				destroying.Go(func() {
					_, _ = m.Wait(t.Context())
					ended <- struct{}{}
				})
			}
			<-ended // the rest is the engine's
			e.kill()
			e.start()
			destroying.Wait()
			cut := 0
			for i, m := range machines {
				if failed[i] == nil {
					continue
				}
				cut++
				if !errors.Is(failed[i], cove.Unavailable) || cove.HintOf(failed[i]) == "" {
					t.Errorf("Destroy: got %v, want that the engine is unavailable, and what to do", failed[i])
				}
				if i%2 == 0 { // the others are the sweep's
					if err := m.Destroy(t.Context()); err != nil {
						t.Errorf("Destroy again: %v", err)
					}
				}
			}
			if cut == 0 {
				t.Error("no Destroy was cut short: the test shows nothing")
			}
			swept(t, e.driver(bin, variant))
			for _, m := range machines {
				if err := m.Destroy(t.Context()); err != nil {
					t.Errorf("Destroy after the sweep: %v", err)
				}
			}
		})
	}
}

func TestT91AnEngineThatStandsStillForAMinuteTakesNoSandboxAndNoCallerWithIt(t *testing.T) {
	t.Parallel()
	bin := binaries(t)
	e := startEngine(t)
	drivers, stays, goes, talks := map[string]*Driver{}, map[string]driver.Machine{}, map[string]driver.Machine{}, map[string]*drivertest.Talk{}
	others := map[string]*Driver{}
	for _, variant := range fleet {
		d := e.driver(bin, variant)
		drivers[variant], others[variant] = d, e.driver(bin, variant)
		stays[variant], goes[variant] = create(t, d, "stays"), create(t, d, "goes")
		talks[variant] = drivertest.StartTalk(t, stays[variant])
	}
	e.halt()
	minute, pass := context.WithTimeout(t.Context(), time.Minute)
	defer pass()
	var calls sync.WaitGroup
	for _, variant := range fleet {
		healthy(t, stays[variant], "while the engine stands still")
		for name, call := range map[string]func() error{
			"Probe":   func() error { _, err := others[variant].Probe(t.Context()); return err },
			"List":    func() error { _, err := others[variant].List(t.Context()); return err },
			"Destroy": func() error { return goes[variant].Destroy(t.Context()) },
			"Create": func() error {
				spec := cove.Spec{}.WithDefaults()
				_, err := drivers[variant].Create(t.Context(), "never", &spec)
				return err
			},
		} {
			calls.Go(func() {
				if err := call(); !errors.Is(err, cove.Unavailable) || cove.HintOf(err) == "" {
					t.Errorf("%s of containerd:%s: got %v, want that the engine is unavailable, and what to do", name, variant, err)
				}
			})
		}
		calls.Go(func() { // by its process alone; where there is none to be seen, not at all
			again, err := others[variant].Attach(t.Context(), "stays", stays[variant].Handle())
			switch {
			case err == nil:
				healthy(t, again, "attached while the engine stands still")
				again.(*machine).release()
			case variant != "runc" || !errors.Is(err, cove.Unavailable) || cove.HintOf(err) == "":
				t.Errorf("Attach of containerd:%s: got %v", variant, err)
			}
		})
	}
	answered := make(chan struct{})
	go func() { defer close(answered); calls.Wait() }()
	select {
	case <-answered:
	case <-minute.Done():
		t.Error("somebody still waits for the engine after a minute, want that all have been told")
		<-answered
	}
	for variant, talk := range talks {
		talk.GoesOn(t, "of containerd:"+variant+", while the engine stands still")
	}
	<-minute.Done()
	e.signal(syscall.SIGCONT)
	for _, variant := range fleet {
		talks[variant].GoesOn(t, "of containerd:"+variant+", when the engine goes on")
		for _, m := range []driver.Machine{goes[variant], stays[variant], create(t, drivers[variant], "after")} {
			if err := m.Destroy(t.Context()); err != nil {
				t.Errorf("Destroy when the engine goes on: %v", err)
			}
		}
	}
	for _, d := range drivers {
		swept(t, d)
	}
}
