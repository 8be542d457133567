package sandbox

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/guest/dial"
	"github.com/covehq/cove/policy"
	"github.com/covehq/cove/sandbox/driver"
	"github.com/covehq/cove/store"
)

// initTimeout bounds the first exchange with a guest that has said it is ready.
const initTimeout = 30 * time.Second

// CreateOptions is how to create, beside what. The zero value works.
type CreateOptions struct {
	// IdempotencyKey makes a repetition safe: as long as the host has the sandbox that
	// an earlier Create with this key made, that one is returned. It is at most 255
	// bytes without control characters. With another spec the key is cove.Conflict.
	IdempotencyKey string
}

// Create makes a sandbox, its caller's, and returns it when it runs. Everything that is wrong with the
// spec, for this host too, is in one error: cove.Invalid, else cove.Forbidden for what the
// operator's policy does not allow, else cove.NotSupported where only the runtime is in
// the way. Other errors are cove.Unavailable for a runtime that can't
// run here, cove.Conflict for a name that a living sandbox has, and cove.Exhausted at the
// limit of sandboxes.
//
// On error, also when ctx ends, nothing of the sandbox is left.
func (h *Host) Create(ctx context.Context, spec cove.Spec, o CreateOptions) (*Sandbox, error) {
	if !h.enter() {
		return nil, cove.Wrap(errClosed, "create", "")
	}
	defer h.tasks.Done()
	values := takeSecrets(&spec)
	asked := spec
	spec = h.complete(asked)
	s, err := h.create(ctx, &spec, &asked, values, o.IdempotencyKey)
	if err != nil {
		return nil, h.wrap(err, "create", "")
	}
	return s, nil
}

// create makes a sandbox of a complete spec. asked is the spec without the defaults, and
// values are those of the secrets in it.
func (h *Host) create(ctx context.Context, spec, asked *cove.Spec, values map[string]string, key string) (*Sandbox, error) {
	var p problems
	checkSpec(&p, spec)
	wanted := *identity(spec, asked) // before the plan completes the spec
	way := h.plan(ctx, &p, CallerOf(ctx).Owner, spec, values, nil)
	h.forbid(&p, func(operator *policy.Policy) []policy.Violation { return operator.Check(spec) })
	if len(key) > 255 || !printable(key) {
		p.invalid("use a short random text as idempotency key", "the idempotency key has more than 255 bytes or control characters")
	}
	digest := ""
	if p.code != cove.Invalid { // what is valid can be written as JSON
		var err error
		if digest, err = fingerprint(&wanted); err != nil {
			return nil, err
		}
	}
	h.forbidOwned(ctx, &p, spec)
	at := owned{CallerOf(ctx).Owner, key}
	for {
		if earlier := h.byKey(at); earlier != nil && digest != "" {
			s, err := earlier.repeat(ctx, digest)
			if errors.Is(err, errRetry) {
				continue
			}
			return s, err
		}
		order, err := h.admit(ctx, spec, asked.Limits, p)
		if err != nil {
			return nil, err
		}
		if order.Image, err = h.provide(ctx, order.on, &order.Spec, asked); err != nil {
			return nil, err
		}
		h.forbidUser(&p, order.Spec.User) // which may be the image's
		if err := p.err("create"); err != nil {
			return nil, err
		}
		order.Owner, order.IdempotencyKey, order.Fingerprint, order.Asked, order.way = at.owner, key, digest, wanted, way
		s, err := h.reserve(order)
		if errors.Is(err, errRetry) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if err := s.boot(ctx); err != nil {
			return nil, err
		}
		return s, nil
	}
}

// errRetry says that a request with the same idempotency key has come or gone meanwhile.
var errRetry = errors.New("the idempotency key has changed hands")

// fingerprint identifies a complete spec.
func fingerprint(spec *cove.Spec) (string, error) {
	text, err := json.Marshal(spec)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:]), nil
}

