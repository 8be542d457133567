package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/sandbox/driver"
	"github.com/covehq/cove/store"
	"github.com/covehq/cove/store/sqlite"
)

// world is a driver and the machine on which it makes sandboxes, in memory. Like a real
// one it outlives the hosts that use it.
type world struct {
	mu     sync.Mutex
	things map[string]*thing // what is on the machine, by id
	info   driver.Info
	probes int

	// at, if not nil, is called at every step of the driver; its error fails the step.
	at func(ctx context.Context, step, id string) error
	// made, if not nil, is called with every spec of which a sandbox is made.
	made func(spec *cove.Spec) error
	// stats, if not nil, is what machines tell of themselves.
	stats func() (*cove.Stats, error)
}

// thing is what a sandbox is on the machine: whole, half-made or dead.
type thing struct {
	agent *agent // nil while half made
	dead  chan struct{}
	exit  driver.Exit
}

func newWorld() *world {
	enforced := make(map[cove.Control]cove.Enforcement)
	for _, control := range cove.Controls {
		enforced[control] = cove.Enforced
	}
	return &world{things: make(map[string]*thing), info: driver.Info{
		Isolation: cove.IsolationUserspaceKernel, Version: "1.0", Controls: enforced,
		Floor: cove.Limits{CPUs: 0.1, Memory: 16 * cove.MiB, Pids: 8, Disk: cove.MiB},
	}}
}

var _ interface {
	driver.Driver
	driver.Lister
} = (*world)(nil)

func (w *world) step(ctx context.Context, step, id string) error {
	w.mu.Lock()
	at := w.at
	w.mu.Unlock()
	if at == nil {
		return nil
	}
	return at(ctx, step, id)
}

// set has at called from now on.
func (w *world) set(at func(ctx context.Context, step, id string) error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.at = at
}

// failing fails one step, always.
func failing(step string, err error) func(context.Context, string, string) error {
	return func(_ context.Context, at, _ string) error {
		if at == step {
			return err
		}
		return nil
	}
}

// ids returns what is on the machine.
func (w *world) ids() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Sorted(maps.Keys(w.things))
}

func (w *world) find(id string) *thing {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.things[id]
}

func (w *world) add(id string, t *thing) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.things[id] = t
}

func (w *world) remove(id string) {
	w.mu.Lock()
	t := w.things[id]
	delete(w.things, id)
	w.mu.Unlock()
	if t != nil && t.agent != nil {
		t.agent.close()
	}
}

// die ends what runs as a sandbox, where something does, and leaves its remains.
func (w *world) die(id string, exit driver.Exit) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if t := w.things[id]; t != nil && t.agent != nil && !isClosed(t.dead) {
		t.exit = exit
		t.agent.close()
		close(t.dead)
	}
}

func (w *world) Probe(ctx context.Context) (driver.Info, error) {
	w.mu.Lock()
	w.probes++
	info := w.info
	w.mu.Unlock()
	return info, w.step(ctx, "probe", "")
}

func (w *world) Create(ctx context.Context, id string, spec *cove.Spec) (driver.Machine, error) {
	if err := w.step(ctx, "create", id); err != nil {
		return nil, err
	}
	if w.made != nil {
		if err := w.made(spec); err != nil {
			return nil, err
		}
	}
	t := &thing{dead: make(chan struct{})}
	w.add(id, t)
	if err := w.step(ctx, "boot", id); err != nil {
		w.remove(id)
		return nil, err
	}
	t = &thing{dead: t.dead, agent: newAgent()}
	w.add(id, t)
	if err := w.step(ctx, "booted", id); err != nil {
		w.remove(id)
		return nil, err
	}
	return &testMachine{world: w, id: id, thing: t}, nil
}

func (w *world) Attach(ctx context.Context, id string, handle []byte) (driver.Machine, error) {
	if err := w.step(ctx, "attach", id); err != nil {
		return nil, err
	}
	t := w.find(id)
	if t == nil || isClosed(t.dead) || t.agent == nil {
		return nil, fmt.Errorf("no container %s: %w", id, cove.NotFound)
	}
	if string(handle) != "handle of "+id {
		return nil, fmt.Errorf("the handle of %s is %q", id, handle)
	}
	return &testMachine{world: w, id: id, thing: t}, nil
}

func (w *world) List(ctx context.Context) ([]string, error) {
	return w.ids(), w.step(ctx, "list", "")
}

func (w *world) Remove(ctx context.Context, id string) error {
	if err := w.step(ctx, "remove", id); err != nil {
		return err
	}
	w.remove(id)
	return nil
}

type testMachine struct {
	world *world
	id    string
	thing *thing
}

func (m *testMachine) Handle() []byte { return []byte("handle of " + m.id) }

func (m *testMachine) Dial(ctx context.Context) (net.Conn, error) {
	if err := m.world.step(ctx, "dial", m.id); err != nil {
		return nil, err
	}
	return m.thing.agent.dial(ctx)
}

func (m *testMachine) Wait(ctx context.Context) (driver.Exit, error) {
	if err := m.world.step(ctx, "wait", m.id); err != nil {
		return driver.Exit{}, err
	}
	select {
	case <-m.thing.dead:
		return m.thing.exit, nil
	case <-ctx.Done():
		return driver.Exit{}, ctx.Err()
	}
}

func (m *testMachine) Stats(context.Context) (*cove.Stats, error) {
	if m.world.stats == nil {
		return nil, errors.New("there are no cgroups")
	}
	return m.world.stats()
}

func (m *testMachine) Destroy(ctx context.Context) error {
	if err := m.world.step(ctx, "destroy", m.id); err != nil {
		return err
	}
	m.world.remove(m.id)
	return nil
}

