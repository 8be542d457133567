package server

import (
	"context"
	"net/http"

	"github.com/covehq/cove"
	"github.com/covehq/cove/internal/httpapi"
)

func (s *Server) registerRuntimes() {
	register(s, operation("list-runtimes", http.MethodGet, "/v1/runtimes", tagDaemon, "List runtimes",
		"What this host can isolate with, and for what it can't, why and what would help."),
		func(ctx context.Context, _ *struct{}) (*struct{ Body httpapi.Runtimes }, error) {
			runtimes := s.host.Runtimes(ctx)
			if runtimes == nil {
				runtimes = []cove.Runtime{}
			}
			return &struct{ Body httpapi.Runtimes }{httpapi.Runtimes{Runtimes: runtimes}}, nil
		})
}
