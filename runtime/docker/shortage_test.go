package docker

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/moby/moby/client"

	"github.com/covehq/cove"
	"github.com/covehq/cove/sandbox/driver"
	"github.com/covehq/cove/sandbox/drivertest"
)

func TestT92AFullDiskOfTheEnginesFailsCreateAlone(t *testing.T) {
	t.Parallel()
	e := &daemon{}
	e.place(t)
	drivertest.SmallDisk(t, e.dir+"/data", 64*cove.MiB)
	e.start(t)
	d := e.driver(t, "docker")
	refused := func(when string) {
		t.Helper()
		free := drivertest.FillDisk(t, e.dir+"/data")
		defer free()
		m, err := d.Create(t.Context(), "full", spec())
		if err == nil {
			t.Errorf("create, %s: it works on a full disk: the test shows nothing", when)
			_ = m.Destroy(t.Context())
		} else if err = driver.Full(err); !errors.Is(err, cove.NoSpace) || cove.HintOf(err) == "" {
			t.Errorf("create, %s: got %v, want that there is no space, and what to do", when, err)
		}
	}
	refused("of an engine without the image")
	m, err := d.Create(t.Context(), "stays", spec())
	if err != nil {
		t.Fatalf("create with room again: %v", err)
	}
	talk := drivertest.StartTalk(t, m)
	refused("of an engine with the image")

	free := drivertest.FillDisk(t, e.dir+"/data")
	defer free()
	talk.GoesOn(t, "while the disk is full")
	if ids, err := d.List(t.Context()); err != nil || len(ids) != 1 {
		t.Errorf("list: got %v, %v; want the one that runs", ids, err)
	}
	if err := m.Destroy(t.Context()); err != nil {
		t.Errorf("destroy while the disk is full: %v", err)
	}
	e.swept(t, "docker")
}

func TestT92AFullDiskOfOursFailsCreateAlone(t *testing.T) {
	t.Parallel()
	e := newDaemon(t)
	drivertest.SmallDisk(t, e.dir+"/cove", 64*cove.MiB)
	for _, runtime := range fleet[:2] {
		d := e.driver(t, runtime)
		m, err := d.Create(t.Context(), "stays", spec())
		if err != nil {
			t.Fatal(err)
		}
		talk := drivertest.StartTalk(t, m)
		free := drivertest.FillDisk(t, e.dir+"/cove")
		if _, err := d.Create(t.Context(), "full", spec()); !errors.Is(driver.Full(err), cove.NoSpace) {
			t.Errorf("%s: create: got %v, want that there is no space", runtime, err)
		}
		talk.GoesOn(t, "while the disk is full")
		if err := m.Destroy(t.Context()); err != nil {
			t.Errorf("%s: destroy while the disk is full: %v", runtime, err)
		}
		e.swept(t, runtime)
		free()
		if m, err = d.Create(t.Context(), "after", spec()); err != nil {
			t.Errorf("%s: create with room again: %v", runtime, err)
		} else if err := m.Destroy(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

func TestAnImageThatSomebodyRemovedIsMissedAndComesAgain(t *testing.T) {
	t.Parallel()
	e := newDaemon(t)
	d := e.driver(t, "docker")
	far, theirs := e.member(t, "far")
	theirs.Pull = cove.PullNever
	works := func(d *Driver, s *cove.Spec, what string) {
		t.Helper()
		m, err := d.Create(t.Context(), "works", s)
		if err == nil {
			err = m.Destroy(t.Context())
		}
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	// So that the drivers know them.
	works(d, spec(), "the image of this machine")
	works(d, theirs, "an image")
	works(far, theirs, "an image, far")
	err := d.engine.call(t.Context(), func(ctx context.Context, c *client.Client) error {
		images, err := c.ImageList(ctx, client.ImageListOptions{})
		for _, image := range images.Items {
			_, failed := c.ImageRemove(ctx, image.ID, client.ImageRemoveOptions{Force: true})
			err = errors.Join(err, failed)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	works(d, spec(), "the image of this machine, which was removed")
	for name, d := range map[string]*Driver{"near": d, "far": far} {
		for range 2 { // known to be there, and known to be missing
			if _, err := d.Create(t.Context(), "missing", theirs); !errors.Is(err, cove.NotFound) || cove.HintOf(err) == "" {
				t.Errorf("an image that was removed, %s: got %v, want that it is not found, and what to do", name, err)
			}
		}
		if ids, err := d.List(t.Context()); err != nil || len(ids) > 0 {
			t.Errorf("left, %s: %v, %v; want nothing", name, ids, err)
		}
	}
	shellImage(t, d)
	works(d, theirs, "an image that came again")
	works(far, theirs, "an image that came again, far")
	e.swept(t, "docker")
}

func TestT91AContainerRemovedByHandIsASandboxThatEnded(t *testing.T) {
	t.Parallel()
	e := newDaemon(t)
	machines, talks := e.create(t)
	for name, m := range machines {
		err := m.(*machine).driver.engine.call(t.Context(), func(ctx context.Context, c *client.Client) error {
			_, err := c.ContainerRemove(ctx, m.(*machine).known.Container, client.ContainerRemoveOptions{Force: true})
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		if exit, err := m.Wait(ctx); err != nil || exit.Reason != cove.ReasonKilled {
			t.Errorf("%s: wait: got %+v, %v; want that it was killed", name, exit, err)
		}
		cancel()
		talks[name].Breaks(t, "whose container was removed")
		if _, err := m.Dial(t.Context()); !errors.Is(err, cove.Gone) {
			t.Errorf("%s: dial: got %v, want gone", name, err)
		}
		if err := m.Destroy(t.Context()); err != nil {
			t.Errorf("%s: destroy: %v", name, err)
		}
	}
	e.swept(t, "docker", "docker:gvisor")
}
