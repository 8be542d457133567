package docker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/guest/dial"
	"github.com/covehq/cove/sandbox/driver"
	"github.com/covehq/cove/sandbox/drivertest"
)

// fleet is a sandbox of each way in which agents are reached: by their socket, by streams
// that the engine connects, and by those of an engine on another machine.
var fleet = []string{"docker", "docker:gvisor", "far"}

// create makes a sandbox of each way in an engine, in which a command writes.
func (e *daemon) create(t *testing.T) (map[string]driver.Machine, map[string]*drivertest.Talk) {
	t.Helper()
	machines, talks := map[string]driver.Machine{}, map[string]*drivertest.Talk{}
	for _, name := range fleet {
		d, s := e.member(t, name)
		m, err := d.Create(t.Context(), strings.ReplaceAll(name, ":", ""), s)
		if err != nil {
			t.Fatal(err)
		}
		machines[name], talks[name] = m, drivertest.StartTalk(t, m)
	}
	return machines, talks
}

// member opens the driver of a part of the fleet, and returns what its sandboxes are made of.
func (e *daemon) member(t *testing.T, name string) (*Driver, *cove.Spec) {
	t.Helper()
	s := spec()
	if name != "far" {
		return e.driver(t, name), s
	}
	here := e.driver(t, "docker")
	s.Image = shellImage(t, here)
	d, err := rig{e.dir + "/far", e.bin, elsewhere(t, here), "docker"}.open()
	if err != nil {
		t.Fatal(err)
	}
	return d, s
}

func TestT91AnEngineThatStandsStillForAMinuteTakesNoSandboxAndNoCallerWithIt(t *testing.T) {
	t.Parallel()
	e := newDaemon(t)
	d := e.driver(t, "docker")
	machines, talks := e.create(t)
	doomed, err := d.Create(t.Context(), "doomed", spec())
	if err != nil {
		t.Fatal(err)
	}
	another := e.driver(t, "docker")
	e.halt(t)
	minute, pass := context.WithTimeout(t.Context(), time.Minute)
	defer pass()

	near := machines["docker"]
	if err := answers(t.Context(), near); err != nil {
		t.Errorf("a sandbox while the engine stands still: %v", err)
	}
	if again, err := another.Attach(t.Context(), "docker", near.Handle()); err != nil {
		t.Errorf("attach while the engine stands still: %v", err)
	} else {
		if err := answers(t.Context(), again); err != nil {
			t.Errorf("an attached sandbox: %v", err)
		}
		again.(*machine).release()
	}
	exec := func(m driver.Machine) error {
		guest := dial.New(m.Dial)
		defer guest.Close()
		stream, err := guest.Start(t.Context(), dial.Start{Argv: []string{"/bin/sh", "-c", "exit"}})
		if err == nil {
			err = stream.Close()
		}
		return err
	}
	var calls sync.WaitGroup
	for name, call := range map[string]func() error{
		"probe":               func() error { _, err := e.open(t, "docker").Probe(t.Context()); return err },
		"create":              func() error { _, err := d.Create(t.Context(), "another", spec()); return err },
		"list":                func() error { _, err := d.List(t.Context()); return err },
		"destroy":             func() error { return doomed.Destroy(t.Context()) },
		"exec, docker:gvisor": func() error { return exec(machines["docker:gvisor"]) },
		"exec, far":           func() error { return exec(machines["far"]) },
		"exec again, far":     func() error { return exec(machines["far"]) },
	} {
		calls.Go(func() {
			if err := call(); !errors.Is(err, cove.Unavailable) || cove.HintOf(err) == "" {
				t.Errorf("%s: got %v (%s), want that the engine is unavailable, and what to do", name, err, cove.HintOf(err))
			}
		})
	}
	calls.Go(func() { // its process is killed all the same
		if _, err := doomed.Wait(t.Context()); err != nil {
			t.Error(err)
		}
	})
	answered := make(chan struct{})
	go func() { defer close(answered); calls.Wait() }()
	select {
	case <-answered:
	case <-minute.Done():
		t.Error("somebody still waits for the engine after a minute, want that all have been told")
		<-answered
	}
	talks["docker"].GoesOn(t, "while the engine stands still")
	<-minute.Done()
	e.signal(t, syscall.SIGCONT)
	for name, m := range machines {
		if err := exec(m); err != nil {
			t.Errorf("%s, when the engine goes on: %v", name, err)
		}
		if err := m.Destroy(t.Context()); err != nil {
			t.Errorf("%s: destroy when the engine goes on: %v", name, err)
		}
	}
	for _, remove := range []func() error{
		func() error { return doomed.Destroy(t.Context()) },
		func() error { return d.Remove(t.Context(), "another") },
	} {
		if err := remove(); err != nil {
			t.Errorf("when the engine goes on: %v", err)
		}
	}
	if ids, err := d.List(t.Context()); err != nil || len(ids) > 0 {
		t.Errorf("left: %v, %v; want nothing", ids, err)
	}
	e.swept(t, "docker", "docker:gvisor")
}

// endings are what an engine does to its containers when it comes back.
var endings = map[string][]string{"and takes its containers down": nil, "and keeps its containers": {"--live-restore"}}

