package docker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/moby/moby/api/types/container"

	"github.com/covehq/cove"
	"github.com/covehq/cove/runtime/internal/bundle"
	"github.com/covehq/cove/runtime/internal/cgroup"
	"github.com/covehq/cove/runtime/internal/life"
	"github.com/covehq/cove/runtime/internal/process"
	"github.com/covehq/cove/sandbox/driver"
)

// machine is one running sandbox. One on this machine is watched by its first process, so
// that its end is seen also while the engine is away.
type machine struct {
	*life.End
	driver *Driver
	id     string
	facts  *facts
	link   link
	first  *process.Process // nil where the engine alone knows
	groups cgroup.Tree
	group  string   // of the sandbox, in groups
	oom    *os.File // see cgroup.Tree.WatchOOM
	known  handle

	background sync.WaitGroup
	stop       context.CancelFunc // ends the watches that ask the engine
	breach     atomic.Pointer[driver.Exit]
	destroyed  life.Once
}

var (
	_ driver.Machine = (*machine)(nil)
	_ driver.Statter = (*machine)(nil)
)

// handle is what finds the sandbox after a restart of the daemon.
type handle struct {
	Version   int        `json:"v"`
	Container string     `json:"container"`
	PID       int        `json:"pid,omitempty"`
	Started   uint64     `json:"started,omitempty"`
	Boot      string     `json:"boot"`
	Direct    bool       `json:"direct,omitempty"` // reached past the engine: see linkOf
	Memory    cove.Bytes `json:"memory"`
	Disk      cove.Bytes `json:"disk"`
}

const handleVersion = 1

// machine makes the handle on a container that runs, and watches it. The link is the
// caller's to set.
func (d *Driver) machine(id string, known handle, f *facts) (*machine, error) {
	ctx, stop := context.WithCancel(context.Background())
	m := &machine{driver: d, id: id, facts: f, known: known, stop: stop, End: life.NewEnd()}
	if f.near {
		if err := m.hold(); err != nil {
			stop()
			return nil, err
		}
		m.background.Go(m.watchProcess)
		if m.oom != nil {
			m.background.Go(m.watchMemory)
		}
	} else {
		m.background.Go(func() { m.watchContainer(ctx) })
		if f.kernel == bundle.SharedKernel {
			m.background.Go(func() { m.watchEvents(ctx) })
		}
	}
	if !f.givesDisk() && !f.quota {
		m.background.Go(func() { m.watchDisk(ctx) })
	}
	return m, nil
}

// hold takes hold of the first process and of its cgroups.
func (m *machine) hold() error {
	first, err := process.Open(m.known.PID, m.known.Started)
	if err != nil {
		return fmt.Errorf("the sandbox ended at its start: %w", err)
	}
	m.first, m.known.Started = first, first.Started
	group, err := memoryGroup(m.known.PID)
	if err == nil && !strings.Contains(group, m.known.Container) {
		err = errors.New("the engine named a process that is not the sandbox's")
	}
	if err == nil {
		m.groups, m.group = cgroup.Find(strings.Trim(path.Dir(group), "/")), path.Base(group)
		err = m.boundMemory()
	}
	if err != nil {
		first.Close()
	}
	return err
}

// boundMemory makes a breach of the memory limit end the sandbox as a whole. gVisor's
// kernel dies whole by itself.
func (m *machine) boundMemory() (err error) {
	if m.facts.kernel != bundle.SharedKernel {
		return nil
	}
	if m.groups.Unified {
		file := filepath.Join(m.groups.MountOf("memory"), m.groups.Prefix, m.group, "memory.oom.group")
		return os.WriteFile(file, []byte("1"), 0)
	}
	m.oom, err = m.groups.WatchOOM(m.group)
	return err
}

// memoryGroup returns the cgroup of a process in the hierarchy that has the memory
// controller, cgroups(7).
func memoryGroup(pid int) (string, error) {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return "", err
	}
	unified := ""
	for line := range strings.Lines(string(content)) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) != 3 {
			continue
		}
		if strings.Contains(","+fields[1]+",", ",memory,") {
			return path.Clean("/" + fields[2]), nil
		}
		if fields[1] == "" {
			unified = path.Clean("/" + fields[2])
		}
	}
	if unified == "" {
		return "", errors.New("the sandbox has no cgroup")
	}
	return unified, nil
}

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
	conn, err := m.link.Dial(ctx)
	if err != nil && m.Over() { // the link broke with the sandbox
		return nil, cove.Gone
	}
	return conn, err
}

// end makes the end known. It is called once, by the watch.
func (m *machine) end(exit driver.Exit) {
	if m.oom != nil {
		m.oom.Close() // ends watchMemory
	}
	m.Come(exit)
}

// reason says why a sandbox ended of which the engine knows state, or nil.
func (m *machine) reason(state *container.State) driver.Exit {
	if breach := m.breach.Load(); breach != nil {
		return *breach
	}
	if state != nil && state.OOMKilled || m.group != "" && m.groups.OOMKills(m.group) > 0 {
		return life.OutOfMemory(m.known.Memory)
	}
	if state == nil {
		return life.FromOutside()
	}
	return life.ByCode(state.ExitCode)
}

// Destroy implements driver.Machine.
func (m *machine) Destroy(ctx context.Context) error {
	return m.destroyed.Do(func() error {
		m.link.Close()
		if m.first != nil { // also without the engine
			if err := life.Kill(ctx, m.first, m.End); err != nil {
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
	if m.link != nil {
		m.link.Close()
	}
}
