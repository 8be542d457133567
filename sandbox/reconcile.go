package sandbox

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/guest/dial"
	"github.com/covehq/cove/sandbox/driver"
	"github.com/covehq/cove/store"
)

const (
	// attachTimeout bounds what finding one sandbox again may take.
	attachTimeout = 30 * time.Second
	// attachAtOnce is how many are looked for at the same time.
	attachAtOnce = 16
	// sweepTimeout bounds one driver's part in a sweep.
	sweepTimeout = time.Minute
)

// reconcile makes the host know what is in the store, and the store true.
func (h *Host) reconcile(ctx context.Context) error {
	records, err := h.store.List(ctx)
	if err != nil {
		return err
	}
	for _, r := range records {
		h.load(r)
	}
	slots := make(chan struct{}, attachAtOnce)
	var group sync.WaitGroup
	for _, s := range h.all() {
		slots <- struct{}{}
		group.Go(func() {
			h.recover(ctx, s)
			<-slots
		})
	}
	group.Wait()
	h.reclaimSecrets(ctx)
	return ctx.Err()
}

// load makes the sandbox of a record known, as far as the record tells.
func (h *Host) load(r store.Record) {
	r.ExpiresAt, r.EndedAt = anchor(r.ExpiresAt), anchor(r.EndedAt)
	if ttl := r.Spec.TTL; ttl != cove.Never && time.Until(r.ExpiresAt) > time.Duration(ttl) {
		r.ExpiresAt = deadline(ttl) // the wall clock was set back meanwhile
	}
	on, err := h.runtime(r.Spec.Runtime)
	if err != nil {
		h.log.Error("a sandbox has a runtime that is not part of this host", "id", r.ID, "runtime", r.Spec.Runtime, "err", err)
	} else {
		on = h.keep(on)
	}
	if r.State == cove.StateFailed && r.Reason == cove.ReasonCreate {
		r.IdempotencyKey = "" // a repetition may try anew
	}
	s := newSandbox(h, r, on)
	s.touched = !r.Ended() || r.Handle != nil
	close(s.ready)
	if r.Ended() {
		s.kill(gone(r))
	} else {
		h.living.Add(1)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.enlist(s) // the records come oldest first, so that a name is the latest one's
}

// anchor turns a stored time into one that the monotonic clock measures from now on.
func anchor(t time.Time) time.Time {
	if t.IsZero() {
		return t
	}
	now := time.Now().UTC()
	return now.Add(t.Sub(now.Round(0)))
}

// recover brings one sandbox that was loaded to where it belongs.
func (h *Host) recover(ctx context.Context, s *Sandbox) {
	switch r := s.snapshot(); {
	case r.State == cove.StateCreating:
		s.end(cove.StateFailed, cove.ReasonCreate, "the daemon ended while it was being made")
		h.retire(s)
	case !r.Ended():
		h.attach(ctx, s)
	default:
		h.settle(s)
	}
}

// attach finds a sandbox that ran under an earlier host. Where the driver can't tell, the
// sandbox stays as it is, for the next sweep.
func (h *Host) attach(ctx context.Context, s *Sandbox) {
	machine, err := s.find(ctx)
	if errors.Is(err, cove.NotFound) {
		if s.end(cove.StateFailed, cove.ReasonLost, "") {
			h.bury(s)
		}
		return
	}
	s.mu.Lock()
	if err != nil {
		s.absence = err
		s.scheduleLocked()
		s.mu.Unlock()
		h.log.Error("attaching a sandbox, will try again", "id", s.id, "err", err)
		return
	}
	if s.record.Ended() { // a lease passed, or somebody destroyed it
		s.mu.Unlock()
		h.settle(s)
		return
	}
	s.machine, s.client, s.absence = machine, dial.New(machine.Dial), nil
	client := s.client
	s.lastUse = time.Now()
	s.scheduleLocked()
	s.mu.Unlock()
	h.spawn(s.watch)
	s.reopenPorts(ctx)
	s.findRoute(ctx)

	// The first dial after a restart may be slow: take it before the first user does.
	bounded, cancel := context.WithTimeout(ctx, attachTimeout)
	defer cancel()
	if err := errors.Join(client.Health(bounded), s.openRoute(bounded, client)); err != nil {
		h.log.Warn("the guest of an attached sandbox does not answer", "id", s.id, "err", err)
		return
	}
	h.log.Info("sandbox attached", "id", s.id, "name", s.name)
}

func (s *Sandbox) find(ctx context.Context) (driver.Machine, error) {
	r := s.snapshot()
	if s.runtime == nil {
		return nil, fmt.Errorf("runtime %s is not part of this host", r.Spec.Runtime)
	}
	ctx, cancel := context.WithTimeout(ctx, attachTimeout)
	defer cancel()
	return s.runtime.driver.Attach(ctx, s.id, r.Handle)
}

// settle finishes what is left to do for a sandbox that has ended.
func (h *Host) settle(s *Sandbox) {
	r := s.snapshot()
	if r.Reason == cove.ReasonRemoved || r.Reason == cove.ReasonCreate || time.Since(r.EndedAt) >= h.retain {
		h.retire(s)
		return
	}
	s.mu.Lock()
	s.scheduleLocked()
	pending := s.touched || s.unsaved
	s.mu.Unlock()
	if pending {
		h.bury(s)
	}
}

// sweepUntilClosed sweeps at once and then again and again.
func (h *Host) sweepUntilClosed() {
	ticker := time.NewTicker(h.sweepTime)
	defer ticker.Stop()
	for {
		h.sweep(h.ctx)
		select {
		case <-ticker.C:
		case <-h.ctx.Done():
			return
		}
	}
}

// sweep tries again what has failed, and removes what the drivers find that no record
// owns.
func (h *Host) sweep(ctx context.Context) {
	for _, s := range h.all() {
		if ctx.Err() != nil {
			return
		}
		s.mu.Lock()
		ended, absent := s.record.Ended(), s.absence != nil
		s.mu.Unlock()
		switch {
		case !isClosed(s.ready): // its create sees to it
		case ended:
			h.settle(s)
		case absent:
			h.attach(ctx, s)
		default:
			s.reopenPorts(ctx)
		}
	}
	h.deleteUnwritten(ctx)

	h.mu.Lock()
	var runtimes []*runtime
	for _, r := range h.runtimes {
		runtimes = append(runtimes, r)
	}
	h.mu.Unlock()
	var group sync.WaitGroup
	for _, r := range runtimes {
		group.Go(func() { h.sweepRuntime(ctx, r) })
	}
	group.Wait()
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// deleteUnwritten deletes the records that a full disk, say, has kept from being deleted.
func (h *Host) deleteUnwritten(ctx context.Context) {
	h.mu.Lock()
	var ids []string
	for id := range h.unwritten {
		ids = append(ids, id)
	}
	h.mu.Unlock()
	for _, id := range ids {
		if err := h.store.Delete(ctx, id); err != nil {
			h.log.Error("deleting the record of a removed sandbox, will try again", "id", id, "err", err)
			return
		}
		h.mu.Lock()
		delete(h.unwritten, id)
		h.mu.Unlock()
	}
}

// sweepRuntime removes what one driver finds that is not of a sandbox known here. A
// sandbox is known before its driver makes anything, and for as long as anything is left,
// so what is unknown after it was listed is nobody's.
func (h *Host) sweepRuntime(ctx context.Context, r *runtime) {
	lister, ok := r.driver.(driver.Lister)
	if !ok {
		return
	}
	if _, err := r.probe(ctx, always); err != nil {
		return // the create that needs it hears why
	}
	ctx, cancel := context.WithTimeout(ctx, sweepTimeout)
	defer cancel()
	ids, err := lister.List(ctx)
	if err != nil {
		h.log.Error("listing what a runtime has on this host", "runtime", r.name, "err", err)
		return
	}
	for _, id := range ids {
		h.mu.Lock()
		known := h.sandboxes[id] != nil
		h.mu.Unlock()
		if known || ctx.Err() != nil {
			continue
		}
		if err := lister.Remove(ctx, id); err != nil {
			h.log.Error("removing what no sandbox owns, will try again", "runtime", r.name, "id", id, "err", err)
		} else {
			h.log.Info("removed what no sandbox owned", "runtime", r.name, "id", id)
		}
	}
}
