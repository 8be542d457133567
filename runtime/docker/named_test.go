package docker

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/client"

	"github.com/covehq/cove"
	"github.com/covehq/cove/guest/dial"
)

// hasVolume asks the engine.
func hasVolume(t *testing.T, d *Driver, name string) bool {
	t.Helper()
	err := d.engine.call(t.Context(), func(ctx context.Context, c *client.Client) error {
		_, err := c.VolumeInspect(ctx, name, client.VolumeInspectOptions{})
		return err
	})
	if err != nil && !errdefs.IsNotFound(err) {
		t.Fatal(err)
	}
	return err == nil
}

// newVolume makes a volume past the driver.
func newVolume(t *testing.T, d *Driver, name string, labels map[string]string) {
	t.Helper()
	err := d.engine.call(t.Context(), func(ctx context.Context, c *client.Client) error {
		_, err := c.VolumeCreate(ctx, client.VolumeCreateOptions{Name: name, Labels: labels})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dropVolume(t, d, name) })
}

func dropVolume(t *testing.T, d *Driver, name string) {
	t.Helper()
	err := d.engine.call(context.Background(), func(ctx context.Context, c *client.Client) error {
		_, err := c.VolumeRemove(ctx, name, client.VolumeRemoveOptions{})
		return err
	})
	if err != nil && !errdefs.IsNotFound(err) {
		t.Error(err)
	}
}

// withVolume is a spec with a volume that goes with the sandbox.
func withVolume(name string, remove bool) *cove.Spec {
	s := spec()
	s.Mounts = []cove.Mount{{Type: cove.MountVolume, Source: name, Target: "/named", Remove: remove}}
	return s
}

func TestAVolumeGoesWithTheSandboxThatItWasMadeFor(t *testing.T) {
	d := anyEngine(t)
	m, err := d.Create(t.Context(), "owner", withVolume("cove-test-own", true))
	if err != nil {
		t.Fatal(err)
	}
	guest := dial.New(m.Dial)
	if got := output(t, guest, "echo kept >/named/file && cat /named/file"); got != "kept" {
		t.Errorf("got %q, want a volume to be written", got)
	}
	guest.Close()
	if _, err := d.Create(t.Context(), "second", withVolume("cove-test-own", true)); !errors.Is(err, cove.Conflict) || cove.HintOf(err) == "" {
		t.Errorf("another that wants to own it: got %v, want a conflict", err)
	}
	if !hasVolume(t, d, "cove-test-own") {
		t.Error("a sandbox that did not come up took the volume of another with it")
	}
	if err := m.Destroy(t.Context()); err != nil {
		t.Fatal(err)
	}
	if hasVolume(t, d, "cove-test-own") {
		t.Error("the volume stays, want it gone with the sandbox")
	}
	if ids, err := d.List(t.Context()); err != nil || len(ids) > 0 {
		t.Errorf("left: %v, %v; want nothing", ids, err)
	}
}