func TestT91AnEngineThatIsKilledInTheMiddleOfExec(t *testing.T) {
	t.Parallel()
	for name, options := range endings {
		t.Run(name, func(t *testing.T) {
			e := newDaemon(t, options...)
			machines, talks := e.create(t)
			e.stop(t, syscall.SIGKILL)
			talks["docker"].GoesOn(t, "whose engine was killed")
			if err := answers(t.Context(), machines["docker"]); err != nil {
				t.Errorf("a sandbox whose engine was killed: %v", err)
			}
			for _, name := range fleet[1:] { // their streams were the engine's
				talks[name].Breaks(t, name+", whose engine was killed")
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				if err := dial.New(machines[name].Dial).Health(ctx); !errors.Is(err, cove.Unavailable) || cove.HintOf(err) == "" {
					t.Errorf("%s, whose engine was killed: got %v, want that it is unavailable, and what to do", name, err)
				}
				cancel()
			}
			e.start(t, options...)
			for name, m := range machines {
				if len(options) > 0 {
					if err := answers(t.Context(), m); err != nil {
						t.Errorf("%s, whose engine came back: %v", name, err)
					}
					if name != "docker" {
						drivertest.StartTalk(t, m)
					}
				} else {
					ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
					if exit, err := m.Wait(ctx); err != nil || exit.Reason == "" || exit.Message == "" {
						t.Errorf("%s, whose engine took it down: got %+v, %v; want why", name, exit, err)
					}
					cancel()
				}
			}
			if len(options) > 0 {
				talks["docker"].GoesOn(t, "whose engine came back")
			} else {
				talks["docker"].Breaks(t, "whose engine took it down")
			}
			for name, m := range machines {
				if err := m.Destroy(t.Context()); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
			e.swept(t, "docker", "docker:gvisor")
		})
	}
}

func TestT91AnEngineThatIsKilledInTheMiddleOfCreate(t *testing.T) {
	t.Parallel()
	for name, options := range endings {
		t.Run(name, func(t *testing.T) {
			e := newDaemon(t, options...)
			for _, runtime := range fleet[:2] {
				d := e.driver(t, runtime)
				if m, err := d.Create(t.Context(), "first", spec()); err != nil { // and its image is there
					t.Fatal(err)
				} else if err := m.Destroy(t.Context()); err != nil {
					t.Fatal(err)
				}
				var creating sync.WaitGroup
				var failed atomic.Int64
				for i := range 4 {
					creating.Go(func() {
						m, err := d.Create(context.Background(), fmt.Sprintf("middle%d", i), spec())
						switch {
						case err == nil:
							m.(*machine).release()
						case !errors.Is(err, cove.Unavailable) || cove.HintOf(err) == "":
							t.Errorf("create: got %v, want that the engine is unavailable, and what to do", err)
							fallthrough
						default:
							failed.Add(1)
						}
					})
				}
				for ours, err := d.containers(t.Context(), ""); len(ours) == 0 && err == nil; {
					ours, err = d.containers(t.Context(), "")
				}
				e.restart(t, options...)
				creating.Wait()
				if failed.Load() == 0 {
					t.Error("no create was cut short: the test shows nothing")
				}
				if m, err := d.Create(t.Context(), "after", spec()); err != nil {
					t.Errorf("create after all: %v", err)
				} else if err := m.Destroy(t.Context()); err != nil {
					t.Error(err)
				}
				e.swept(t, runtime)
			}
		})
	}
}

func TestT91AnEngineThatIsKilledInTheMiddleOfDestroy(t *testing.T) {
	t.Parallel()
	for name, options := range endings {
		t.Run(name, func(t *testing.T) {
			e := newDaemon(t, options...)
			for _, runtime := range fleet[:2] {
				d := e.driver(t, runtime)
				var machines []driver.Machine
				for i := range 5 {
					m, err := d.Create(t.Context(), fmt.Sprintf("middle%d", i), spec())
					if err != nil {
						t.Fatal(err)
					}
					machines = append(machines, m)
				}
				failed := make([]error, len(machines))
				var destroying sync.WaitGroup
				for i, m := range machines {
					destroying.Go(func() { failed[i] = m.Destroy(context.Background()) })
				}
				if _, err := machines[0].Wait(t.Context()); err != nil { // the rest is the engine's
					t.Error(err)
				}
				e.stop(t, syscall.SIGKILL)
				destroying.Wait()
				e.start(t, options...)
				cut := 0
				for i, m := range machines {
					if failed[i] == nil {
						continue
					}
					cut++
					if !errors.Is(failed[i], cove.Unavailable) || cove.HintOf(failed[i]) == "" {
						t.Errorf("destroy: got %v, want that the engine is unavailable, and what to do", failed[i])
					}
					if i%2 == 0 { // the others are the sweep's
						if err := m.Destroy(t.Context()); err != nil {
							t.Errorf("destroy again: %v", err)
						}
					}
				}
				if cut == 0 {
					t.Error("no destroy was cut short: the test shows nothing")
				}
				e.swept(t, runtime)
				for _, m := range machines {
					if err := m.Destroy(t.Context()); err != nil {
						t.Errorf("destroy after the sweep: %v", err)
					}
				}
			}
		})
	}
}
