package docker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/covehq/cove"
	"github.com/covehq/cove/runtime/internal/life"
	"github.com/covehq/cove/sandbox/driver"
)

const (
	// statusTimeout bounds the question how a sandbox ended: its end is to be known within
	// 2 s, also where the engine is stopped.
	statusTimeout = 1500 * time.Millisecond
	// waitTimeout bounds one call that waits for an end. An engine that hangs costs nothing
	// meanwhile.
	waitTimeout = time.Hour
	// diskPeriod is how often what a sandbox wrote is looked at, where nothing bounds it.
	diskPeriod = 5 * time.Second
)

// watchProcess waits for the end and finds out why.
func (m *machine) watchProcess() {
	life.Outlive(m.first, m.driver.log, m.id)
	m.end(m.reason(m.lastState()))
}

// lastState asks the engine how the container ended. It knows a moment after the kernel.
func (m *machine) lastState() *container.State {
	ctx, cancel := context.WithTimeout(context.Background(), statusTimeout)
	defer cancel()
	for pause := 5 * time.Millisecond; ; pause *= 2 {
		state, err := m.driver.stateOf(ctx, m.known.Container)
		if err != nil {
			return nil
		}
		if !state.Running {
			return state
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
}

// watchMemory ends the sandbox when it breaches its memory limit, so that a breach means
// the same on every runtime and is never half a sandbox.
func (m *machine) watchMemory() {
	if m.groups.Breached(m.group, m.oom) {
		exit := life.OutOfMemory(m.known.Memory)
		m.breach.Store(&exit)
		m.first.Kill()
	}
}

// watchContainer waits for the end as the engine tells it, through all of its restarts.
func (m *machine) watchContainer(ctx context.Context) {
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		asked := time.Now()
		err := m.driver.engine.callWithin(ctx, waitTimeout, func(ctx context.Context, c *client.Client) error {
			wait := c.ContainerWait(ctx, m.known.Container, client.ContainerWaitOptions{Condition: container.WaitConditionNotRunning})
			select {
			case <-wait.Result:
				return nil
			case err := <-wait.Error:
				return err
			case <-ctx.Done():
				return ctx.Err()
			}
		})
		if err == nil || errdefs.IsNotFound(err) || ctx.Err() != nil {
			m.end(m.reason(m.lastState()))
			return
		}
		if time.Since(asked) > time.Minute {
			pause = 50 * time.Millisecond
		}
		sleep(ctx, pause)
	}
}

// watchEvents ends the sandbox when the engine says that it breached its memory limit.
func (m *machine) watchEvents(ctx context.Context) {
	for ctx.Err() == nil {
		err := m.driver.engine.callWithin(ctx, waitTimeout, func(ctx context.Context, c *client.Client) error {
			events := c.Events(ctx, client.EventsListOptions{Filters: client.Filters{}.Add("container", m.known.Container).Add("event", "oom")})
			select {
			case <-events.Messages:
				return nil
			case err := <-events.Err:
				return err
			case <-ctx.Done():
				return ctx.Err()
			}
		})
		if err == nil {
			m.overstep(ctx, life.OutOfMemory(m.known.Memory))
			return
		}
		sleep(ctx, time.Second)
	}
}

// watchDisk ends the sandbox when it has written more than its limit, some time after it
// did: where the engine keeps what it writes, and has no bound for that.
func (m *machine) watchDisk(ctx context.Context) {
	ticker := time.NewTicker(diskPeriod)
	defer ticker.Stop()
	for {
		select {
		case <-m.Gone():
			return
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		written, err := m.written(ctx)
		if err == nil && written > m.known.Disk {
			m.overstep(ctx, driver.Exit{Reason: cove.ReasonKilled, Message: fmt.Sprintf("it wrote more than its disk limit of %s", m.known.Disk)})
			return
		}
	}
}

// written returns how much the engine keeps of what the sandbox wrote.
func (m *machine) written(ctx context.Context) (cove.Bytes, error) {
	var found client.ContainerInspectResult
	err := m.driver.engine.call(ctx, func(ctx context.Context, c *client.Client) (err error) {
		found, err = c.ContainerInspect(ctx, m.known.Container, client.ContainerInspectOptions{Size: true})
		return err
	})
	if err == nil && found.Container.SizeRw == nil {
		err = errors.New("the engine does not say what a container wrote")
	}
	if err != nil {
		return 0, err
	}
	return cove.Bytes(*found.Container.SizeRw), nil
}

// overstep ends the sandbox for a reason.
func (m *machine) overstep(ctx context.Context, why driver.Exit) {
	m.breach.Store(&why)
	if m.first != nil {
		m.first.Kill()
		return
	}
	for pause := 100 * time.Millisecond; ctx.Err() == nil; pause = min(2*pause, 5*time.Second) {
		err := m.driver.engine.call(ctx, func(ctx context.Context, c *client.Client) error {
			_, err := c.ContainerKill(ctx, m.known.Container, client.ContainerKillOptions{Signal: "KILL"})
			return err
		})
		if err == nil || errdefs.IsNotFound(err) || errdefs.IsConflict(err) { // gone, or dead already
			return
		}
		sleep(ctx, pause)
	}
}

// sleep waits, or until ctx ends.
func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
