package containerd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	tasks "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/api/types/runc/options"
	tasktypes "github.com/containerd/containerd/api/types/task"
	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/typeurl/v2"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/covehq/cove"
	"github.com/covehq/cove/runtime/internal/bundle"
)

// record returns what containerd is to know of a sandbox.
func (d *Driver) record(id string, config *specs.Spec) (containers.Container, error) {
	spec, err := typeurl.MarshalAny(config)
	if err != nil {
		return containers.Container{}, err
	}
	record := containers.Container{
		ID: d.container(id), Labels: d.labelsOf(id), Spec: spec,
		Runtime: containers.RuntimeInfo{Name: d.variant.shim},
	}
	if options := d.shimOptions(id); options != nil {
		if record.Runtime.Options, err = typeurl.MarshalAny(options); err != nil {
			return containers.Container{}, err
		}
	}
	return record, nil
}

// shimOptions returns what the shim is told beside the configuration; nil: nothing.
func (d *Driver) shimOptions(id string) *options.Options {
	if d.variant.kernel != bundle.GvisorKernel {
		return nil
	}
	return &options.Options{BinaryName: d.wrapper(id), Root: d.runscRoot()}
}

// createTask makes the sandbox's container and its first process, which does not run yet,
// and returns that process's id.
func (d *Driver) createTask(ctx context.Context, id string, config *specs.Spec, rootfs []*types.Mount, pipes *pipes) (int, error) {
	record, err := d.record(id, config)
	if err != nil {
		return 0, err
	}
	pid := 0
	// The engine goes on with what it was told last when the one who told it hangs up. So it
	// is waited for, and what it made removed after.
	err = d.engine.call(context.WithoutCancel(ctx), func(ctx context.Context, client *containerd.Client) error {
		if _, err := client.ContainerService().Create(ctx, record); err != nil {
			return fmt.Errorf("container: %w", err)
		}
		request := &tasks.CreateTaskRequest{ContainerID: record.ID, Rootfs: rootfs}
		if record.Runtime.Options != nil {
			request.Options = &anypb.Any{TypeUrl: record.Runtime.Options.GetTypeUrl(), Value: record.Runtime.Options.GetValue()}
		}
		if pipes != nil {
			request.Stdin, request.Stdout, request.Stderr = pipes.stdinPath, pipes.stdoutPath, pipes.stderrPath
		}
		response, err := client.TaskService().Create(ctx, request)
		pid = int(response.GetPid())
		return err
	})
	if err == nil && ctx.Err() != nil {
		err = ctx.Err()
	}
	if err == nil && pid < 2 {
		err = fmt.Errorf("containerd says that the sandbox's process is %d", pid)
	}
	return pid, err
}

func (d *Driver) startTask(ctx context.Context, id string) error {
	return d.engine.call(context.WithoutCancel(ctx), func(ctx context.Context, client *containerd.Client) error {
		_, err := client.TaskService().Start(ctx, &tasks.StartRequest{ContainerID: d.container(id)})
		return err
	})
}

// execTask starts another process in the sandbox, as root, with pipes for its streams.
func (d *Driver) execTask(ctx context.Context, id, name string, args []string, pipes *pipes) error {
	process := specs.Process{
		Args: args, Cwd: "/", Env: []string{"PATH=/usr/local/bin:/usr/bin:/bin"}, NoNewPrivileges: true,
		Capabilities: &specs.LinuxCapabilities{},
	}
	spec, err := typeurl.MarshalAnyToProto(&process)
	if err != nil {
		return err
	}
	return d.engine.call(ctx, func(ctx context.Context, client *containerd.Client) error {
		request := &tasks.ExecProcessRequest{ContainerID: d.container(id), ExecID: name, Spec: spec,
			Stdin: pipes.stdinPath, Stdout: pipes.stdoutPath, Stderr: pipes.stderrPath}
		if _, err := client.TaskService().Exec(ctx, request); err != nil {
			return err
		}
		_, err := client.TaskService().Start(ctx, &tasks.StartRequest{ContainerID: d.container(id), ExecID: name})
		return err
	})
}

// waitTask returns when the sandbox's first process has ended, with its exit status as
// shims give it: 128 and more for a signal. The error is errdefs.ErrNotFound when the engine
// does not know the sandbox any more.
func (d *Driver) waitTask(ctx context.Context, id string, within time.Duration) (status uint32, err error) {
	err = d.engine.callWithin(ctx, within, func(ctx context.Context, client *containerd.Client) error {
		response, err := client.TaskService().Wait(ctx, &tasks.WaitRequest{ContainerID: d.container(id)})
		status = response.GetExitStatus()
		return err
	})
	return status, err
}

