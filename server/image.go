package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/covehq/cove"
	"github.com/covehq/cove/internal/httpapi"
)

func (s *Server) registerImages() {
	pull := operation("pull-image", http.MethodPost, "/v1/images", tagImages, "Fetch an image",
		"Returns when it is here, unpacked. A create does the same by itself where it has to.\n\n"+
			"With `Accept: text/event-stream` it tells how far it has come: events `progress` with a PullProgress, then `image` with the Image, or `error`, as the last one.")
	pull = replies(pull, http.StatusOK, "The image, or a stream that ends in it.", map[string]*huma.MediaType{
		httpapi.TypeJSON: {Schema: schemaOf[cove.Image](s)},
		httpapi.TypeSSE:  {Schema: text("server-sent events; their data is a PullProgress, and of the last one an Image"), Extensions: map[string]any{"x-item": schemaOf[cove.PullProgress](s)}},
	})
	register(s, pull, s.pullImage)
	register(s, operation("list-images", http.MethodGet, "/v1/images", tagImages, "List images",
		"By reference. An image that no name leads to any more has its digest for one."), s.listImages)
	register(s, operation("get-image", http.MethodGet, "/v1/images/{reference}", tagImages, "Get an image", ""), s.getImage)
	register(s, noContent(operation("remove-image", http.MethodDelete, "/v1/images/{reference}", tagImages, "Take a name from an image",
		"The image goes with its last name. It is a conflict while a sandbox that was made of it lives.")), s.removeImage)
	register(s, operation("prune-images", http.MethodPost, "/v1/images/prune", tagImages, "Remove unused images",
		"Those of which no living sandbox was made, and what is left of earlier pulls. Returns the images."), s.pruneImages)
	register(s, uploads(operation("import-image", http.MethodPost, "/v1/images/import", tagImages, "Import an image",
		"The body is a tar, which may be compressed: what `docker save` wrote, an OCI layout, or a root filesystem."), httpapi.TypeTar, "a tar"), s.importImage)
}

// imageReply is a reply that shows an image.
type imageReply struct{ Body cove.Image }

type pullInput struct {
	exchange
	Body cove.ImagePull
}

func (s *Server) pullImage(ctx context.Context, in *pullInput) (*huma.StreamResponse, error) {
	if negotiate(in.r.Header.Get("Accept"), httpapi.TypeJSON, httpapi.TypeSSE) == httpapi.TypeSSE {
		return raw(func() { s.pullStream(in) })
	}
	image, err := s.host.PullImage(ctx, in.Body, nil)
	if err != nil {
		return nil, err
	}
	return raw(func() {
		in.w.Header().Set("Content-Type", httpapi.TypeJSON)
		encoder := json.NewEncoder(in.w)
		encoder.SetEscapeHTML(false)
		_ = encoder.Encode(image) // fails when the client is gone
	})
}

// pullStream fetches an image and tells how far that is.
func (s *Server) pullStream(in *pullInput) {
	s.stream(in.w, in.r, sseEncoding(), func(ctx context.Context, put put) error {
		image, err := s.host.PullImage(ctx, in.Body, func(progress cove.PullProgress) {
			// A client that is gone ends ctx, and so the pull.
			_ = put(func(b []byte) []byte { return appendEvent(b, "progress", "", progress) })
		})
		if err != nil {
			return err
		}
		return put(func(b []byte) []byte { return appendEvent(b, "image", "", image) })
	})
}

// ImageRuntime says whose images are meant.
type ImageRuntime struct {
	Runtime string `query:"runtime" doc:"whose images; default the daemon's default runtime" example:"gvisor"`
}

func (s *Server) listImages(ctx context.Context, in *ImageRuntime) (*struct{ Body httpapi.Images }, error) {
	return imagesReply(s.host.Images(ctx, in.Runtime))
}

func imagesReply(list []cove.Image, err error) (*struct{ Body httpapi.Images }, error) {
	if err != nil {
		return nil, err
	}
	if list == nil {
		list = []cove.Image{}
	}
	return &struct{ Body httpapi.Images }{httpapi.Images{Images: list}}, nil
}

// ImageTarget is the image that an operation is about.
type ImageTarget struct {
	ImageRuntime
	Reference string `path:"reference" doc:"a name as in a spec, or a digest; its slashes are written %2F" example:"python:3.12"`
}

type getImageInput struct {
	ImageTarget
	Platform string `query:"platform" doc:"os/architecture[/variant]" example:"linux/amd64"`
}

func (s *Server) getImage(ctx context.Context, in *getImageInput) (*imageReply, error) {
	image, err := s.host.Image(ctx, in.Runtime, in.Reference, in.Platform)
	if err != nil {
		return nil, err
	}
	return &imageReply{*image}, nil
}

func (s *Server) removeImage(ctx context.Context, in *ImageTarget) (*struct{}, error) {
	return nil, s.host.RemoveImage(ctx, in.Runtime, in.Reference)
}

func (s *Server) pruneImages(ctx context.Context, in *ImageRuntime) (*struct{ Body httpapi.Images }, error) {
	return imagesReply(s.host.PruneImages(ctx, in.Runtime))
}

type importInput struct {
	exchange
	ImageRuntime
	Name string `query:"name" required:"true" doc:"name that the image gets" example:"team/base:1"`
}

func (s *Server) importImage(ctx context.Context, in *importInput) (*imageReply, error) {
	archive := &arriving{from: in.r.Body, controller: http.NewResponseController(in.w), within: s.options.BodyTimeout}
	image, err := s.host.ImportImage(ctx, in.Runtime, in.Name, archive, nil)
	if err != nil {
		return nil, err
	}
	return &imageReply{*image}, nil
}

// arriving is a body of any length, of which something has to come all the time.
type arriving struct {
	from       io.Reader
	controller *http.ResponseController
	within     time.Duration
}

// Read reads a piece.
func (a *arriving) Read(p []byte) (int, error) {
	_ = a.controller.SetReadDeadline(time.Now().Add(a.within)) // a test's writer may have none
	n, err := a.from.Read(p)
	if err != nil {
		_ = a.controller.SetReadDeadline(time.Time{}) // see body
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = &cove.Error{Code: cove.Timeout, Err: fmt.Errorf("nothing of the body came for %v", a.within), Hint: "send it again"}
	}
	return n, err
}
