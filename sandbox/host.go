// Package sandbox provides the in-process engine: Host owns the drivers and the records,
// and makes, finds, ends and forgets sandboxes; Sandbox, Process, Output and Files are
// the portable types, which behave alike on every runtime.
package sandbox

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	stdruntime "runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/policy"
	"github.com/covehq/cove/sandbox/driver"
	"github.com/covehq/cove/store"
)

// Options is what a Host is made of and what it may use. Store and Drivers are needed;
// of the others the zero value works.
type Options struct {
	// Store has the records of this host alone. It stays the caller's to close, after
	// the Host.
	Store store.Store
	// Drivers has the opener of each runtime family, by the name before the colon.
	Drivers map[string]driver.Opener
	// Variants are the runtimes, beside one of each family's own name, that Runtimes
	// describes. Others can be used all the same.
	Variants []string
	// Default is the runtime of a spec without one; cove.DefaultRuntime if empty. It
	// is never replaced by another one because it can't run here.
	Default string
	// Policy returns what the operator allows at that moment; nil is nothing that reaches
	// the host. It is called often, and concurrently.
	Policy func() *policy.Policy
	// Private are directories of the host that no sandbox is ever given: the daemon's.
	Private []string
	// Network is how sandboxes reach out.
	Network NetworkOptions
	// Logger gets what operators need to know; slog.Default if nil.
	Logger *slog.Logger

	// MaxSandboxes bounds the living sandboxes; 1000 if zero.
	MaxSandboxes int
	// MaxBoots bounds the sandboxes that boot at the same time, the others wait; twice
	// the processors and at least 4 if zero.
	MaxBoots int
	// CreateTimeout bounds one create; 5 minutes if zero.
	CreateTimeout time.Duration
	// PullTimeout bounds the fetching of one image, before a create; 30 minutes if zero.
	PullTimeout time.Duration
	// Retain is how long an ended sandbox can still be inspected; 10 minutes if zero.
	Retain time.Duration
	// SweepInterval is the time between two searches for what nobody owns; 30 seconds
	// if zero.
	SweepInterval time.Duration
}

// Host makes and keeps the sandboxes of one machine. Its methods may be called
// concurrently. Their errors are *cove.Error.
//
// A Sandbox has one state at a time, and changes of it are linear: when a call that ends
// a sandbox has returned, no later call of anyone finds it alive. Locks are taken in the
// order Sandbox.saving, Host.mu, Sandbox.mu, and then those of leases and events.
type Host struct {
	store     store.Store
	openers   map[string]driver.Opener
	fallback  string // the runtime of a spec without one
	variants  []string
	policy    func() *policy.Policy
	private   []string
	network   NetworkOptions
	log       *slog.Logger
	most      int
	retain    time.Duration
	patience  time.Duration // for one create
	pullTime  time.Duration // for one image
	overdue   time.Duration // grace of a guest at a command's time-out
	sweepTime time.Duration

	events *events
	leases *leases
	boots  chan struct{} // holds a token for each sandbox that boots
	living atomic.Int64
	ports  hostPortWatch

	ctx  context.Context // ends when the host closes
	stop context.CancelCauseFunc

	tasks sync.WaitGroup // grows under mu, while not closed

	mu        sync.Mutex
	closed    bool
	runtimes  map[string]*runtime
	sandboxes map[string]*Sandbox
	names     map[owned]*Sandbox // the living one of each name, else the last dead one
	keys      map[owned]*Sandbox // by idempotency key
	removed   graveyard
	unwritten map[string]struct{} // removed ids whose records could not be deleted yet
}

var errClosed = &cove.Error{
	Code: cove.Unavailable,
	Err:  errors.New("the host is closing"),
	Hint: "try again when the daemon is back",
}

// Open returns the host of what is in the store. Sandboxes that ran under an earlier
// host are attached before it returns; those that were half made are cleared; those that
// are gone are failed, with cove.ReasonLost. A sandbox whose driver can't say keeps its
// state, and attaching it is tried again. Leases are enforced from then on, and what the
// drivers find that no record owns is removed in the background.
func Open(ctx context.Context, o Options) (*Host, error) {
	h, err := newHost(o)
	if err != nil {
		return nil, err
	}
	if err := h.reconcile(ctx); err != nil {
		return nil, errors.Join(cove.Wrap(err, "open host", ""), h.Close(context.WithoutCancel(ctx)))
	}
	h.spawn(func() { h.leases.run(h.ctx, h.lookAt) })
	h.spawn(h.sweepUntilClosed)
	return h, nil
}

