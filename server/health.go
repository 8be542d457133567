package server

import (
	"context"
	"net/http"
	"runtime"

	"github.com/covehq/cove"
)

// health is the reply of GET /healthz.
type health struct {
	Status string `json:"status" enum:"ok"`
}

func (s *Server) registerHealth() {
	register(s, operation("health", http.MethodGet, "/healthz", tagDaemon, "Is the daemon there", ""),
		func(context.Context, *struct{}) (*struct{ Body health }, error) {
			return &struct{ Body health }{health{Status: "ok"}}, nil
		})
	register(s, operation("version", http.MethodGet, "/v1/version", tagDaemon, "What the daemon is", ""),
		func(context.Context, *struct{}) (*struct{ Body cove.Build }, error) {
			build := cove.Build{Version: cove.Version, API: "v1", Go: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH}
			return &struct{ Body cove.Build }{build}, nil
		})
}
