package server

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/internal/httpapi"
)

const (
	defaultWait = 30 * time.Second
	longestWait = time.Hour
)

func (s *Server) registerListening() {
	register(s, operation("list-ports", http.MethodGet, "/v1/sandboxes/{id}/ports", tagPorts, "List what listens",
		"The TCP ports inside on which something listens, by number, as the sandbox tells it. "+
			"With `wait`, replies once something listens on that port, and with the error `timeout` when nothing did in time."), s.listPorts)
}

type listPortsInput struct {
	Target
	Wait    string `query:"wait" doc:"a port to wait for" example:"8000"`
	Timeout string `query:"timeout" doc:"how long to wait at most; default 30s" example:"30s"`
}

type listPortsOutput struct{ Body httpapi.Ports }

func (s *Server) listPorts(ctx context.Context, in *listPortsInput) (*listPortsOutput, error) {
	box, err := s.host.Sandbox(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	if in.Wait == "" {
		ports, err := box.Ports(ctx)
		return &listPortsOutput{httpapi.Ports{Ports: append([]cove.ListeningPort{}, ports...)}}, err
	}
	port, err := parsePort(in.Wait)
	if err != nil {
		return nil, err
	}
	limit, err := in.limit()
	if err != nil {
		return nil, err
	}
	waiting, stop := s.passive(ctx)
	defer stop()
	waiting, cancel := context.WithTimeout(waiting, limit)
	defer cancel()
	ports, err := box.WaitPort(waiting, port)
	if errors.Is(waiting.Err(), context.Canceled) {
		err = s.shutdownOr(err)
	}
	return &listPortsOutput{httpapi.Ports{Ports: ports}}, err
}

func (in *listPortsInput) limit() (time.Duration, error) {
	if in.Timeout == "" {
		return defaultWait, nil
	}
	asked, err := cove.ParseDuration(in.Timeout)
	if limit := time.Duration(asked); err == nil && asked != cove.Never && limit > 0 && limit <= longestWait {
		return limit, nil
	}
	return 0, cove.Errorf(cove.Invalid, "wait for port", in.ID, "timeout is not a duration up to 1h", "write it as in 30s, or leave it out")
}
