package server

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/covehq/cove"
	"github.com/covehq/cove/internal/httpapi"
	"github.com/covehq/cove/sandbox"
)

const networkPath = "/v1/sandboxes/{id}/network"

func (s *Server) registerNetwork() {
	register(s, operation("get-network", http.MethodGet, networkPath, tagNetwork, "What a sandbox may reach",
		"The policy that holds, and what has passed: connections, refusals and bytes."), s.getNetwork)
	register(s, operation("update-network", http.MethodPatch, networkPath, tagNetwork, "Change what a sandbox may reach",
		"What is absent stays as it is; a list that is given takes the place of the one before. "+
			"It holds for what is asked for after the reply, and connections that it does not allow are closed. On an error nothing has changed."), s.updateNetwork)
	log := operation("network-log", http.MethodGet, networkPath+"/log", tagNetwork, "What a sandbox wanted to reach",
		"Every connection and request, and every lookup that was refused, with the rule that decided: the last few thousand, oldest first. "+
			"What was refused many times in a second is told once.\n\n"+
			"With `Accept: text/event-stream`, those that are kept and then those that come, until the sandbox ends: server-sent events named as their kind. "+
			"`Last-Event-ID` resumes; a gap in the numbers is of events that were not kept.")
	log = replies(log, http.StatusOK, "The events, or a stream of them.", map[string]*huma.MediaType{
		httpapi.TypeJSON: {Schema: schemaOf[httpapi.NetworkEvents](s)},
		httpapi.TypeSSE:  {Schema: text("server-sent events; their data is a NetworkEvent"), Extensions: map[string]any{"x-item": schemaOf[cove.NetworkEvent](s)}},
	})
	register(s, log, s.networkLog)
	register(s, operation("list-network-presets", http.MethodGet, "/v1/network/presets", tagNetwork, "List presets",
		"Names for rules, and what each means on this host: the servers that its package managers are set up to use, and the operator's own. "+
			"The package managers are asked, which may take some seconds."), s.listPresets)
}

func (s *Server) getNetwork(ctx context.Context, in *Target) (*struct{ Body cove.NetworkStatus }, error) {
	box, err := s.host.Sandbox(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	status, err := box.Network()
	return &struct{ Body cove.NetworkStatus }{status}, err
}

type updateNetworkInput struct {
	Target
	Body cove.NetworkUpdate
}

func (s *Server) updateNetwork(ctx context.Context, in *updateNetworkInput) (*struct{ Body cove.NetworkStatus }, error) {
	box, err := s.host.Sandbox(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	status, err := box.SetNetwork(ctx, in.Body)
	return &struct{ Body cove.NetworkStatus }{status}, err
}

func (s *Server) listPresets(ctx context.Context, _ *struct{}) (*struct{ Body httpapi.NetworkPresets }, error) {
	return &struct{ Body httpapi.NetworkPresets }{httpapi.NetworkPresets{Presets: s.host.NetworkPresets(ctx)}}, nil
}

type networkLogInput struct {
	exchange
	Target
	After       string `query:"after" pattern:"^[0-9]*$" patternDescription:"the number of an event" doc:"only those after this number" example:"17"`
	LastEventID string `header:"Last-Event-ID" pattern:"^[0-9]*$" patternDescription:"the number of an event" doc:"overrides after"`
}

func (s *Server) networkLog(ctx context.Context, in *networkLogInput) (*huma.StreamResponse, error) {
	const op = "network log"
	after, err := eventNumber(op, in.LastEventID, in.After)
	if err != nil {
		return nil, err
	}
	box, err := s.host.Sandbox(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	if after, err = inLog(box, after); err != nil {
		return nil, err
	}
	if negotiate(in.r.Header.Get("Accept"), httpapi.TypeJSON, httpapi.TypeSSE) == httpapi.TypeSSE {
		return s.networkStream(ctx, box, in, after)
	}
	events, lost, _, err := box.NetworkLog(after)
	if err != nil {
		return nil, err
	}
	return raw(func() {
		in.w.Header().Set("Content-Type", httpapi.TypeJSON)
		reply := httpapi.NetworkEvents{Events: append([]cove.NetworkEvent{}, events...), Lost: lost}
		_ = json.NewEncoder(in.w).Encode(reply) // fails when the client is gone
	})
}

// eventNumber reads the first number of an event that there is; 0 without one.
func eventNumber(op string, texts ...string) (uint64, error) {
	for _, text := range texts {
		if text == "" {
			continue
		}
		number, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			return 0, cove.Errorf(cove.Invalid, op, "", "the number of the event is out of range", "send the number of an event that was received")
		}
		return number, nil
	}
	return 0, nil
}

// lookAgain is how often a log is asked for without news: the end of the sandbox is none.
const lookAgain = time.Second

func (s *Server) networkStream(ctx context.Context, box *sandbox.Sandbox, in *networkLogInput, after uint64) (*huma.StreamResponse, error) {
	ctx, cancel := s.passive(ctx)
	return raw(func() {
		defer cancel()
		s.stream(in.w, in.r, sseEncoding(), func(streaming context.Context, put put) error {
			stop := context.AfterFunc(streaming, cancel)
			defer stop()
			if err := put(func(b []byte) []byte { return append(b, opened...) }); err != nil {
				return err
			}
			idle := time.NewTicker(lookAgain)
			defer idle.Stop()
			for {
				events, _, changed, err := box.NetworkLog(after)
				if err != nil {
					return s.shutdownOr(err)
				}
				for _, event := range events {
					after = event.Seq
					id := strconv.FormatUint(event.Seq, 10)
					if err := put(func(b []byte) []byte { return appendEvent(b, string(event.Kind), id, event) }); err != nil {
						return err
					}
				}
				select {
				case <-changed:
				case <-idle.C:
				case <-ctx.Done():
					return s.shutdownOr(ctx.Err())
				}
			}
		})
	})
}

// inLog returns a position of the log: 0 for one that is beyond its end, since numbers
// begin again with the daemon.
func inLog(box *sandbox.Sandbox, after uint64) (uint64, error) {
	events, _, _, err := box.NetworkLog(max(after, 1) - 1)
	if len(events) == 0 {
		after = 0
	}
	return after, err
}
