package containerd

import (
	"context"
	"errors"
	"strconv"
	"time"

	tasks "github.com/containerd/containerd/api/services/tasks/v1"
	containerd "github.com/containerd/containerd/v2/client"
	"golang.org/x/sys/unix"

	"github.com/covehq/cove/guest/dial/carrier"
	"github.com/covehq/cove/runtime/internal/bundle"
)

// line returns the way to an agent behind a wall that no descriptor passes: over the streams
// of the first process, which may be nil. After a restart of the daemon, or when those broke,
// it goes over those of a process that connects to the agent inside.
func (d *Driver) line(id string, stdio *pipes) *carrier.Line {
	var first *carrier.Stream
	if stdio != nil {
		first = &carrier.Stream{Conn: stdio}
	}
	return carrier.NewLine(first, func(ctx context.Context) (*carrier.Stream, error) { return d.connect(ctx, id) })
}

// connect starts a process inside that connects its streams to the agent.
func (d *Driver) connect(ctx context.Context, id string) (*carrier.Stream, error) {
	if err := d.engine.ping(ctx); err != nil {
		return nil, err
	}
	// The engine still knows the names of those that an earlier daemon had.
	process := "connect-" + strconv.FormatInt(time.Now().UnixNano(), 36)
	conn, err := newPipes(d.bundle(id), process)
	if err != nil {
		return nil, err
	}
	if err := d.execTask(ctx, id, process, []string{bundle.AgentPath, "connect"}, conn); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return &carrier.Stream{Conn: conn, Forget: func() { d.forget(id, process) }, Said: conn.said.String}, nil
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