func TestAVolumeThatNobodyHasUsedYetIsEverybodysInside(t *testing.T) {
	d := anyEngine(t)
	newVolume(t, d, "cove-test-new", nil)
	newVolume(t, d, "cove-test-used", nil)
	s := withVolume("cove-test-new", false)
	s.Mounts = append(s.Mounts, cove.Mount{Type: cove.MountVolume, Source: "cove-test-used", Target: "/used"})
	for _, test := range []struct{ id, before, as, want string }{
		{"first", "chmod 0755 /used; echo root >/used/file; chown 0:0 /named", "echo mine >/named/file && cat /named/file", "mine"},
		{"second", "", "cat /named/file /used/file; (echo other >>/used/file) 2>/dev/null || echo refused", "mine\nroot\nrefused"},
		{"third", "chmod 0755 /named", "(echo other >/named/new) 2>/dev/null || echo refused", "refused"},
		{"fourth", "", "stat -c %a /named", "755"},
	} {
		m, err := d.Create(t.Context(), test.id, s)
		if err != nil {
			t.Fatal(err)
		}
		guest := dial.New(m.Dial)
		if test.before != "" {
			output(t, guest, test.before)
		}
		if got := outputAs(t, guest, "user", test.as); got != test.want {
			t.Errorf("%s: got %q, want %q", test.id, got, test.want)
		}
		guest.Close()
		if err := m.Destroy(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAVolumeOfASandboxThatDoesNotComeUpIsRemoved(t *testing.T) {
	d := anyEngine(t)
	s := withVolume("cove-test-failed", true)
	s.Options.NetworkMode = "cove-test-none-such"
	if _, err := d.Create(t.Context(), "failed", s); err == nil {
		t.Error("a sandbox without its network came up")
	}
	if hasVolume(t, d, "cove-test-failed") {
		t.Error("its volume stays")
	}
}

func TestT08AVolumeOfSomebodyElseIsNeverRemoved(t *testing.T) {
	d := anyEngine(t)
	foreign := map[string]map[string]string{
		"cove-test-before":   nil,
		"cove-test-sandbox":  {labelSandbox: "taker"},
		"cove-test-instance": {labelSandbox: "taker", labelInstance: "another", labelRuntime: d.name},
		"cove-test-runtime":  {labelSandbox: "taker", labelInstance: d.instance, labelRuntime: "docker:other"},
	}
	for name, labels := range foreign {
		newVolume(t, d, name, labels)
	}
	for name := range foreign {
		if _, err := d.Create(t.Context(), "taker", withVolume(name, true)); !errors.Is(err, cove.Conflict) {
			t.Errorf("%s, to be removed: got %v, want a conflict", name, err)
		}
		m, err := d.Create(t.Context(), "taker", withVolume(name, false))
		if err != nil {
			t.Fatal(err)
		}
		if err := m.Destroy(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if ids, err := d.List(t.Context()); err != nil || len(ids) > 0 {
		t.Errorf("list: got %v, %v; want nothing", ids, err)
	}
	for name := range foreign {
		if !hasVolume(t, d, name) {
			t.Errorf("%s is gone, want it untouched", name)
		}
	}
}

func TestT08AVolumeStaysAsLongAsAnotherContainerHasIt(t *testing.T) {
	d := anyEngine(t)
	m, err := d.Create(t.Context(), "owner", withVolume("cove-test-shared", true))
	if err != nil {
		t.Fatal(err)
	}
	f, _ := d.facts(t.Context())
	from, err := d.resolve(t.Context(), spec(), f)
	if err != nil {
		t.Fatal(err)
	}
	var other client.ContainerCreateResult
	remove := func() error {
		return d.engine.call(context.Background(), func(ctx context.Context, c *client.Client) error {
			_, err := c.ContainerRemove(ctx, other.ID, client.ContainerRemoveOptions{Force: true})
			return err
		})
	}
	err = d.engine.call(t.Context(), func(ctx context.Context, c *client.Client) (err error) {
		other, err = c.ContainerCreate(ctx, client.ContainerCreateOptions{
			Config:     &container.Config{Image: from.id, Cmd: []string{"/nothing"}},
			HostConfig: &container.HostConfig{Mounts: []mount.Mount{{Type: mount.TypeVolume, Source: "cove-test-shared", Target: "/theirs"}}},
		})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = remove() })
	if err := m.Destroy(t.Context()); err != nil {
		t.Errorf("destroy while another container has the volume: %v", err)
	}
	if !hasVolume(t, d, "cove-test-shared") {
		t.Fatal("the volume of another container is gone")
	}
	// Podman lists it all the same. It is removed in vain then, until it can be.
	if ids, err := d.List(t.Context()); err != nil || len(ids) > 0 && !f.podman {
		t.Errorf("list while it is in use: got %v, %v; want nothing", ids, err)
	}
	if err := d.Remove(t.Context(), "owner"); err != nil || !hasVolume(t, d, "cove-test-shared") {
		t.Errorf("remove while it is in use: %v, want the volume to stay", err)
	}
	if err := remove(); err != nil {
		t.Fatal(err)
	}
	ids, err := d.List(t.Context())
	if err != nil || !slices.Equal(ids, []string{"owner"}) {
		t.Errorf("list when it is not: got %v, %v; want the sandbox whose it was", ids, err)
	}
	if err := d.Remove(t.Context(), "owner"); err != nil || hasVolume(t, d, "cove-test-shared") {
		t.Errorf("remove: %v, want the volume gone", err)
	}
}

func TestT09TheVolumesOfAKilledDaemonAreSwept(t *testing.T) {
	d := anyEngine(t)
	newVolume(t, d, "cove-test-leaked", d.labels("leaked"))
	ids, err := d.List(t.Context())
	if err != nil || !slices.Equal(ids, []string{"leaked"}) {
		t.Fatalf("list: got %v and %v, want the sandbox whose volume it is", ids, err)
	}
	if err := d.Remove(t.Context(), "leaked"); err != nil || hasVolume(t, d, "cove-test-leaked") {
		t.Errorf("remove: %v, want the volume gone", err)
	}
}

func TestAVolumeMayBeTheWorkspaceOfAReadOnlyRoot(t *testing.T) {
	d := anyEngine(t)
	s := withVolume("cove-test-work", true)
	s.ReadOnly, s.Mounts[0].Target = true, cove.DefaultWorkdir
	run := inside(t, d, "working", s)
	if got := run("echo kept >/workspace/file && cat /workspace/file; touch /file 2>/dev/null || echo refused; grep -c ' /workspace ' /proc/self/mounts"); got != "kept\nrefused\n1" {
		t.Errorf("got %q, want the volume to be the workspace, once, and nothing else to be written", got)
	}
}
