package sandbox

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/covehq/cove"
)

func numbers(ports []cove.ListeningPort) (list []int) {
	for _, port := range ports {
		list = append(list, port.Port)
	}
	return list
}

func TestPortsAreListedByNumber(t *testing.T) {
	r := newRig(t, Options{})
	s := r.create(cove.Spec{})
	inside := r.world.find(s.ID()).agent
	if ports, err := s.Ports(t.Context()); err != nil || len(ports) != 0 {
		t.Errorf("Ports = %v, %v, want none", ports, err)
	}
	inside.listen(8000, 22, 70000, 0, -1, 5432)
	ports, err := s.Ports(t.Context())
	if err != nil || !slices.Equal(numbers(ports), []int{22, 5432, 8000}) {
		t.Errorf("Ports = %v, %v, want those that can be, in order", ports, err)
	}
	if len(ports) > 0 && (ports[0].Address != "0.0.0.0" || ports[0].PID != 7 || ports[0].Command != "serve") {
		t.Errorf("the first is %+v", ports[0])
	}
	if err := s.Destroy(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, err = s.Ports(t.Context())
	wantError(t, err, cove.Gone)
}

func TestWaitingForAPortEnds(t *testing.T) {
	r := newRig(t, Options{})
	for name, test := range map[string]struct {
		port int
		act  func(s *Sandbox, inside *agent)
		want cove.Code
	}{
		"when it listens already":        {22, func(*Sandbox, *agent) {}, ""},
		"when it listens later":          {8000, func(_ *Sandbox, inside *agent) { inside.listen(22, 8000) }, ""},
		"with the sandbox":               {8000, func(s *Sandbox, _ *agent) { _ = s.Destroy(context.Background()) }, cove.Gone},
		"at once for no port":            {70000, func(*Sandbox, *agent) {}, cove.Invalid},
		"at once for another no port":    {0, func(*Sandbox, *agent) {}, cove.Invalid},
		"at once for a negative one":     {-1, func(*Sandbox, *agent) {}, cove.Invalid},
		"when its time is over":          {8000, nil, cove.Timeout},
		"when the caller has had enough": {8000, func(*Sandbox, *agent) {}, cove.Unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			s := r.create(cove.Spec{})
			inside := r.world.find(s.ID()).agent
			inside.listen(22)
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			if test.act == nil {
				ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
			}
			defer cancel()
			done := make(chan error, 1)
			go func() {
				ports, err := s.WaitPort(ctx, test.port)
				if err == nil && !slices.Contains(numbers(ports), test.port) {
					err = fmt.Errorf("it returned %v", ports)
				}
				done <- err
			}()
			if test.act != nil {
				if test.port == 8000 {
					eventually(t, "the port was looked for", func() bool { return inside.looked() > 0 })
				}
				test.act(s, inside)
			}
			if test.want == cove.Unavailable {
				cancel()
			}
			err := <-done
			if test.want == "" && err != nil {
				t.Errorf("error = %v, want none", err)
			}
			if test.want != "" && cove.CodeOf(err) != test.want {
				t.Errorf("error = %v (%s), want %s", err, cove.CodeOf(err), test.want)
			}
			if test.want == cove.Timeout {
				wantError(t, err, cove.Timeout, "8000", "in time")
			}
		})
	}
}

// portEvents returns the events about ports so far: "opened 8000".
func (r *rig) portEvents() (list []string) {
	for event := range r.Events(context.Background(), 0) {
		if kind, ok := strings.CutPrefix(string(event.Type), "port."); ok {
			list = append(list, fmt.Sprint(kind, " ", event.Port.Port))
		}
	}
	return list
}

func (r *rig) untilPorts(what string, want ...string) {
	r.t.Helper()
	eventually(r.t, what, func() bool { return len(r.portEvents()) >= len(want) })
	if got := r.portEvents(); !slices.Equal(got, want) {
		r.t.Errorf("%s: the events are %q, want %q", what, got, want)
	}
}

func TestPortsThatOpenAndCloseAreEventsWhileSomebodyWatches(t *testing.T) {
	for name, only := range map[string]bool{"one sandbox": true, "all of them": false} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, Options{})
			s := r.create(cove.Spec{})
			inside := r.world.find(s.ID()).agent
			watch := func() func() {
				if only {
					return r.WatchPorts(s)
				}
				return r.WatchPorts(nil)
			}
			inside.listen(22)
			first, second := watch(), watch()
			r.untilPorts("what listens already is told once", "opened 22")
			inside.listen(22, 22, 8000)
			r.untilPorts("a port opens", "opened 22", "opened 8000")
			first()
			first() // ends one watch, not the other
			inside.listen(8000)
			r.untilPorts("a port closes", "opened 22", "opened 8000", "closed 22")
			second()
			eventually(t, "nobody looks any more", func() bool {
				before := inside.looked()
				time.Sleep(2 * fastLook)
				return inside.looked() == before
			})
			inside.listen(9000)
			third := watch()
			defer third()
			r.untilPorts("what changed meanwhile is told to the next one",
				"opened 22", "opened 8000", "closed 22", "closed 8000", "opened 9000")
		})
	}
}

func TestNobodyLooksAtPortsUnasked(t *testing.T) {
	r := newRig(t, Options{})
	s := r.create(cove.Spec{})
	inside := r.world.find(s.ID()).agent
	if _, err := s.Exec(t.Context(), exec("echo", "x")); err != nil {
		t.Fatal(err)
	}
	for range r.Events(context.Background(), 0) {
	}
	if n := inside.looked(); n != 0 {
		t.Errorf("the guest was asked for its ports %d times", n)
	}
}

func TestSandboxesThatComeLaterAreWatchedAndIdleAllTheSame(t *testing.T) {
	r := newRig(t, Options{})
	stop := r.WatchPorts(nil)
	defer stop()
	s := r.create(cove.Spec{Idle: cove.Duration(time.Second)})
	r.world.find(s.ID()).agent.listen(80)
	r.untilPorts("it is watched", "opened 80")
	eventually(t, "being watched is no use of it", func() bool { return s.View().Reason == cove.ReasonIdle })
	r.untilPorts("its end says enough about its ports", "opened 80")
}

func TestAGuestCantFloodTheEvents(t *testing.T) {
	w := &portWatch{}
	many := func() (ports []cove.ListeningPort) {
		for port := 60000; port > 56000; port-- {
			ports = append(ports, cove.ListeningPort{Port: port})
		}
		return ports
	}
	told := 0
	for range 100 {
		changes := w.compare(many())
		if len(changes) > mostChanges {
			t.Fatalf("%d changes are told at once", len(changes))
		}
		told += len(changes)
	}
	if told != mostWatched || len(w.told) != mostWatched {
		t.Errorf("%d were told and %d are known, want %d", told, len(w.told), mostWatched)
	}
	for range 100 {
		told -= len(w.compare(nil))
	}
	if told != 0 || len(w.told) != 0 {
		t.Errorf("%d were not told to have closed", told)
	}
}
