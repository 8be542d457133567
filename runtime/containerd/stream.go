package containerd

import (
	"context"
	"errors"
	"net"
	"strconv"
	"sync"
	"time"

	tasks "github.com/containerd/containerd/api/services/tasks/v1"
	containerd "github.com/containerd/containerd/v2/client"
	"golang.org/x/sys/unix"

	"github.com/covehq/cove"
	"github.com/covehq/cove/guest/dial/carrier"
	"github.com/covehq/cove/runtime/internal/bundle"
)

// streams are the way to an agent behind a wall that no descriptor passes: a carrier over
// the streams of the first process. After a restart of the daemon, or when that broke, it
// goes over those of a process that connects to the agent inside.
type streams struct {
	driver *Driver
	id     string

	mu      sync.Mutex
	stdio   *pipes // of the first process, not carrying yet
	current *carrier.Carrier
	process string // inside, that current goes by; "": the first
	closed  bool
	failure error // of the last attempt to connect, at failed
	failed  time.Time
}

// streams takes over stdio, which may be nil.
func (d *Driver) streams(id string, stdio *pipes) *streams {
	return &streams{driver: d, id: id, stdio: stdio}
}

// Dial implements link.
func (s *streams) Dial(ctx context.Context) (net.Conn, error) {
	c, err := s.carrier(ctx)
	if err != nil {
		return nil, err
	}
	conn, err := c.Dial(ctx)
	if err == nil || ctx.Err() != nil || c.Err() == nil {
		return conn, err
	}
	if c, err = s.carrier(ctx); err != nil { // once more, over a new one
		return nil, err
	}
	return c.Dial(ctx)
}

// carrier returns one that works, as far as is known.
func (s *streams) carrier(ctx context.Context) (*carrier.Carrier, error) {
	began := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, cove.Gone
	}
	if s.failed.After(began) { // while this caller waited: an engine that hangs is asked once for all
		return nil, s.failure
	}
	if s.current != nil && s.current.Err() == nil {
		return s.current, nil
	}
	if s.current != nil {
		s.dropLocked()
	}
	conn, process := s.stdio, ""
	if s.stdio = nil; conn == nil {
		// The engine still knows the names of those that an earlier daemon had.
		process = "connect-" + strconv.FormatInt(time.Now().UnixNano(), 36)
		var err error
		if conn, err = s.connect(ctx, process); err != nil {
			if errors.Is(err, cove.Unavailable) {
				s.failure, s.failed = err, time.Now()
			}
			return nil, err
		}
	}
	c, err := carrier.New(ctx, conn)
	if err != nil {
		return nil, withComplaint(err, conn)
	}
	s.current, s.process = c, process
	return c, nil
}

// connect starts a process inside that connects its streams to the agent.
func (s *streams) connect(ctx context.Context, process string) (*pipes, error) {
	if err := s.driver.engine.ping(ctx); err != nil {
		return nil, err
	}
	conn, err := newPipes(s.driver.bundle(s.id), process)
	if err != nil {
		return nil, err
	}
	if err := s.driver.execTask(ctx, s.id, process, []string{bundle.AgentPath, "connect"}, conn); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

// dropLocked gives up the current carrier, and the process that it went by.
func (s *streams) dropLocked() {
	_ = s.current.Close()
	if s.process != "" && !s.closed { // with the sandbox it goes anyway
		s.driver.forget(s.id, s.process)
	}
	s.current, s.process = nil, ""
}

// Close implements link.
func (s *streams) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.current != nil {
		s.dropLocked()
	}
	if s.stdio != nil {
		_ = s.stdio.Close()
		s.stdio = nil
	}
}

// forget ends a process that connected to the agent and deletes what the engine has of it.
func (d *Driver) forget(id, name string) {
	err := d.engine.callWithin(context.Background(), pingTimeout, func(ctx context.Context, client *containerd.Client) error {
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