// removeTask ends the sandbox's processes and removes what the engine has of it. It touches
// nothing that does not carry this driver's label.
func (d *Driver) removeTask(ctx context.Context, id string) error {
	name := d.container(id)
	known, err := d.owns(ctx, id)
	if err == nil && !known {
		known, err = d.adopt(ctx, id)
	}
	if err != nil || !known && len(d.helpers(name)) == 0 {
		return err
	}
	if err := d.endTask(ctx, name); err != nil {
		return err
	}
	err = d.engine.call(ctx, func(ctx context.Context, client *containerd.Client) error {
		return client.ContainerService().Delete(ctx, name)
	})
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

// adopt gives a task of the engine's its container, and reports whether there is one: of a
// create that the engine went on with after our end. It takes orders for a task that has a
// container alone.
func (d *Driver) adopt(ctx context.Context, id string) (bool, error) {
	if found, err := d.orphaned(ctx, id); err != nil || !found {
		return false, err
	}
	record, err := d.record(id, &specs.Spec{})
	if err != nil {
		return false, err
	}
	err = d.engine.call(ctx, func(ctx context.Context, client *containerd.Client) error {
		_, err := client.ContainerService().Create(ctx, record)
		return err
	})
	if errdefs.IsAlreadyExists(err) {
		err = nil
	}
	return err == nil, err
}

// endTask deletes a container's task and returns when the engine has none. Where it had none
// from the start, it may be at making one for a caller that died: it tells of a task when its
// shim has made it, and it goes on with some of that when the shim is killed. So what it has
// started is ended, until nothing comes after it.
func (d *Driver) endTask(ctx context.Context, name string) error {
	const enough = 6 // looks that found nothing, over some 60 ms
	deleted, quiet := false, 0
	for pause := 2 * time.Millisecond; ; pause = min(2*pause, 200*time.Millisecond) {
		err := d.deleteTask(ctx, name)
		switch {
		case err == nil:
			deleted = true
		case errdefs.IsNotFound(err) && (deleted || quiet == enough):
			return nil
		case errdefs.IsNotFound(err):
			quiet++
			if d.endHelpers(name) {
				quiet, pause = 0, 2*time.Millisecond
			}
		case errors.Is(err, cove.Unavailable) || ctx.Err() != nil:
			return err
		}
		select { // once more, until the engine says that there is nothing
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-time.After(pause):
		}
	}
}

// deleteTask kills a task, waits for its end and deletes it. It returns
// errdefs.ErrNotFound when there is none.
func (d *Driver) deleteTask(ctx context.Context, name string) error {
	return d.engine.call(ctx, func(ctx context.Context, client *containerd.Client) error {
		service := client.TaskService()
		response, err := service.Get(ctx, &tasks.GetRequest{ContainerID: name})
		if err != nil {
			return err
		}
		if response.GetProcess().GetStatus() != tasktypes.Status_STOPPED { // a shim that is to delete what lives waits for its output to end
			request := &tasks.KillRequest{ContainerID: name, Signal: uint32(unix.SIGKILL), All: d.variant.reach == byStdio}
			if _, err := service.Kill(ctx, request); err != nil && !errdefs.IsNotFound(errgrpc.ToNative(err)) {
				return err
			}
			if _, err := service.Wait(ctx, &tasks.WaitRequest{ContainerID: name}); err != nil {
				return err
			}
		}
		_, err = service.Delete(ctx, &tasks.DeleteTaskRequest{ContainerID: name})
		return err
	})
}

// owns reports whether the engine has a container of this sandbox. One of the same name that
// is somebody else's is an error.
func (d *Driver) owns(ctx context.Context, id string) (bool, error) {
	var labels map[string]string
	err := d.engine.call(ctx, func(ctx context.Context, client *containerd.Client) error {
		record, err := client.ContainerService().Get(ctx, d.container(id))
		labels = record.Labels
		return err
	})
	if errdefs.IsNotFound(err) {
		return false, nil
	}
	if err == nil && (labels[instanceLabel] != d.instance || labels[idLabel] != id) {
		err = cove.Errorf(cove.Conflict, "remove", id, "the container "+d.container(id)+" does not carry this daemon's label", "remove it by hand, if it is yours")
	}
	return err == nil, err
}

// taskRuns reports whether the sandbox's first process runs, as the engine knows.
func (d *Driver) taskRuns(ctx context.Context, id string) (runs bool, err error) {
	err = d.engine.call(ctx, func(ctx context.Context, client *containerd.Client) error {
		response, err := client.TaskService().Get(ctx, &tasks.GetRequest{ContainerID: d.container(id)})
		status := response.GetProcess().GetStatus()
		runs = status == tasktypes.Status_RUNNING || status == tasktypes.Status_PAUSED
		return err
	})
	return runs, err
}

// orphaned reports whether the engine has a task of this sandbox's name.
func (d *Driver) orphaned(ctx context.Context, id string) (bool, error) {
	ids, err := d.tasks(ctx)
	return slices.Contains(ids, id), err
}

// tasks returns the sandboxes of which the engine has a task.
func (d *Driver) tasks(ctx context.Context) (ids []string, err error) {
	err = d.engine.call(ctx, func(ctx context.Context, client *containerd.Client) error {
		response, err := client.TaskService().List(ctx, &tasks.ListTasksRequest{})
		for _, task := range response.GetTasks() {
			if id, ok := strings.CutPrefix(task.ID, d.instance+"-"); ok {
				ids = append(ids, id)
			}
		}
		return err
	})
	return ids, err
}

// containers returns the sandboxes of which the engine has a container.
func (d *Driver) containers(ctx context.Context) (ids []string, err error) {
	err = d.engine.call(ctx, func(ctx context.Context, client *containerd.Client) error {
		label, _ := json.Marshal(d.instance) // quoted, as the filter wants it
		records, err := client.ContainerService().List(ctx, fmt.Sprintf(`labels.%q==%s`, instanceLabel, label))
		for _, record := range records {
			if id, ok := strings.CutPrefix(record.ID, d.instance+"-"); ok && record.Labels[idLabel] == id && record.Labels[instanceLabel] == d.instance {
				ids = append(ids, id)
			}
		}
		return err
	})
	return ids, err
}
