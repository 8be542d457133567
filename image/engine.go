package image

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/client"

	"github.com/covehq/cove"
)

// engine returns a client of the local Docker engine, the one that DOCKER_HOST names, or
// the usual socket.
func (s *Store) engine() (*client.Client, error) {
	engine, err := client.New(client.FromEnv)
	if err != nil {
		return nil, &cove.Error{Code: cove.Unavailable, Err: fmt.Errorf("docker: %w", err), Hint: "check DOCKER_HOST"}
	}
	return engine, nil
}

// engineStamp returns the id that an engine's image has now.
func (s *Store) engineStamp(ctx context.Context, name string) (string, error) {
	engine, err := s.engine()
	if err != nil {
		return "", err
	}
	defer engine.Close()
	found, err := engine.ImageInspect(ctx, name)
	if err != nil {
		return "", engineError(err)
	}
	return found.ID[:min(len(found.ID), 200)], nil
}

// engineOrigin fetches an image from the engine's store.
func (s *Store) engineOrigin(ctx context.Context, name string) (origin, error) {
	engine, err := s.engine()
	if err != nil {
		return nil, err
	}
	defer engine.Close()
	stream, err := engine.ImageSave(ctx, []string{name})
	if err != nil {
		return nil, engineError(err)
	}
	defer stream.Close()
	file, err := s.spool(contextReader{ctx, stream}, int64(s.options.Limits.Bytes))
	if err != nil {
		return nil, err
	}
	archive, err := indexTar(ctx, file)
	if err != nil {
		return nil, err
	}
	return newSaved(ctx, archive, "")
}

func engineError(err error) error {
	if errdefs.IsNotFound(err) {
		return cove.Errorf(cove.NotFound, "", "", "the engine has no such image", "see docker image ls")
	}
	return &cove.Error{Code: cove.Unavailable, Err: fmt.Errorf("docker: %w", err), Hint: "check that the engine runs and that the daemon's user may use it"}
}
