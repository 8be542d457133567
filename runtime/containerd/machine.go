package containerd

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"

	"github.com/covehq/cove"
	"github.com/covehq/cove/runtime/internal/bundle"
	"github.com/covehq/cove/runtime/internal/life"
	"github.com/covehq/cove/runtime/internal/process"
	"github.com/covehq/cove/sandbox/driver"
)

// machine is one running sandbox. On the host's kernel and on gVisor's it is watched by its
// first process on the host, so that it needs no engine once it runs.
type machine struct {
	*life.End
	driver *Driver
	id     string
	first  *process.Process // nil where the engine alone knows
	oom    *os.File         // see cgroup.Tree.WatchOOM
	known  handle

	background sync.WaitGroup
	stop       context.CancelFunc // ends watchTask
	overLimit  atomic.Bool

	linkMu sync.Mutex
	link   link // nil: not yet, or no more

	destroyed life.Once
}

// handle is what finds the sandbox after a restart of the daemon.
type handle struct {
	Version int        `json:"v"`
	PID     int        `json:"pid"`
	Started uint64     `json:"started"`
	Boot    string     `json:"boot"`
	Memory  cove.Bytes `json:"memory"`
}

const handleVersion = 1

// machine makes the handle on a sandbox whose first process is there, and watches it.
func (d *Driver) machine(id string, known handle) (*machine, error) {
	ctx, stop := context.WithCancel(context.Background())
	m := &machine{driver: d, id: id, known: known, stop: stop, End: life.NewEnd()}
	if !d.watchable(id, known.PID) {
		m.background.Go(func() { m.watchTask(ctx) })
		return m, nil
	}
	first, err := process.Open(known.PID, known.Started)
	if err != nil {
		stop()
		return nil, fmt.Errorf("the sandbox ended at its start: %w", err)
	}
	// The process is held now, so that this is asked of no other one. What is not the
	// sandbox's is never to be killed for it.
	if !d.inGroup(id, known.PID) && first.Alive() {
		first.Close()
		stop()
		return nil, d.unavailable("containerd tells of processes that are not those of this machine",
			"run cove where containerd runs: on the same machine, in the same PID namespace")
	}
	m.first, m.known.Started = first, first.Started
	if d.variant.kernel == bundle.SharedKernel { // gVisor's dies whole, and the counter tells
		if m.oom, err = d.cgroups.WatchOOM(id); err != nil {
			first.Close()
			stop()
			return nil, fmt.Errorf("memory watch: %w", err)
		}
	}
	m.background.Go(m.watchProcess)
	if m.oom != nil {
		m.background.Go(m.watchMemory)
	}
	return m, nil
}

// watchable reports whether the first process that the engine tells is the sandbox's own, so
// that its end is the sandbox's. Of an unknown shim it may be anything.
func (d *Driver) watchable(id string, pid int) bool {
	switch {
	case d.variant.reach != byStdio:
		return true
	case d.variant.kernel == bundle.GuestKernel:
		return false
	}
	return d.inGroup(id, pid)
}

// inGroup reports whether a process is in the sandbox's cgroup.
func (d *Driver) inGroup(id string, pid int) bool {
	groups, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	return err == nil && strings.Contains(string(groups), d.cgroups.Path(id)+"\n")
}

// Handle implements driver.Machine.
func (m *machine) Handle() []byte {
	data, _ := json.Marshal(m.known) // plain fields can't fail
	return data
}

// Dial implements driver.Machine.
func (m *machine) Dial(ctx context.Context) (net.Conn, error) {
	m.linkMu.Lock()
	link := m.link
	m.linkMu.Unlock()
	if link == nil {
		return nil, cove.Gone
	}
	conn, err := link.Dial(ctx)
	if err != nil && m.Over() { // the link broke with the sandbox
		return nil, cove.Gone
	}
	return conn, err
}

// connect gives the machine its way to the agent.
func (m *machine) connect(ctx context.Context, stdio *pipes) error {
	link, err := m.driver.link(ctx, m, stdio)
	if err != nil {
		return err
	}
	m.linkMu.Lock()
	defer m.linkMu.Unlock()
	if m.Over() {
		link.Close()
	} else {
		m.link = link
	}
	return nil
}

// disconnect ends what goes over the way to the agent, and makes every later Dial fail.
func (m *machine) disconnect() {
	m.linkMu.Lock()
	defer m.linkMu.Unlock()
	if m.link != nil {
		m.link.Close()
		m.link = nil
	}
}

// watchProcess waits for the end and finds out why, before anything is cleared.
func (m *machine) watchProcess() {
	life.Outlive(m.first, m.driver.log, m.id)
	status, err := m.driver.waitTask(context.Background(), m.id, statusTimeout)
	m.end(m.reason(status, err == nil))
}

// statusTimeout bounds the question how a sandbox ended: its end is to be known within 2 s,
// also where the engine is stopped.
const statusTimeout = 1500 * time.Millisecond

// watchTask waits for the end as the engine tells it, through all of its restarts.
func (m *machine) watchTask(ctx context.Context) {
	const longest = time.Hour // of one call; an engine that hangs costs nothing meanwhile
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		asked := time.Now()
		status, err := m.driver.waitTask(ctx, m.id, longest)
		if err == nil || errdefs.IsNotFound(err) || ctx.Err() != nil {
			m.end(m.reason(status, err == nil))
			return
		}
		if time.Since(asked) > time.Minute {
			pause = 50 * time.Millisecond
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// end makes the end known. It is called once, by the watch.
func (m *machine) end(exit driver.Exit) {
	if m.oom != nil {
		m.oom.Close() // ends watchMemory
	}
	m.Come(exit)
	m.disconnect()
}

func (m *machine) reason(status uint32, known bool) driver.Exit {
	switch {
	case m.overLimit.Load() || m.driver.cgroups.OOMKills(m.id) > 0:
		return life.OutOfMemory(m.known.Memory)
	case known:
		return life.ByCode(int(status))
	}
	return life.FromOutside()
}

// watchMemory ends the sandbox when it breaches its memory limit, so that a breach means
// the same on every runtime and is never half a sandbox.
func (m *machine) watchMemory() {
	if m.driver.cgroups.Breached(m.id, m.oom) {
		m.overLimit.Store(true)
		m.first.Kill()
	}
}

// Destroy implements driver.Machine.
func (m *machine) Destroy(ctx context.Context) error {
	return m.destroyed.Do(func() error {
		m.disconnect()
		if m.first != nil { // also without the engine
			if err := life.Kill(ctx, m.first, m.End); err != nil { // what is stuck, the cgroup holds
				return err
			}
		}
		if err := m.driver.clear(ctx, m.id); err != nil {
			return err
		}
		m.release()
		return nil
	})
}

// release ends the background work of a machine that is dead or given up.
func (m *machine) release() {
	m.stop()
	if m.first != nil {
		m.first.Close() // ends watchProcess, should the process be stuck
	}
	m.background.Wait()
	m.disconnect()
}
