package oci

import (
	"context"
	"encoding/json"
	"net"
	"os"
	"sync"
	"sync/atomic"

	"github.com/covehq/cove"
	"github.com/covehq/cove/runtime/internal/agent"
	"github.com/covehq/cove/runtime/internal/life"
	"github.com/covehq/cove/runtime/internal/process"
	"github.com/covehq/cove/sandbox/driver"
)

// machine is one running sandbox.
type machine struct {
	*life.End
	driver  *Driver
	id      string
	door    *agent.Door
	process *process.Process // its first process on the host: gVisor's kernel, or the agent
	oom     *os.File         // see cgroup.Tree.WatchOOM
	known   handle

	background sync.WaitGroup
	overLimit  atomic.Bool
	destroyed  life.Once
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

// Handle implements driver.Machine.
func (m *machine) Handle() []byte {
	data, _ := json.Marshal(m.known) // plain fields can't fail
	return data
}

// Dial implements driver.Machine.
func (m *machine) Dial(ctx context.Context) (net.Conn, error) {
	if m.Over() {
		return nil, cove.Gone
	}
	return m.door.Dial(ctx)
}

// watchProcess waits for the end and finds out why, before anything is cleared.
func (m *machine) watchProcess() {
	life.Outlive(m.process, m.driver.log, m.id)
	why := m.reason()
	m.door.Close()
	if m.oom != nil {
		m.oom.Close() // ends watchMemory
	}
	m.Come(why)
}

func (m *machine) reason() driver.Exit {
	status, known := m.process.Status()
	switch {
	case m.overLimit.Load() || m.driver.cgroups.OOMKills(m.id) > 0:
		return life.OutOfMemory(m.known.Memory)
	case !known:
		return life.FromOutside()
	case status.Signaled():
		return life.Signalled(status.Signal())
	case m.driver.kind == kindGvisor:
		return life.ByCode(status.ExitStatus()) // of its first process, in the code of gVisor's own
	}
	return life.Exited(status.ExitStatus())
}

// watchMemory ends the sandbox when it breaches its memory limit, so that a breach means
// the same on every runtime and is never half a sandbox.
func (m *machine) watchMemory() {
	if m.driver.cgroups.Breached(m.id, m.oom) {
		m.overLimit.Store(true)
		m.process.Kill()
	}
}

// Destroy implements driver.Machine.
func (m *machine) Destroy(ctx context.Context) error {
	return m.destroyed.Do(func() error {
		m.door.Close()
		if err := life.Kill(ctx, m.process, m.End); err != nil { // what is stuck, the cgroup holds
			return err
		}
		if err := m.driver.clear(ctx, m.id); err != nil {
			return err
		}
		m.release()
		return nil
	})
}

// release ends the background work of a machine whose process is dead or given up.
func (m *machine) release() {
	m.process.Close() // ends watchProcess, should the process be stuck
	m.background.Wait()
	m.door.Close()
}
