package process

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/covehq/cove"
)

// What is retained of processes that have ended, beside the limits on their output.
const (
	maxEnded = 256
	maxAge   = time.Hour
	// maxRunning bounds the processes started through us that run at one time.
	maxRunning = 4096
	// parallelStarts bounds the threads that fork at one time.
	parallelStarts = 4
)

// Table is the processes that were started through it: those that run, and those that have
// ended lately.
type Table struct {
	reaper      *Reaper
	budget      *budget
	forest      *forest
	noSetGroups bool
	ambient     atomic.Pointer[[]uintptr] // capabilities of commands of others than root
	dropped     atomic.Pointer[[]uintptr] // capabilities that root's commands don't have
	limits      atomic.Pointer[[]cove.Ulimit]
	null        func() (*os.File, error) // what commands without input read
	starting    chan struct{}            // has a place for each that starts at one time
	running     sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	live    int        // how many run
	all     []*Process // in order of their start
	endings []ending   // in order of time
	expiry  *time.Timer
}

type ending struct {
	process *Process
	at      time.Time
}

// NewTable returns an empty Table whose children r collects. memory is how many bytes of
// output all processes together may retain; what ended first is forgotten first.
func NewTable(r *Reaper, memory int) *Table {
	t := &Table{
		null:        sync.OnceValues(func() (*os.File, error) { return os.Open(os.DevNull) }),
		reaper:      r,
		budget:      &budget{max: max(memory, guaranteed)},
		forest:      newForest(r.orphans),
		noSetGroups: setGroupsDenied(),
		starting:    make(chan struct{}, parallelStarts),
	}
	t.expiry = time.AfterFunc(maxAge, t.expire)
	t.expiry.Stop()
	return t
}

// Start starts a command, and returns it with a reader that sees all of its output and is
// the caller's to close. On error nothing was started.
func (t *Table) Start(c Command) (*Process, *Reader, error) {
	if err := t.admit(); err != nil {
		return nil, nil, err
	}
	marker := rand.Text()
	c.Env = append([]string{markerVariable + "=" + marker}, c.Env...)
	o := newOutput(t.budget)
	p := &Process{
		Command: c, Started: time.Now(), output: o,
		exited: make(chan struct{}), done: make(chan struct{}),
	}
	p.tree = t.forest.grow(marker, ticks())
	t.starting <- struct{}{}
	child, ends, err := t.spawn(&c)
	<-t.starting
	if err != nil {
		t.forest.ended(p.tree)
		t.forest.fell(p.tree)
		t.leave()
		return nil, nil, err
	}
	p.PID, p.child, p.input = child.pid, child, newInput(ends.stdin, c.Terminal != nil)
	p.tree.root(child)
	reader := o.attach([streams]*uint64{new(uint64), new(uint64)}, true)
	var pumps []*pump
	for i, source := range ends.output {
		if source != nil {
			pumps = append(pumps, newPump(source, o, i))
		}
	}
	t.list(p)
	for _, pump := range pumps {
		t.running.Go(pump.run)
	}
	go func() {
		defer t.leave()
		p.watch(pumps)
		t.retain(p)
		t.budget.giveBack()
	}()
	return p, reader, nil
}

// admit counts one more process, whose running.Done is due.
func (t *Table) admit() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return cove.Errorf(cove.Unavailable, "start", "", "the agent is stopping", "create a new sandbox")
	}
	if t.live >= maxRunning {
		return cove.Errorf(cove.Exhausted, "start", "", fmt.Sprintf("%d processes are running", maxRunning), "end some of them")
	}
	t.live++
	t.running.Add(1)
	return nil
}

// leave undoes admit.
func (t *Table) leave() {
	t.mu.Lock()
	t.live--
	t.mu.Unlock()
	t.running.Done()
}

// list adds a process. An ended one with the same pid gives way.
func (t *Table) list(p *Process) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, other := range t.all {
		if other.PID != p.PID {
			continue
		}
		if slices.ContainsFunc(t.endings, func(e ending) bool { return e.process == other }) {
			t.remove(other)
		} else { // its output is still being read
			t.all = slices.DeleteFunc(t.all, func(listed *Process) bool { return listed == other })
		}
		break
	}
	t.all = append(t.all, p)
}

// retain keeps an ended process for a while.
func (t *Table) retain(p *Process) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !slices.Contains(t.all, p) { // its pid has gone to another meanwhile
		t.forest.fell(p.tree)
		return
	}
	t.endings = append(t.endings, ending{p, time.Now()})
	t.budget.retire(p.output)
	if len(t.endings) > maxEnded {
		t.remove(t.endings[0].process)
	}
	if len(t.endings) == 1 && !t.closed {
		t.expiry.Reset(maxAge)
	}
}

// expire removes the processes that ended too long ago.
func (t *Table) expire() {
	defer t.budget.giveBack()
	t.mu.Lock()
	defer t.mu.Unlock()
	for len(t.endings) > 0 && time.Since(t.endings[0].at) >= maxAge {
		t.remove(t.endings[0].process)
	}
	if len(t.endings) > 0 && !t.closed {
		t.expiry.Reset(time.Until(t.endings[0].at.Add(maxAge)))
	}
}

// remove forgets an ended process. Holding t.mu.
func (t *Table) remove(p *Process) {
	t.all = slices.DeleteFunc(t.all, func(other *Process) bool { return other == p })
	t.endings = slices.DeleteFunc(t.endings, func(e ending) bool { return e.process == p })
	t.budget.drop(p.output)
	t.forest.fell(p.tree)
}

// SetMemory changes how many bytes of output all processes together may retain.
func (t *Table) SetMemory(memory int) {
	t.budget.mu.Lock()
	defer t.budget.mu.Unlock()
	t.budget.max = max(memory, guaranteed)
}

// ByPID finds a process.
func (t *Table) ByPID(pid int) (*Process, error) {
	return t.find(fmt.Sprintf("process %d", pid), func(p *Process) bool { return p.PID == pid })
}

// ByTag finds the latest process with a tag.
func (t *Table) ByTag(tag string) (*Process, error) {
	return t.find(fmt.Sprintf("process with tag %q", tag), func(p *Process) bool { return p.Command.Tag == tag })
}

func (t *Table) find(what string, is func(*Process) bool) (*Process, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range slices.Backward(t.all) {
		if is(p) {
			return p, nil
		}
	}
	return nil, cove.Errorf(cove.NotFound, "find", "", "there is no "+what, "list the processes to see which there are")
}

// List returns all processes, in the order of their start.
func (t *Table) List() []*Process {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.all)
}

// Close kills every process with its tree and waits until they are gone or ctx ends. No
// more can be started.
func (t *Table) Close(ctx context.Context) error {
	t.mu.Lock()
	t.closed = true
	t.expiry.Stop()
	all := slices.Clone(t.all)
	t.mu.Unlock()
	var killing sync.WaitGroup
	for _, p := range all {
		killing.Go(func() { _, _ = p.KillTree() })
	}
	gone := make(chan struct{})
	go func() {
		killing.Wait()
		t.running.Wait()
		t.reaper.close()
		if null, err := t.null(); err == nil {
			_ = null.Close()
		}
		close(gone)
	}()
	select {
	case <-gone:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
