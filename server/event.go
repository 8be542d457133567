package server

import (
	"context"
	"net/http"
	"strconv"

	"github.com/danielgtaylor/huma/v2"

	"github.com/covehq/cove"
	"github.com/covehq/cove/internal/httpapi"
	"github.com/covehq/cove/sandbox"
)

func (s *Server) registerEvents() {
	op := operation("events", http.MethodGet, "/v1/events", tagDaemon, "Follow what happens",
		"Server-sent events for every change of a sandbox, from now on, or after a number: recent ones are replayed. `Last-Event-ID` resumes.")
	op = replies(op, http.StatusOK, "Events.", map[string]*huma.MediaType{
		httpapi.TypeSSE: {Schema: text("server-sent events; their data is an Event"), Extensions: map[string]any{"x-item": schemaOf[cove.Event](s)}},
	})
	register(s, op, s.events)
}

type eventsInput struct {
	exchange
	After       string `query:"after" pattern:"^[0-9]*$" patternDescription:"the number of an event" doc:"replay those after this number; 0 is all that are kept" example:"17"`
	LastEventID string `header:"Last-Event-ID" pattern:"^[0-9]*$" patternDescription:"the number of an event" doc:"overrides after"`
}

func (s *Server) events(ctx context.Context, in *eventsInput) (*huma.StreamResponse, error) {
	after, err := in.after()
	if err != nil {
		return nil, err
	}
	ctx, cancel := s.passive(ctx)
	events := s.host.Subscribe(ctx, after) // what is new is fixed by this call
	return raw(func() {
		defer cancel()
		s.stream(in.w, in.r, sseEncoding(), func(streaming context.Context, put put) error {
			stop := context.AfterFunc(streaming, cancel)
			defer stop()
			if err := put(func(b []byte) []byte { return append(b, opened...) }); err != nil {
				return err
			}
			for event, err := range events {
				if err != nil {
					return s.shutdownOr(err)
				}
				id := strconv.FormatUint(event.Seq, 10)
				if err := put(func(b []byte) []byte { return appendEvent(b, string(event.Type), id, event) }); err != nil {
					return err
				}
			}
			return s.shutdownOr(ctx.Err())
		})
	})
}

func (in *eventsInput) after() (uint64, error) {
	text := in.LastEventID
	if text == "" {
		text = in.After
	}
	if text == "" {
		return sandbox.FromNow, nil
	}
	after, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0, cove.Errorf(cove.Invalid, "events", "", "the number of the event is out of range", "send the number of an event that was received")
	}
	return after, nil
}
