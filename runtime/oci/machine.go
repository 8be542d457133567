package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/covehq/cove"
	"github.com/covehq/cove/runtime/internal/agent"
	"github.com/covehq/cove/runtime/internal/process"
	"github.com/covehq/cove/sandbox/driver"
)

// machine is one running sandbox.
type machine struct {
	driver  *Driver
	id      string
	door    *agent.Door
	process *process.Process // its first process on the host: gVisor's kernel, or the agent
	oom     *os.File         // see cgroup.Tree.WatchOOM
	known   handle

	background sync.WaitGroup
	overLimit  atomic.Bool
	gone       chan struct{}
	exit       driver.Exit // set when gone is closed

	mu        sync.Mutex
	destroyed bool
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
	select {
	case <-m.gone:
		return nil, cove.Gone
	default:
		return m.door.Dial(ctx)
	}
}

// Wait implements driver.Machine.
func (m *machine) Wait(ctx context.Context) (driver.Exit, error) {
	select {
	case <-m.gone:
		return m.exit, nil
	case <-ctx.Done():
		return driver.Exit{}, ctx.Err()
	}
}

// watchProcess waits for the end and finds out why, before anything is cleared.
func (m *machine) watchProcess() {
	if err := m.process.Wait(); err != nil && !errors.Is(err, os.ErrClosed) {
		m.driver.log.Error("lost sight of a sandbox's process", "id", m.id, "error", err)
	}
	m.exit = m.reason()
	m.door.Close()
	if m.oom != nil {
		m.oom.Close() // ends watchMemory
	}
	close(m.gone)
}

func (m *machine) reason() driver.Exit {
	status, known := m.process.Status()
	signal, signaled := status.Signal(), known && status.Signaled()
	if code := status.ExitStatus(); known && m.driver.kind == kindGvisor && code > 128 {
		signal, signaled = unix.Signal(code-128), true // of its process, in the code of gVisor's own
	}
	switch {
	case m.overLimit.Load() || m.driver.cgroups.OOMKills(m.id) > 0:
		return driver.Exit{Reason: cove.ReasonOOM, Message: fmt.Sprintf("out of memory: it used more than its limit of %s", m.known.Memory)}
	case signaled:
		return driver.Exit{Reason: cove.ReasonKilled, Message: fmt.Sprintf("its first process was ended by %s", unix.SignalName(signal))}
	case known:
		return driver.Exit{Reason: cove.ReasonExited, Message: fmt.Sprintf("its first process ended with code %d", status.ExitStatus())}
	}
	return driver.Exit{Reason: cove.ReasonKilled, Message: "its first process was ended from outside"}
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
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.destroyed {
		return nil
	}
	m.door.Close()
	m.process.Kill()
	select {
	case <-m.gone:
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(5 * time.Second): // a process in uninterruptible sleep; the cgroup holds it
	}
	if err := m.driver.clear(ctx, m.id); err != nil {
		return err
	}
	m.release()
	m.destroyed = true
	return nil
}

// release ends the background work of a machine whose process is dead or given up.
func (m *machine) release() {
	m.process.Close() // ends watchProcess, should the process be stuck
	m.background.Wait()
	m.door.Close()
}