// failingStore is a store whose writes can be made to fail.
type failingStore struct {
	store.Store
	mu  sync.Mutex
	put func(store.Record) error
	del func(id string) error

	written func(store.Record) // called after each put
}

func (s *failingStore) fail(put func(store.Record) error, del func(string) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.put, s.del = put, del
}

func (s *failingStore) Put(ctx context.Context, r store.Record) error {
	s.mu.Lock()
	put, written := s.put, s.written
	s.mu.Unlock()
	if put != nil {
		if err := put(r); err != nil {
			return err
		}
	}
	if err := s.Store.Put(ctx, r); err != nil {
		return err
	}
	if written != nil {
		written(r)
	}
	return nil
}

func (s *failingStore) Delete(ctx context.Context, id string) error {
	s.mu.Lock()
	del := s.del
	s.mu.Unlock()
	if del != nil {
		if err := del(id); err != nil {
			return err
		}
	}
	return s.Store.Delete(ctx, id)
}

// rig is a host with its world and its store.
type rig struct {
	*Host
	t     *testing.T
	world *world
	store *failingStore
	dir   string
	log   *logBuffer
}

// newRig opens a host in a world of its own. The options may lack what a rig has.
func newRig(t *testing.T, o Options) *rig {
	t.Helper()
	return openRig(t, newWorld(), filepath.Join(t.TempDir(), "state"), o)
}

func openRig(t *testing.T, w *world, dir string, o Options) *rig {
	t.Helper()
	opened, err := sqlite.Open(t.Context(), dir)
	if err != nil {
		t.Fatalf("opening the store: %v", err)
	}
	r := &rig{t: t, world: w, store: &failingStore{Store: opened}, dir: dir, log: &logBuffer{}}
	o.Store = r.store
	if o.Drivers == nil {
		o.Drivers = map[string]driver.Opener{"test": opener(w)}
	}
	if o.Default == "" {
		o.Default = "test"
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	if r.Host, err = Open(t.Context(), o); err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() {
		r.shut()
		if t.Failed() {
			t.Logf("log of the host:\n%s", r.log)
		}
	})
	return r
}

// shut closes the host and the store, as a daemon that is told to end does.
func (r *rig) shut() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := r.Host.Close(ctx); err != nil {
		r.t.Errorf("Close: %v", err)
	}
	if err := r.store.Close(); err != nil {
		r.t.Errorf("closing the store: %v", err)
	}
}

func opener(d driver.Driver) driver.Opener {
	return func(variant string) (driver.Driver, error) {
		if variant != "" {
			return nil, cove.Errorf(cove.Invalid, "", "", "test has no variants", "use test")
		}
		return d, nil
	}
}

// create makes a sandbox or ends the test.
func (r *rig) create(spec cove.Spec) *Sandbox {
	r.t.Helper()
	s, err := r.Create(r.t.Context(), spec, CreateOptions{})
	if err != nil {
		r.t.Fatalf("Create: %v", err)
	}
	return s
}

// records returns the ids in the store, each with its state.
func (r *rig) records() []string {
	r.t.Helper()
	list, err := r.store.List(r.t.Context())
	if err != nil {
		r.t.Fatalf("listing the records: %v", err)
	}
	var records []string
	for _, record := range list {
		records = append(records, record.ID+" "+string(record.State))
	}
	return records
}

// empty fails the test unless nothing is left of any sandbox, anywhere.
func (r *rig) empty() {
	r.t.Helper()
	if ids := r.world.ids(); len(ids) != 0 {
		r.t.Errorf("left on the machine: %v, want nothing", ids)
	}
	if records := r.records(); len(records) != 0 {
		r.t.Errorf("left in the store: %v, want nothing", records)
	}
	if list, err := r.List(r.t.Context(), Filter{}); err != nil || len(list) != 0 {
		r.t.Errorf("List = %v, %v, want nothing", list, err)
	}
	if n := r.Len(); n != 0 {
		r.t.Errorf("Len = %d, want 0", n)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.names)+len(r.keys) != 0 {
		r.t.Errorf("names and keys left: %v, %v", r.names, r.keys)
	}
}

// events returns the types of the events so far, each with the sandbox's reason.
func (r *rig) events() []string {
	var types []string
	for next := uint64(1); ; {
		batch, _, err := r.Host.events.read(next)
		if err != nil || len(batch) == 0 {
			return types
		}
		for _, event := range batch {
			types = append(types, strings.TrimSuffix(fmt.Sprintf("%s %s", strings.TrimPrefix(string(event.Type), "sandbox."), event.Sandbox.Reason), " "))
			next++
		}
	}
}

// wantEvents fails the test unless these events have happened, in this order.
func (r *rig) wantEvents(want ...string) {
	r.t.Helper()
	if got := r.events(); !slices.Equal(got, want) {
		r.t.Errorf("events = %q, want %q", got, want)
	}
}

// wantError fails the test unless err has the code, all the texts and a hint.
func wantError(t *testing.T, err error, code cove.Code, texts ...string) {
	t.Helper()
	var e *cove.Error
	if !errors.As(err, &e) || e.Code != code {
		t.Errorf("error = %v (%s), want %s", err, cove.CodeOf(err), code)
		return
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("error = %q, want %q in it", err, text)
		}
	}
	if cove.HintOf(err) == "" {
		t.Errorf("error %q has no hint", err)
	}
}

// eventually waits until a condition holds, and fails the test when it does not.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !holds(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("in vain waited until %s", what)
		}
	}
}

// logBuffer keeps what a host logs.
type logBuffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

var _ io.Writer = (*logBuffer)(nil)

func exec(line ...string) cove.ExecRequest {
	return cove.ExecRequest{Command: cove.Command{Argv: line}}
}
