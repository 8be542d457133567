package server

import (
	"context"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/covehq/cove"
	"github.com/covehq/cove/internal/httpapi"
	"github.com/covehq/cove/sandbox"
)

func (s *Server) registerEvents() {
	op := operation("events", http.MethodGet, "/v1/events", tagDaemon, "Follow what happens",
		"Server-sent events for every change of a sandbox, and for every port inside that is listened on or no more, from now on, or after a number: recent ones are replayed. `Last-Event-ID` resumes.")
	op = replies(op, http.StatusOK, "Events.", map[string]*huma.MediaType{
		httpapi.TypeSSE: {Schema: text("server-sent events; their data is an Event"), Extensions: map[string]any{"x-item": schemaOf[cove.Event](s)}},
	})
	register(s, op, s.events)
}

type eventsInput struct {
	exchange
	Sandbox     string   `query:"sandbox" doc:"only of the sandbox with this id or name"`
	Type        []string `query:"type,explode" enum:"sandbox.creating,sandbox.running,sandbox.updated,sandbox.stopped,sandbox.failed,sandbox.removed,port.opened,port.closed" doc:"only of this type; may be repeated"`
	NoFollow    bool     `query:"no_follow" doc:"end after those that are kept"`
	After       string   `query:"after" pattern:"^[0-9]*$" patternDescription:"the number of an event" doc:"replay those after this number; 0 is all that are kept" example:"17"`
	LastEventID string   `header:"Last-Event-ID" pattern:"^[0-9]*$" patternDescription:"the number of an event" doc:"overrides after"`
}

func (s *Server) events(ctx context.Context, in *eventsInput) (*huma.StreamResponse, error) {
	after, err := in.after()
	if err != nil {
		return nil, err
	}
	ctx, cancel := s.passive(ctx)
	events := s.host.Subscribe(ctx, after) // what is new is fixed by this call
	if in.NoFollow {
		events = s.host.Events(ctx, after)
	}
	return raw(func() {
		defer cancel()
		defer s.watchPorts(ctx, in)()
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
				if !in.wants(event) {
					continue
				}
				id := strconv.FormatUint(event.Seq, 10)
				if err := put(func(b []byte) []byte { return appendEvent(b, string(event.Type), id, event) }); err != nil {
					return err
				}
			}
			if in.NoFollow {
				return nil
			}
			return s.shutdownOr(ctx.Err())
		})
	})
}

// watchPorts has the ports watched of which the events are to tell, until the function
// that it returns is called.
func (s *Server) watchPorts(ctx context.Context, in *eventsInput) (stop func()) {
	about := func(kind string) bool { return strings.HasPrefix(kind, "port.") }
	if in.NoFollow || len(in.Type) > 0 && !slices.ContainsFunc(in.Type, about) {
		return func() {}
	}
	if in.Sandbox == "" {
		return s.host.WatchPorts(nil)
	}
	only, err := s.host.Sandbox(ctx, in.Sandbox)
	if err != nil {
		only = nil // one that is yet to come
	}
	return s.host.WatchPorts(only)
}

// wants reports whether an event is one that was asked for.
func (in *eventsInput) wants(event cove.Event) bool {
	box := event.Sandbox
	return (in.Sandbox == "" || in.Sandbox == box.ID || in.Sandbox == box.Name) &&
		(len(in.Type) == 0 || slices.Contains(in.Type, string(event.Type)))
}

func (in *eventsInput) after() (uint64, error) {
	text := in.LastEventID
	if text == "" {
		text = in.After
	}
	switch {
	case text == "" && in.NoFollow:
		return 0, nil
	case text == "":
		return sandbox.FromNow, nil
	}
	after, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0, cove.Errorf(cove.Invalid, "events", "", "the number of the event is out of range", "send the number of an event that was received")
	}
	return after, nil
}
