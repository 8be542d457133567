package docker

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/client"

	"github.com/covehq/cove/runtime/internal/bundle"
)

// agentVolume returns the name of a volume in the engine that has the agent in it. It is made
// once for each build of the agent, with a container of some image that is never started.
func (d *Driver) agentVolume(ctx context.Context, imageID string) (string, error) {
	program, err := os.ReadFile(d.options.Agent)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(program)
	name := "cove-agent-" + hex.EncodeToString(sum[:16])
	d.importing.Lock()
	defer d.importing.Unlock()
	if d.filled == name {
		err := d.engine.call(ctx, func(ctx context.Context, c *client.Client) error {
			_, err := c.VolumeInspect(ctx, name, client.VolumeInspectOptions{})
			return err
		})
		if !errdefs.IsNotFound(err) {
			return name, err
		}
	}
	if err := d.fillVolume(ctx, name, imageID, program); err != nil {
		return "", err
	}
	d.filled = name
	return name, nil
}

// fillVolume makes the volume, or fills it again after a restart of the daemon: nothing says
// whether a crash left it half-filled, and to fill it twice does no harm.
func (d *Driver) fillVolume(ctx context.Context, name, imageID string, program []byte) (err error) {
	var made client.ContainerCreateResult
	err = d.engine.finish(ctx, func(ctx context.Context, c *client.Client) (err error) {
		made, err = c.ContainerCreate(ctx, client.ContainerCreateOptions{
			Config: &container.Config{Image: imageID, Entrypoint: []string{bundle.AgentPath}, Labels: d.labels("agent")},
			HostConfig: &container.HostConfig{NetworkMode: "none", Mounts: []mount.Mount{{
				Type: mount.TypeVolume, Source: name, Target: agentDir, VolumeOptions: &mount.VolumeOptions{NoCopy: true},
			}}},
		})
		return err
	})
	if err != nil {
		return fmt.Errorf("agent: %w", err)
	}
	if !validContainer.MatchString(made.ID) {
		return fmt.Errorf("the engine calls a container %.80q", made.ID)
	}
	defer func() {
		err = errors.Join(err, d.engine.call(context.WithoutCancel(ctx), func(ctx context.Context, c *client.Client) error {
			_, err := c.ContainerRemove(ctx, made.ID, client.ContainerRemoveOptions{Force: true})
			return err
		}))
	}()
	reader, writer := io.Pipe()
	wrote := make(chan error, 1)
	go func() {
		err := writeAgent(writer, program)
		_ = writer.CloseWithError(err)
		wrote <- err
	}()
	err = d.engine.call(ctx, func(ctx context.Context, c *client.Client) error {
		_, err := c.CopyToContainer(ctx, made.ID, client.CopyToContainerOptions{DestinationPath: agentDir, Content: reader})
		return err
	})
	_ = reader.Close()
	return errors.Join(err, ignoreClosed(<-wrote))
}

// writeAgent writes what the volume has in it: the agent, and a place for its sockets.
func writeAgent(to io.Writer, program []byte) error {
	out := tar.NewWriter(to)
	err := out.WriteHeader(&tar.Header{Name: "run/", Typeflag: tar.TypeDir, Mode: 0o700})
	if err == nil {
		err = out.WriteHeader(&tar.Header{Name: "agent", Typeflag: tar.TypeReg, Mode: 0o755, Size: int64(len(program))})
	}
	if err == nil {
		_, err = out.Write(program)
	}
	return errors.Join(err, out.Close())
}
