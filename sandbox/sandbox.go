package sandbox

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/guest/dial"
	"github.com/covehq/cove/policy"
	"github.com/covehq/cove/sandbox/driver"
	"github.com/covehq/cove/store"
)

// clearTimeout bounds one attempt to remove what a sandbox has on the host.
const clearTimeout = time.Minute

// Sandbox is one isolated computer. Its methods may be called concurrently. They return
// an error that is cove.Gone, and says why, once the sandbox has ended, also to calls that
// were under way then; cove.Conflict while it is being made.
type Sandbox struct {
	host    *Host
	id      string
	name    string
	key     string
	owner   string
	digest  string   // of the spec that it was created with
	runtime *runtime // nil where the driver is not part of this host
	lease   lease    // guarded by host.leases

	life  context.Context // ends with the sandbox or the host; its cause says why
	kill  context.CancelCauseFunc
	ready chan struct{} // closed when Create is through with it, either way
	fate  error         // of Create; may be read when ready is closed

	saving  sync.Mutex // orders what is written to the store
	deleted bool       // the record is, and is not to be written again

	clearing sync.Mutex // one attempt at a time

	starting sync.Mutex // one Start with a unique tag at a time

	mu      sync.Mutex
	record  store.Record
	machine driver.Machine // nil before the driver made or found it, and after it was destroyed
	client  *dial.Client   // nil whenever machine is
	touched bool           // the driver may have something on the host
	unsaved bool           // the store lacks the present record
	absence error          // why it could not be attached, so far
	uses    int
	lastUse time.Time

	published *publication // nil without open ports
	route     *route       // nil where the host has no way out

	ports portWatch
}

// newSandbox returns the live object for a record.
func newSandbox(h *Host, r store.Record, on *runtime) *Sandbox {
	s := &Sandbox{
		host: h, id: r.ID, name: r.Spec.Name, key: r.IdempotencyKey, owner: r.Owner, digest: r.Fingerprint,
		runtime: on, ready: make(chan struct{}), record: r, lastUse: time.Now(),
	}
	s.lease.owner = s
	s.life, s.kill = context.WithCancelCause(h.ctx)
	return s
}

// ID returns the sandbox's id, which no other sandbox ever has.
func (s *Sandbox) ID() string { return s.id }

// View returns the sandbox as it is now.
func (s *Sandbox) View() cove.Sandbox { return s.snapshot().View() }

// snapshot returns the record as it is now. Its maps are shared and not to be modified.
func (s *Sandbox) snapshot() store.Record {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.record
}

