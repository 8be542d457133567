package server

import (
	"context"
	"errors"
	"io"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/covehq/cove"
	"github.com/covehq/cove/internal/httpapi"
)

// opened is the first thing in a stream of events, so that a client knows that it misses
// nothing from here on.
const opened = ": open\n\n"

func (s *Server) registerWatch() {
	op := operation("watch-files", http.MethodGet, filesPath+"/watch", tagFiles, "Watch a directory",
		"Server-sent events named create, write, remove, rename and chmod, for what happens from now on. `error` is the last one.")
	op = replies(op, http.StatusOK, "Events.", map[string]*huma.MediaType{
		httpapi.TypeSSE: {Schema: text("server-sent events; their data is a FileEvent"), Extensions: map[string]any{"x-item": schemaOf[cove.FileEvent](s)}},
	})
	register(s, op, s.watchFiles)
}

type watchInput struct {
	exchange
	FileTarget
	Recursive bool `query:"recursive" doc:"and everything below it"`
}

func (s *Server) watchFiles(ctx context.Context, in *watchInput) (*huma.StreamResponse, error) {
	files, err := s.files(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	ctx, cancel := s.passive(ctx)
	watch, err := files.Watch(ctx, in.Path, in.Recursive, in.User)
	if err != nil {
		cancel()
		return nil, err
	}
	return raw(func() {
		defer cancel()
		defer watch.Close()
		s.stream(in.w, in.r, sseEncoding(), func(ctx context.Context, put put) error {
			stop := context.AfterFunc(ctx, func() { watch.Close() })
			defer stop()
			if err := put(func(b []byte) []byte { return append(b, opened...) }); err != nil {
				return err
			}
			for {
				event, err := watch.Next()
				if errors.Is(err, io.EOF) {
					return nil
				} else if err != nil {
					return s.shutdownOr(err)
				}
				if err := put(func(b []byte) []byte { return appendEvent(b, string(event.Type), "", event) }); err != nil {
					return err
				}
			}
		})
	})
}

// shutdownOr returns the error of a stream that broke, which is the shutdown where there
// is one.
func (s *Server) shutdownOr(err error) error {
	if s.stopping.Err() != nil {
		return cove.Errorf(cove.Unavailable, "", "", "the daemon is shutting down", "connect again when it is back")
	}
	return err
}
