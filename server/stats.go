package server

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/covehq/cove"
	"github.com/covehq/cove/internal/httpapi"
	"github.com/covehq/cove/sandbox"
)

// The bounds of the time between two stats of a stream, and its default.
const (
	minInterval     = 100 * time.Millisecond
	maxInterval     = time.Hour
	defaultInterval = time.Second
)

func (s *Server) registerStats() {
	op := operation("stats", http.MethodGet, "/v1/sandboxes/{id}/stats", tagSandboxes, "What a sandbox uses",
		"Processor time, memory, processes and disk. What a runtime can't tell is absent. Asking does not count as use: the sandbox may be idle.\n\n"+
			"With `Accept: text/event-stream`, server-sent events named `stats`, one for each interval, until the sandbox ends.")
	op = replies(op, http.StatusOK, "What it uses now, or a stream of that.", map[string]*huma.MediaType{
		httpapi.TypeJSON: {Schema: schemaOf[cove.Stats](s)},
		httpapi.TypeSSE:  {Schema: text("server-sent events; their data is a Stats"), Extensions: map[string]any{"x-item": schemaOf[cove.Stats](s)}},
	})
	register(s, op, s.stats)
}

type statsInput struct {
	exchange
	Target
	Interval string `query:"interval" doc:"streaming only: time between two events; default 1s" example:"1s"`
}

func (s *Server) stats(ctx context.Context, in *statsInput) (*huma.StreamResponse, error) {
	interval := defaultInterval
	if in.Interval != "" {
		asked, err := cove.ParseDuration(in.Interval)
		if interval = time.Duration(asked); err != nil || interval < minInterval || interval > maxInterval {
			return nil, cove.Errorf(cove.Invalid, "stats", in.ID, "interval is not a duration from 100ms to 1h", "write it as in 1s, or leave it out")
		}
	}
	box, err := s.host.Sandbox(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	first, err := box.Stats(ctx)
	if err != nil {
		return nil, err
	}
	if negotiate(in.r.Header.Get("Accept"), httpapi.TypeJSON, httpapi.TypeSSE) == httpapi.TypeSSE {
		return s.statsStream(ctx, box, in, first, interval)
	}
	return raw(func() {
		in.w.Header().Set("Content-Type", httpapi.TypeJSON)
		_ = json.NewEncoder(in.w).Encode(first) // fails when the client is gone
	})
}

func (s *Server) statsStream(ctx context.Context, box *sandbox.Sandbox, in *statsInput, next cove.Stats, interval time.Duration) (*huma.StreamResponse, error) {
	ctx, cancel := s.passive(ctx)
	return raw(func() {
		defer cancel()
		s.stream(in.w, in.r, sseEncoding(), func(streaming context.Context, put put) error {
			stop := context.AfterFunc(streaming, cancel)
			defer stop()
			ticker := time.NewTicker(interval)
			defer ticker.Stop()
			for {
				if err := put(func(b []byte) []byte { return appendEvent(b, "stats", "", next) }); err != nil {
					return err
				}
				select {
				case <-ticker.C:
				case <-ctx.Done():
					return s.shutdownOr(ctx.Err())
				}
				var err error
				if next, err = box.Stats(ctx); err != nil {
					return s.shutdownOr(err)
				}
			}
		})
	})
}