// Update changes the sandbox's leases and labels, and returns it as it is then. On error
// nothing has changed.
func (s *Sandbox) Update(ctx context.Context, u cove.SandboxUpdate) (cove.Sandbox, error) {
	if err := s.checkUpdate(u); err != nil {
		return cove.Sandbox{}, err
	}
	s.saving.Lock()
	defer s.saving.Unlock()
	changed := s.snapshot()
	if err := alive(changed, "update"); err != nil {
		return cove.Sandbox{}, err
	}
	if u.TTL != nil {
		changed.Spec.TTL = *u.TTL
		changed.ExpiresAt = deadline(*u.TTL)
	}
	if u.Idle != nil {
		changed.Spec.Idle = *u.Idle
	}
	if u.Labels != nil {
		changed.Spec.Labels = maps.Clone(*u.Labels)
	}
	if err := s.host.store.Put(ctx, changed); err != nil {
		return cove.Sandbox{}, s.host.wrap(err, "update", s.id)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := alive(s.record, "update"); err != nil { // it ended meanwhile
		return cove.Sandbox{}, err
	}
	s.record.Spec, s.record.ExpiresAt = changed.Spec, changed.ExpiresAt
	s.lastUse = time.Now()
	s.scheduleLocked()
	s.host.events.publish(cove.EventUpdated, s.record)
	return s.record.View(), nil
}

func (s *Sandbox) checkUpdate(u cove.SandboxUpdate) error {
	var p problems
	if u.TTL != nil {
		checkDuration(&p, "ttl", *u.TTL)
		s.host.forbid(&p, func(operator *policy.Policy) []policy.Violation { return operator.CheckTTL(*u.TTL) })
	}
	if u.Idle != nil {
		checkDuration(&p, "idle", *u.Idle)
	}
	if u.Labels != nil {
		checkLabels(&p, *u.Labels)
	}
	return p.err("update")
}

// deadline returns the end of a duration that begins now; the zero time for never.
func deadline(d cove.Duration) time.Time {
	if d == cove.Never {
		return time.Time{}
	}
	return time.Now().UTC().Add(time.Duration(d))
}

// scheduleLocked has the leases looked at when the next one passes.
func (s *Sandbox) scheduleLocked() {
	due, _ := s.dueLocked()
	s.host.leases.set(&s.lease, due)
}

// Destroy ends the sandbox, removes everything that it has on the host and forgets it.
// When ctx ends before that is done, it goes on. Destroying what is destroyed succeeds.
// After an error the host tries again by itself.
func (s *Sandbox) Destroy(ctx context.Context) error {
	s.end(cove.StateStopped, cove.ReasonRemoved, "")
	done := make(chan error, 1)
	if !s.host.spawn(func() { done <- s.host.remove(s) }) {
		return cove.Wrap(errClosed, "destroy", s.id)
	}
	select {
	case err := <-done:
		return s.host.wrap(err, "destroy", s.id)
	case <-ctx.Done():
		return cove.Wrap(context.Cause(ctx), "destroy", s.id)
	}
}

// end moves the sandbox to its last state and ends every use of it. It returns false when
// the sandbox had ended already; that end stays the one that counts. What the sandbox has
// on the host is the caller's to clear.
func (s *Sandbox) end(state cove.State, why cove.Reason, message string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.record.Ended() {
		return false
	}
	s.record.State, s.record.Reason = state, why
	s.record.Message = explain(s.record, message)
	s.record.EndedAt = time.Now().UTC()
	s.unsaved = true
	s.kill(gone(s.record))
	s.host.living.Add(-1)
	s.scheduleLocked()
	kind, level := cove.EventStopped, s.host.log.Info
	if state == cove.StateFailed {
		kind, level = cove.EventFailed, s.host.log.Warn
	}
	s.host.events.publish(kind, s.record)
	level("sandbox ended", "id", s.id, "state", state, "reason", why, "message", s.record.Message)
	return true
}

// explain puts the reason for which a sandbox ended into words: the given ones, unless
// there are better ones.
func explain(r store.Record, message string) string {
	if r.Reason == cove.ReasonOOM {
		return fmt.Sprintf("out of memory (limit %v)", r.Spec.Limits.Memory)
	}
	if message != "" {
		return message
	}
	switch r.Reason {
	case cove.ReasonKilled:
		return "something outside ended it"
	case cove.ReasonExited:
		return "its first process ended"
	case cove.ReasonExpired:
		return fmt.Sprintf("its time to live of %v has passed", r.Spec.TTL)
	case cove.ReasonIdle:
		return fmt.Sprintf("it was not used for %v", r.Spec.Idle)
	case cove.ReasonLost:
		return "it did not run any more when the daemon came back"
	case cove.ReasonRemoved:
		return "it was removed on request"
	}
	return string(r.Reason)
}

// gone returns the error of using a sandbox that has ended.
func gone(r store.Record) *cove.Error {
	verb := map[cove.Reason]string{
		cove.ReasonOOM: "was killed", cove.ReasonKilled: "was killed", cove.ReasonExited: "exited",
		cove.ReasonExpired: "expired", cove.ReasonIdle: "was idle", cove.ReasonLost: "was lost",
		cove.ReasonRemoved: "is gone", cove.ReasonCreate: "did not come up",
	}[r.Reason]
	if verb == "" {
		verb = "has " + string(r.State)
	}
	hint := "create a new sandbox"
	switch r.Reason {
	case cove.ReasonOOM:
		hint = "create a new sandbox with a higher memory limit"
	case cove.ReasonExpired:
		hint = "create a new sandbox with a longer ttl, or extend the ttl while it runs"
	case cove.ReasonIdle:
		hint = "create a new sandbox with a longer idle limit"
	}
	return &cove.Error{
		Code: cove.Gone, ID: r.ID, Hint: hint,
		Err: fmt.Errorf("sandbox %s %s: %s", r.ID, verb, r.Message),
	}
}

// alive returns nil for a sandbox that has come up and not ended.
func alive(r store.Record, op string) error {
	switch {
	case r.Ended():
		return cove.Wrap(gone(r), op, r.ID)
	case r.State == cove.StateCreating:
		return cove.Errorf(cove.Conflict, op, r.ID, "the sandbox is still being created", "wait until its state is running")
	}
	return nil
}

// save writes the present record to the store, where that lacks it. It succeeds when the
// record has been deleted for good.
func (s *Sandbox) save(ctx context.Context) error {
	s.saving.Lock()
	defer s.saving.Unlock()
	s.mu.Lock()
	r, needed := s.record, s.unsaved && !s.deleted
	s.unsaved = false
	s.mu.Unlock()
	if !needed {
		return nil
	}
	err := s.host.store.Put(ctx, r)
	if err != nil {
		s.mu.Lock()
		s.unsaved = true
		s.mu.Unlock()
	}
	return err
}

// clear removes what the sandbox, which has ended, has on the host. It may be called any
// number of times, and does nothing once it has succeeded.
func (s *Sandbox) clear(ctx context.Context) error {
	s.clearing.Lock()
	defer s.clearing.Unlock()
	s.mu.Lock()
	machine, touched := s.machine, s.touched
	s.mu.Unlock()
	s.closePorts()
	s.closeRoute()
	if err := s.returnSecrets(ctx); err != nil {
		return err
	}
	if !touched {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), clearTimeout)
	defer cancel()
	s.hangUp()
	var err error
	if machine != nil {
		err = machine.Destroy(ctx)
	} else {
		err = s.removeUnattached(ctx)
	}
	if err != nil {
		return driver.Full(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.machine, s.client, s.touched = nil, nil, false
	s.record.Handle, s.unsaved = nil, true
	return nil
}

// removeUnattached clears a sandbox of which there is no machine: the driver failed to
// make it, or it ended while no daemon ran.
func (s *Sandbox) removeUnattached(ctx context.Context) error {
	if s.runtime == nil {
		return fmt.Errorf("runtime %s is not part of this host", s.snapshot().Spec.Runtime)
	}
	lister, ok := s.runtime.driver.(driver.Lister)
	if !ok {
		return nil // it leaves nothing that outlives a daemon
	}
	return lister.Remove(ctx, s.id)
}

// hangUp closes the connections to the guest.
func (s *Sandbox) hangUp() {
	s.mu.Lock()
	client := s.client
	s.mu.Unlock()
	if client != nil {
		if err := client.Close(); err != nil {
			s.host.log.Debug("closing the connections to a guest", "id", s.id, "err", err)
		}
	}
}

// bury clears what an ended sandbox has on the host and writes its end down; the record
// is kept for a while. What fails is tried again by the sweep.
func (h *Host) bury(s *Sandbox) {
	ctx := context.WithoutCancel(h.ctx)
	// The end first: should the daemon die now, the next one knows why it ended.
	err := errors.Join(s.save(ctx), s.clear(ctx), s.save(ctx))
	if err != nil {
		h.log.Error("clearing an ended sandbox, will try again", "id", s.id, "err", err)
	}
}

// remove buries and forgets a sandbox that has ended.
func (h *Host) remove(s *Sandbox) error {
	<-s.ready
	ctx := context.WithoutCancel(h.ctx)
	if err := s.save(ctx); err != nil {
		h.log.Warn("noting the end of a sandbox", "id", s.id, "err", err)
	}
	if err := s.clear(ctx); err != nil {
		return err
	}
	h.forget(s)
	return nil
}

// retire removes a sandbox that was retained for long enough.
func (h *Host) retire(s *Sandbox) {
	if err := h.remove(s); err != nil {
		h.log.Error("removing an ended sandbox, will try again", "id", s.id, "err", err)
	}
}

// forget deletes the record of a sandbox that has nothing on the host any more, and drops
// the sandbox. A record that can't be deleted now is deleted by a sweep.
func (h *Host) forget(s *Sandbox) {
	s.saving.Lock()
	defer s.saving.Unlock()
	if s.deleted {
		return
	}
	s.deleted = true
	err := h.store.Delete(context.WithoutCancel(h.ctx), s.id)
	if err != nil {
		h.log.Error("deleting the record of a removed sandbox, will try again", "id", s.id, "err", err)
	}
	r := s.snapshot()

	h.mu.Lock()
	defer h.mu.Unlock()
	if err != nil {
		h.unwritten[s.id] = struct{}{}
	}
	delete(h.sandboxes, s.id)
	if at := (owned{s.owner, s.name}); h.names[at] == s {
		delete(h.names, at)
	}
	if at := (owned{s.owner, s.key}); h.keys[at] == s {
		delete(h.keys, at)
	}
	h.removed.bury(s, gone(r))
	h.leases.set(&s.lease, time.Time{})
	h.events.publish(cove.EventRemoved, r)
}
