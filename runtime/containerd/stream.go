package containerd

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	tasks "github.com/containerd/containerd/api/services/tasks/v1"
	containerd "github.com/containerd/containerd/v2/client"
	"golang.org/x/sys/unix"

	"github.com/covehq/cove"
	"github.com/covehq/cove/runtime/internal/bundle"
)

// streams are the way to an agent behind a wall that no descriptor passes: the streams of
// the first process, once, and then those of processes that connect to the agent inside.
type streams struct {
	driver *Driver
	id     string

	background sync.WaitGroup

	mu     sync.Mutex
	first  *pipes // not given to anybody yet
	made   int
	open   map[*stream]struct{}
	closed bool
}

// streams takes over stdio, which may be nil.
func (d *Driver) streams(id string, stdio *pipes) *streams {
	return &streams{driver: d, id: id, first: stdio, open: map[*stream]struct{}{}}
}

// stream is one connection.
type stream struct {
	*pipes
	name  string // of its process inside; "" for the first one
	owner *streams
	once  sync.Once
	err   error
}

// Dial implements link.
func (s *streams) Dial(ctx context.Context) (net.Conn, error) {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil, cove.Gone
	}
	if first := s.first; first != nil {
		s.first = nil
		c := s.addLocked(first, "")
		s.mu.Unlock()
		return c, nil
	}
	s.made++
	// After a restart of the daemon the engine still knows the names of earlier ones.
	name := fmt.Sprintf("connect-%d-%d", time.Now().UnixNano(), s.made)
	s.mu.Unlock()

	p, err := newPipes(s.driver.bundle(s.id), name)
	if err != nil {
		return nil, err
	}
	if err := s.driver.execTask(ctx, s.id, name, []string{bundle.AgentPath, "connect"}, p); err != nil {
		_ = p.Close()
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.addLocked(p, name)
	if s.closed {
		s.background.Go(func() { _ = c.Close() })
		return nil, cove.Gone
	}
	return c, nil
}

func (s *streams) addLocked(p *pipes, name string) *stream {
	c := &stream{pipes: p, name: name, owner: s}
	s.open[c] = struct{}{}
	return c
}

// Close closes the connection, upon which its process ends and the engine forgets it.
func (c *stream) Close() error {
	c.once.Do(func() {
		c.err = c.pipes.Close()
		c.owner.mu.Lock()
		delete(c.owner.open, c)
		if c.name != "" && !c.owner.closed { // with the sandbox they all go
			c.owner.background.Go(func() { c.owner.driver.forget(c.owner.id, c.name) })
		}
		c.owner.mu.Unlock()
	})
	return c.err
}

// Close implements link.
func (s *streams) Close() {
	s.mu.Lock()
	s.closed = true
	open := s.open
	s.open = map[*stream]struct{}{}
	if s.first != nil {
		_ = s.first.Close()
		s.first = nil
	}
	s.mu.Unlock()
	for c := range open {
		_ = c.Close()
	}
	s.background.Wait()
}

// forget ends a process that connected to the agent and deletes what the engine has of it.
func (d *Driver) forget(id, name string) {
	err := d.engine.call(context.Background(), func(ctx context.Context, client *containerd.Client) error {
		container := d.container(id)
		if _, err := client.TaskService().Kill(ctx, &tasks.KillRequest{ContainerID: container, ExecID: name, Signal: uint32(unix.SIGKILL)}); err == nil {
			if _, err := client.TaskService().Wait(ctx, &tasks.WaitRequest{ContainerID: container, ExecID: name}); err != nil {
				return err
			}
		}
		_, err := client.TaskService().DeleteProcess(ctx, &tasks.DeleteProcessRequest{ContainerID: container, ExecID: name})
		return err
	})
	if err != nil {
		d.log.Debug("a connecting process was not deleted", "id", id, "process", name, "error", err)
	}
}