// byKey returns the sandbox that a create with this idempotency key made or makes.
func (h *Host) byKey(key owned) *Sandbox {
	if key.name == "" {
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.keys[key]
}

// repeat returns s to a second create with its idempotency key, once s has come up. It
// fails as the first one did, but with errRetry where that was only given up by its
// caller.
func (s *Sandbox) repeat(ctx context.Context, digest string) (*Sandbox, error) {
	if s.digest != digest {
		return nil, &cove.Error{
			Code: cove.Conflict, ID: s.id,
			Err:  fmt.Errorf("the idempotency key was used for sandbox %s with another spec", s.id),
			Hint: "use a new key for a new request",
		}
	}
	select {
	case <-s.ready:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	switch {
	case s.fate == nil:
		return s, nil
	case errors.Is(s.fate, context.Canceled), errors.Is(s.fate, context.DeadlineExceeded):
		return nil, errRetry
	}
	return nil, s.fate
}

// order is a record of a sandbox to be, the runtime to make it, and its way out.
type order struct {
	store.Record
	on  *runtime
	way *route
}

// admit returns the order for a spec, or what is wrong with it: the problems found so
// far, and those with the runtime on this host.
func (h *Host) admit(ctx context.Context, spec *cove.Spec, asked cove.Limits, p problems) (*order, error) {
	if !runtimePattern.MatchString(spec.Runtime) {
		return nil, p.err("create")
	}
	on, err := h.runtime(spec.Runtime)
	if cove.CodeOf(err) == cove.Invalid {
		p.invalid(cove.HintOf(err), "%s", reason(err))
		return nil, p.err("create")
	}
	if err != nil {
		return nil, err
	}
	info, err := on.probe(ctx, always)
	if err != nil && p.code != "" {
		return nil, p.err("create") // it would fail on a host that has the runtime, too
	}
	if err != nil {
		return nil, err
	}
	checkRuntime(&p, spec, asked, info)
	if err := p.err("create"); err != nil {
		return nil, err
	}
	enforced := controls(info)
	if spec.Options.NetworkMode != "" { // a network of the engine, which knows no names
		enforced[cove.ControlNetwork] = cove.Unsupported
	}
	return &order{on: h.keep(on), Record: store.Record{
		Spec: *spec, State: cove.StateCreating, Isolation: info.Isolation, Controls: enforced, Acquired: cove.AcquiredCold,
	}}, nil
}

// reserve gives an order its id, its name and its place, which it keeps until forget.
func (h *Host) reserve(o *order) (*Sandbox, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if o.IdempotencyKey != "" && h.keys[owned{o.Owner, o.IdempotencyKey}] != nil {
		return nil, errRetry
	}
	if holder := h.names[owned{o.Owner, o.Spec.Name}]; holder != nil && !holder.snapshot().Ended() {
		return nil, &cove.Error{
			Code: cove.Conflict, ID: o.Spec.Name,
			Err:  fmt.Errorf("%w: %s belongs to sandbox %s", errTaken, o.Spec.Name, holder.id),
			Hint: "choose another name, or remove that sandbox; if_exists return (cove create --reuse) takes it where it is the same",
		}
	}
	most := h.most
	if policed := h.policy().Most(); policed > 0 {
		most = min(most, policed)
	}
	if h.living.Load() >= int64(most) {
		return nil, &cove.Error{
			Code: cove.Exhausted,
			Err:  fmt.Errorf("there are %d sandboxes, as many as this host may have", most),
			Hint: "remove sandboxes that are not needed, or raise the host's limit",
		}
	}
	o.ID = newID()
	o.CreatedAt = time.Now().UTC().Truncate(time.Microsecond)
	s := newSandbox(h, o.Record, o.on)
	s.route = o.way
	h.living.Add(1)
	h.enlist(s)
	h.events.publish(cove.EventCreating, s.record)
	return s, nil
}

// enlist makes s known by its id, name and key. The caller holds mu.
func (h *Host) enlist(s *Sandbox) {
	h.sandboxes[s.id] = s
	if s.name != "" {
		h.names[owned{s.owner, s.name}] = s
	}
	if s.key != "" {
		h.keys[owned{s.owner, s.key}] = s
	}
}

// newID returns 20 of a-z and 2-7, beginning with a letter: 99 bits of chance.
func newID() string {
	for {
		if id := strings.ToLower(rand.Text()[:20]); id[0] >= 'a' {
			return id
		}
	}
}

// boot makes the sandbox that s has reserved. On error nothing of it is left.
func (s *Sandbox) boot(ctx context.Context) error {
	err := s.make(ctx)
	if err != nil {
		s.undo(err)
	}
	s.fate = err
	close(s.ready)
	return err
}

// make takes a sandbox from creating to running, within the host's time for that and for
// as long as nobody ends it.
func (s *Sandbox) make(ctx context.Context) error {
	h := s.host
	overdue := &cove.Error{
		Code: cove.Timeout, ID: s.id, Err: fmt.Errorf("the sandbox did not come up within %v", h.patience),
		Hint: "try again when the machine is less busy, or run cove doctor",
	}
	ctx, stop := context.WithTimeoutCause(ctx, h.patience, overdue)
	defer stop()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(s.life, func() { cancel(context.Cause(s.life)) })()

	err := s.steps(ctx)
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if cove.CodeOf(err) == cove.Unavailable {
		s.runtime.forget() // what it said about the host may not hold any more
	}
	return err
}

func (s *Sandbox) steps(ctx context.Context) error {
	h := s.host
	ports, err := s.openPorts(ctx)
	if err != nil {
		return err
	}
	if err := h.store.Put(ctx, s.snapshot()); err != nil {
		return err
	}
	lent := s.leases()
	if err := s.lendAll(ctx, lent); err != nil {
		return err
	}
	select {
	case h.boots <- struct{}{}:
		defer func() { <-h.boots }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	s.mu.Lock()
	s.touched = true
	spec := s.record.Spec
	s.mu.Unlock()
	spec.Env, spec.Labels = maps.Clone(spec.Env), maps.Clone(spec.Labels)
	release, err := h.sources(&spec)
	if err != nil {
		return err
	}
	defer release()

	started := time.Now()
	machine, err := s.runtime.driver.Create(ctx, s.id, &spec)
	if err != nil {
		return driver.Full(err)
	}
	client := dial.New(machine.Dial)
	s.mu.Lock()
	s.machine, s.client = machine, client
	s.record.Handle = machine.Handle() // should it have to be cleared by a later host
	s.mu.Unlock()

	initCtx, cancel := context.WithTimeout(ctx, initTimeout)
	defer cancel()
	init := initOf(&spec, h.environment(&spec, lent))
	init.Accounts = ownAccounts(&spec)
	if err := client.Init(initCtx, init); err != nil {
		return s.diagnose(ctx, machine, err)
	}
	if err := s.openRoute(initCtx, client); err != nil {
		return s.diagnose(ctx, machine, err)
	}
	if err := s.running(ctx); err != nil {
		return err
	}
	if !h.spawn(s.watch) {
		return errClosed
	}
	s.servePorts(ports)
	h.log.Info("sandbox runs", "id", s.id, "name", s.name, "runtime", spec.Runtime, "boot", time.Since(started))
	return nil
}

// initOf is what the agent has to know of a spec.
func initOf(spec *cove.Spec, env map[string]string) dial.Init {
	return dial.Init{
		Env: env, User: spec.User, Workdir: spec.Workdir, Memory: int64(spec.Limits.Memory), Ulimits: spec.Ulimits,
		Capabilities: spec.Options.CapAdd, Dropped: spec.Options.CapDrop,
	}
}

// diagnose returns why a guest that was up did not answer: err, unless the sandbox has
// ended, which its driver knows soon.
func (s *Sandbox) diagnose(ctx context.Context, machine driver.Machine, err error) error {
	if !errors.Is(err, cove.Unavailable) {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, endNoticed)
	defer cancel()
	exit, waitErr := machine.Wait(ctx)
	if waitErr != nil {
		return err
	}
	r := s.snapshot()
	r.Reason = exit.Reason
	return &cove.Error{
		Code: cove.Unavailable, ID: s.id,
		Err:  fmt.Errorf("the sandbox ended while it came up: %s", explain(r, plain(exit.Message))),
		Hint: "raise its memory limit if that is low, or run cove doctor",
	}
}

// running writes down that the sandbox runs, and then makes it so.
func (s *Sandbox) running(ctx context.Context) error {
	s.saving.Lock()
	defer s.saving.Unlock()
	r := s.snapshot()
	r.State, r.ExpiresAt = cove.StateRunning, deadline(r.Spec.TTL)
	if err := s.host.store.Put(ctx, r); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.record.Ended() {
		return context.Cause(s.life)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	s.record, s.lastUse = r, time.Now()
	s.scheduleLocked()
	s.host.events.publish(cove.EventRunning, r)
	return nil
}

// undo clears and forgets a sandbox that failed to come up. What can't be cleared now is
// left to the sweep.
func (s *Sandbox) undo(err error) {
	h := s.host
	h.mu.Lock()
	if at := (owned{s.owner, s.key}); h.keys[at] == s {
		delete(h.keys, at) // a repetition may try anew at once
	}
	h.mu.Unlock()
	s.end(cove.StateFailed, cove.ReasonCreate, plain(reason(err)))
	ctx := context.WithoutCancel(h.ctx)
	if err := s.clear(ctx); err != nil {
		h.log.Error("clearing a sandbox that did not come up, will try again", "id", s.id, "err", errors.Join(err, s.save(ctx)))
		return
	}
	h.forget(s)
}

// watch ends the sandbox when its machine does. It returns when the sandbox has ended in
// whatever way, or the host is closed.
func (s *Sandbox) watch() {
	s.mu.Lock()
	machine := s.machine
	s.mu.Unlock()
	for machine != nil {
		exit, err := machine.Wait(s.life)
		if s.life.Err() != nil {
			return
		}
		if err == nil {
			if s.end(cove.StateFailed, exit.Reason, plain(exit.Message)) {
				s.host.bury(s)
			}
			return
		}
		s.host.log.Error("waiting for the end of a sandbox", "id", s.id, "err", err)
		select {
		case <-time.After(time.Second):
		case <-s.life.Done():
			return
		}
	}
}
