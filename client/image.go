package client

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"

	"github.com/covehq/cove"
	"github.com/covehq/cove/internal/httpapi"
)

// PullImage makes sure that an image is at the daemon's, unpacked. progress may be nil.
func (c *Client) PullImage(ctx context.Context, pull cove.ImagePull, progress func(cove.PullProgress)) (cove.Image, error) {
	r := request{op: "pull image", method: http.MethodPost, path: "/v1/images", in: pull}
	if progress == nil {
		var image cove.Image
		err := c.call(ctx, r, &image)
		return image, err
	}
	stream, err := c.subscribe(ctx, r)
	if err != nil {
		return cove.Image{}, err
	}
	defer stream.end()
	for {
		var piece json.RawMessage
		if err := stream.next(&piece); err != nil {
			return cove.Image{}, broken(ctx, r.op, err)
		}
		// A progress has a phase, and an image has none.
		var event struct {
			Phase string `json:"phase"`
			cove.Image
		}
		if err := json.Unmarshal(piece, &event); err != nil {
			return cove.Image{}, broken(ctx, r.op, err)
		}
		if event.Phase == "" {
			return event.Image, nil
		}
		var now cove.PullProgress
		if err := json.Unmarshal(piece, &now); err != nil {
			return cove.Image{}, broken(ctx, r.op, err)
		}
		progress(now)
	}
}

// Images returns the images of a runtime, "" for the daemon's default, by reference.
func (c *Client) Images(ctx context.Context, runtime string) ([]cove.Image, error) {
	var reply httpapi.Images
	err := c.call(ctx, request{op: "list images", method: http.MethodGet, path: "/v1/images", query: ofRuntime(runtime)}, &reply)
	return reply.Images, err
}

// Image returns an image of a runtime by a name, as in a spec, or by its digest.
func (c *Client) Image(ctx context.Context, runtime, reference string) (cove.Image, error) {
	var image cove.Image
	err := c.call(ctx, request{op: "inspect image", method: http.MethodGet, path: imagePath(reference), query: ofRuntime(runtime)}, &image)
	return image, err
}

// RemoveImage takes a name from an image, which goes with its last one. It is an error
// that is cove.Conflict while a sandbox that was made of the image lives.
func (c *Client) RemoveImage(ctx context.Context, runtime, reference string) error {
	return c.call(ctx, request{op: "remove image", method: http.MethodDelete, path: imagePath(reference), query: ofRuntime(runtime)}, nil)
}

// PruneImages removes the images of a runtime that no sandbox uses, and returns them.
func (c *Client) PruneImages(ctx context.Context, runtime string) ([]cove.Image, error) {
	var reply httpapi.Images
	err := c.call(ctx, request{op: "prune images", method: http.MethodPost, path: "/v1/images/prune", query: ofRuntime(runtime)}, &reply)
	return reply.Images, err
}

// ImportImage puts the image of a tar among those of a runtime, under a name: one that
// docker save wrote, an OCI layout, or a root filesystem.
func (c *Client) ImportImage(ctx context.Context, runtime, name string, archive io.Reader) (cove.Image, error) {
	query := ofRuntime(runtime)
	query.Set("name", name)
	var image cove.Image
	err := c.call(ctx, request{
		op: "import image", method: http.MethodPost, path: "/v1/images/import", query: query,
		body: archive, header: http.Header{"Content-Type": {httpapi.TypeTar}},
	}, &image)
	return image, err
}

func ofRuntime(runtime string) url.Values {
	query := url.Values{}
	if runtime != "" {
		query.Set("runtime", runtime)
	}
	return query
}

func imagePath(reference string) string {
	if reference == "" || reference == "." || reference == ".." {
		reference = "-" // as sandboxPath does
	}
	return "/v1/images/" + url.PathEscape(reference)
}