func newHost(o Options) (*Host, error) {
	if o.Store == nil || len(o.Drivers) == 0 {
		return nil, cove.Errorf(cove.Invalid, "open host", "", "a host needs a store and a driver", "set Options.Store and Options.Drivers")
	}
	h := &Host{
		store:     o.Store,
		openers:   o.Drivers,
		fallback:  cmp.Or(o.Default, cove.DefaultRuntime),
		variants:  o.Variants,
		policy:    o.Policy,
		private:   o.Private,
		network:   o.Network,
		log:       cmp.Or(o.Logger, slog.Default()),
		most:      cmp.Or(o.MaxSandboxes, 1000),
		retain:    cmp.Or(o.Retain, 10*time.Minute),
		patience:  cmp.Or(o.CreateTimeout, 5*time.Minute),
		pullTime:  cmp.Or(o.PullTimeout, defaultPullTime),
		overdue:   defaultOverdue,
		sweepTime: cmp.Or(o.SweepInterval, 30*time.Second),
		events:    newEvents(),
		leases:    newLeases(),
		boots:     make(chan struct{}, cmp.Or(o.MaxBoots, max(4, 2*stdruntime.NumCPU()))),
		runtimes:  make(map[string]*runtime),
		sandboxes: make(map[string]*Sandbox),
		names:     make(map[owned]*Sandbox),
		keys:      make(map[owned]*Sandbox),
		unwritten: make(map[string]struct{}),
	}
	if h.policy == nil {
		h.policy = func() *policy.Policy { return nil }
	}
	h.ctx, h.stop = context.WithCancelCause(context.Background())
	for _, name := range h.families() {
		if opened, err := h.runtime(name); err == nil {
			h.keep(opened)
		}
	}
	return h, nil
}

// Close ends what the host does in the background and every call that is under way,
// creates included, and returns when all of that has ended or ctx has. The sandboxes
// keep running; the next host on the store attaches them. A second call succeeds.
func (h *Host) Close(ctx context.Context) error {
	h.mu.Lock()
	h.closed = true
	h.mu.Unlock()
	h.stop(errClosed)
	h.events.close()

	done := make(chan struct{})
	go func() {
		h.tasks.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
		return cove.Wrap(fmt.Errorf("work is still going on: %w", ctx.Err()), "close host", "")
	}
	for _, s := range h.all() {
		s.hangUp()
	}
	return nil
}

// spawn runs task in a goroutine that Close waits for. It returns false, without running
// it, when the host is closed.
func (h *Host) spawn(task func()) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return false
	}
	h.tasks.Go(task)
	return true
}

// enter makes Close wait for the caller, who calls h.tasks.Done. It returns false when
// the host is closed.
func (h *Host) enter() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return false
	}
	h.tasks.Add(1)
	return true
}

// Sandbox returns the sandbox with that id or name, also one that has ended and is still
// retained. The error is cove.Gone for the id of one that was removed as long as the host
// remembers it, else cove.NotFound; that also for one that the caller does not see, see
// As. It is cove.Conflict for a name that several owners use, to a caller who sees all.
func (h *Host) Sandbox(ctx context.Context, idOrName string) (*Sandbox, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	caller := CallerOf(ctx)
	if s := h.sandboxes[idOrName]; s != nil && caller.Sees(s.owner) {
		return s, nil
	}
	if g, ok := h.removed.find(idOrName); ok && caller.Sees(g.owner) {
		return nil, cove.Wrap(g.why, "find sandbox", idOrName)
	}
	if s, err := h.named(caller, idOrName); s != nil || err != nil {
		return s, err
	}
	return nil, cove.Errorf(cove.NotFound, "find sandbox", plain(quote(idOrName)),
		"there is no such sandbox", "see the list of sandboxes for the ids and names there are")
}

// Filter selects sandboxes. The zero value selects all.
type Filter struct {
	Labels map[string]string // it has all of these
	State  cove.State        // it is in this state
}

func (f Filter) matches(r store.Record) bool {
	for key, value := range f.Labels {
		if got, ok := r.Spec.Labels[key]; !ok || got != value {
			return false
		}
	}
	return f.State == "" || f.State == r.State
}

// List returns the sandboxes of the caller's that the filter selects, oldest first; those that have ended
// are among them for as long as they are retained.
func (h *Host) List(ctx context.Context, f Filter) ([]cove.Sandbox, error) {
	views := []cove.Sandbox{}
	caller := CallerOf(ctx)
	for _, s := range h.all() {
		if r := s.snapshot(); caller.Sees(r.Owner) && f.matches(r) {
			views = append(views, r.View())
		}
	}
	slices.SortFunc(views, byAge)
	return views, nil
}

// all returns the sandboxes that the host knows, in any order.
func (h *Host) all() []*Sandbox {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := make([]*Sandbox, 0, len(h.sandboxes))
	for _, s := range h.sandboxes {
		all = append(all, s)
	}
	return all
}

// Len returns how many sandboxes live: those that run, and those that are being made.
func (h *Host) Len() int { return int(h.living.Load()) }

// graveyard remembers why the last removed sandboxes are gone.
type graveyard struct {
	graves map[string]grave
	order  []string // a ring once it is full
	next   int
}

// graves is how many removed sandboxes are remembered, at about 200 bytes each.
const graves = 4096

func (g *graveyard) bury(s *Sandbox, why *cove.Error) {
	if g.graves == nil {
		g.graves = make(map[string]grave)
	}
	id := s.id
	g.graves[id] = grave{s.owner, why}
	if len(g.order) < graves {
		g.order = append(g.order, id)
		return
	}
	delete(g.graves, g.order[g.next])
	g.order[g.next] = id
	g.next = (g.next + 1) % graves
}

func (g *graveyard) find(id string) (grave, bool) {
	found, ok := g.graves[id]
	return found, ok
}

// grave is what is remembered of a removed sandbox.
type grave struct {
	owner string
	why   *cove.Error
}
