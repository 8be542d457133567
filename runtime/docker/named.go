package docker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/volume"
	"github.com/moby/moby/client"

	"github.com/covehq/cove"
)

// Named volumes are the engine's and stay, but for those of which a spec says that they go with
// the sandbox. Cove makes these itself, with the sandbox's labels: a volume without them was
// there before, or is somebody else's, and is never removed.

// validVolume is what engines call volumes. What comes from one becomes part of the path of
// the next request.
var validVolume = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{1,254}$`)

// volumesVariable tells the agent which volumes can be written to. Those that nobody has used
// yet it gives to everybody in the sandbox.
const volumesVariable = "COVE_VOLUMES"

// writtenVolumes is the value of volumesVariable: a JSON array of paths, or nothing.
func writtenVolumes(spec *cove.Spec) string {
	var targets []string
	for _, m := range spec.Mounts {
		if m.Type == cove.MountVolume && !m.ReadOnly {
			targets = append(targets, m.Target)
		}
	}
	if targets == nil {
		return ""
	}
	value, _ := json.Marshal(targets) // strings can always be written
	return string(value)
}

// makeVolumes makes the volumes that go with the sandbox. The error is cove.Conflict for one
// that is there already.
func (d *Driver) makeVolumes(ctx context.Context, id string, spec *cove.Spec) error {
	for _, m := range spec.Mounts {
		if m.Type != cove.MountVolume || !m.Remove {
			continue
		}
		var made client.VolumeCreateResult
		err := d.engine.finish(ctx, func(ctx context.Context, c *client.Client) (err error) {
			made, err = c.VolumeCreate(ctx, client.VolumeCreateOptions{Name: m.Source, Labels: d.labels(id)})
			return err
		})
		if err != nil {
			return fmt.Errorf("the engine did not create volume %s: %w", m.Source, err)
		}
		// An engine answers with the volume that it has, whoever made it.
		if made.Volume.Name != m.Source || !d.owns(made.Volume, id) {
			return cove.Errorf(cove.Conflict, "create", id, fmt.Sprintf("volume %s is there already, and would be removed with the sandbox", m.Source),
				"leave remove out, or name another volume")
		}
	}
	return nil
}

// owns reports whether a volume was made for a sandbox of this driver; "" is any.
func (d *Driver) owns(v volume.Volume, id string) bool {
	return v.Labels[labelInstance] == d.instance && v.Labels[labelRuntime] == d.name && v.Labels[labelSandbox] != "" &&
		(id == "" || v.Labels[labelSandbox] == id) && validVolume.MatchString(v.Name)
}

// volumes returns the volumes that go with a sandbox, "" for all of them, and that no container
// has in use.
func (d *Driver) volumes(ctx context.Context, id string) ([]volume.Volume, error) {
	filters := client.Filters{}.Add("dangling", "true").Add("label", labelInstance+"="+d.instance, labelRuntime+"="+d.name)
	if id != "" {
		filters.Add("label", labelSandbox+"="+id)
	}
	var found client.VolumeListResult
	err := d.engine.call(ctx, func(ctx context.Context, c *client.Client) (err error) {
		found, err = c.VolumeList(ctx, client.VolumeListOptions{Filters: filters})
		return err
	})
	if err != nil {
		return nil, err
	}
	var ours []volume.Volume
	for _, v := range found.Items {
		if d.owns(v, id) {
			ours = append(ours, v)
		}
	}
	return ours, nil
}

// removeVolumes removes the volumes that go with a sandbox. One that somebody's container has
// in use stays until none has, for the sweep.
func (d *Driver) removeVolumes(ctx context.Context, id string) error {
	ours, err := d.volumes(ctx, id)
	if err != nil {
		return err
	}
	var errs []error
	for _, v := range ours {
		err := d.engine.call(ctx, func(ctx context.Context, c *client.Client) error {
			_, err := c.VolumeRemove(ctx, v.Name, client.VolumeRemoveOptions{})
			return err
		})
		if err != nil && !errdefs.IsNotFound(err) && !errdefs.IsConflict(err) {
			errs = append(errs, fmt.Errorf("volume %s: %w", v.Name, err))
		}
	}
	return errors.Join(errs...)
}
