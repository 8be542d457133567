package sandbox

import (
	"container/heap"
	"context"
	"sync"
	"time"

	"github.com/covehq/cove"
)

// leases knows for each sandbox when to look at it next: because it may have expired or
// been idle for too long, or because it has ended long enough ago to be forgotten. The
// deadlines are instants of the monotonic clock, so that a jump of the wall clock ends
// nothing; the wall clock counts once, when a record is read after a restart.
type leases struct {
	wake chan struct{} // has room for one: the earliest deadline changed

	mu    sync.Mutex
	queue leaseQueue
}

// lease is a sandbox's place in the queue. It is guarded by leases.mu.
type lease struct {
	due   time.Time
	index int // in the queue, counted from 1; 0: not in it
	owner *Sandbox
}

func newLeases() *leases {
	return &leases{wake: make(chan struct{}, 1)}
}

// set makes due the next time to look at the lease's owner; the zero time means never.
func (l *leases) set(next *lease, due time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case due.IsZero() && next.index > 0:
		heap.Remove(&l.queue, next.index-1)
	case due.IsZero():
	case next.index > 0:
		next.due = due
		heap.Fix(&l.queue, next.index-1)
	default:
		next.due = due
		heap.Push(&l.queue, next)
	}
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// pop takes a sandbox that is due. Without one it says how long there won't be any, as
// far as is known.
func (l *leases) pop() (due *Sandbox, wait time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.queue) == 0 {
		return nil, time.Hour
	}
	if wait := time.Until(l.queue[0].due); wait > 0 {
		return nil, wait
	}
	return heap.Pop(&l.queue).(*lease).owner, 0
}

// run calls look for every sandbox whose time has come, until ctx ends. look sets the
// next time.
func (l *leases) run(ctx context.Context, look func(*Sandbox)) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.wake:
		case <-timer.C:
		}
		for ctx.Err() == nil {
			due, wait := l.pop()
			if due == nil {
				timer.Reset(wait)
				break
			}
			look(due)
		}
	}
}

// leaseQueue is a heap with the earliest lease first.
type leaseQueue []*lease

func (q leaseQueue) Len() int           { return len(q) }
func (q leaseQueue) Less(i, j int) bool { return q[i].due.Before(q[j].due) }

func (q leaseQueue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].index, q[j].index = i+1, j+1
}

// Push implements heap.Interface.
func (q *leaseQueue) Push(x any) {
	next := x.(*lease)
	*q = append(*q, next)
	next.index = len(*q)
}

// Pop implements heap.Interface.
func (q *leaseQueue) Pop() any {
	last := (*q)[len(*q)-1]
	(*q)[len(*q)-1] = nil
	*q = (*q)[:len(*q)-1]
	last.index = 0
	return last
}

// lookAt does what a sandbox's leases ask for, and sets the next time to look.
func (h *Host) lookAt(s *Sandbox) {
	due, reason := s.due()
	if due.IsZero() {
		return
	}
	if time.Until(due) > 0 {
		h.leases.set(&s.lease, due)
		return
	}
	if reason == "" {
		h.spawn(func() { h.retire(s) })
	} else if s.end(cove.StateStopped, reason, "") {
		h.spawn(func() { h.bury(s) })
	}
}

// due returns the next time at which a lease of the sandbox passes, and the reason for
// which that ends it. For a sandbox that has ended it is the time to forget it, without
// a reason. The zero time means never.
func (s *Sandbox) due() (time.Time, cove.Reason) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dueLocked()
}

func (s *Sandbox) dueLocked() (time.Time, cove.Reason) {
	switch r := s.record; {
	case r.Ended():
		return r.EndedAt.Add(s.host.retain), ""
	case r.State == cove.StateCreating:
		return time.Time{}, ""
	default:
		due, reason := r.ExpiresAt, cove.ReasonExpired
		if r.Spec.Idle == cove.Never {
			return due, reason
		}
		used := s.lastUse
		if s.uses > 0 {
			used = time.Now()
		}
		if idle := used.Add(time.Duration(r.Spec.Idle)); due.IsZero() || idle.Before(due) {
			return idle, cove.ReasonIdle
		}
		return due, reason
	}
}
