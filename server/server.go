// Package server provides the HTTP API over a sandbox.Host: JSON operations whose
// OpenAPI document is generated from the handlers, streams of output and events, the
// terminals and ports of sandboxes, and the metrics.
//
// Callers are hostile. Bodies, headers and the number of requests are bounded, a client
// that does not read is dropped, and every error has the same envelope.
package server

import (
	"cmp"
	"context"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/covehq/cove/key"
	"github.com/covehq/cove/run"
	"github.com/covehq/cove/sandbox"
	"github.com/covehq/cove/server/mcp"
)

// Options configures a Server. Everything but Host may be left out.
type Options struct {
	// Host does the work.
	Host *sandbox.Host
	// Logger gets one line for each request, and every internal error whole. Default:
	// nothing is logged.
	Logger *slog.Logger
	// Metrics is where the server registers its metrics, and what /metrics shows.
	// Default: a registry of its own.
	Metrics *prometheus.Registry
	// WriteTimeout is how long a client may read nothing before it is dropped. Default 60 s.
	WriteTimeout time.Duration
	// BodyTimeout is how long a JSON body may take to arrive. Default 2 minutes.
	BodyTimeout time.Duration
	// Grace is how long Serve lets requests finish after its context has ended. Default 5 s.
	Grace time.Duration
	// MaxRequests bounds the requests in progress, streams included; more are refused
	// with cove.Exhausted. Default 4096.
	MaxRequests int64
	// Spool is a directory for what one-shot runs move. Default: that of the system for
	// temporary files.
	Spool string
	// Previews says how previews are served. Default: there are none.
	Previews *PreviewOptions
	// Keys are those that open the door. Default: there are none, and none can be made.
	Keys *key.Ring
	// Door says how the API is served to the network. Default: it is not.
	Door *DoorOptions
}

const (
	defaultWriteTimeout = 60 * time.Second
	defaultBodyTimeout  = 2 * time.Minute
	defaultGrace        = 5 * time.Second
	defaultMaxRequests  = 4096
)

// Server is the HTTP API. Serve runs it on a Unix socket, ServeDoor on the network, with
// the limits that it needs. It may not be used again after one of them has returned.
//
// It is also an http.Handler, that asks nobody for a key: who can call it is trusted.
type Server struct {
	host    *sandbox.Host
	log     *slog.Logger
	options Options

	mux     *http.ServeMux
	api     huma.API
	routes  []string // patterns, as the metrics name them
	origins *http.CrossOriginProtection
	ports   *httputil.ReverseProxy
	metrics *metrics
	mcp     *mcp.HTTP

	runs         *run.Runner
	previews     *PreviewOptions        // nil without any
	previewProxy *httputil.ReverseProxy // over the transport of ports

	keys *key.Ring // nil without any
	door *door     // nil without one

	active    active
	previewed active // on the listener of previews
	doored    active // on that of the door
	// stopping ends when the server shuts down: streams that only tell what happens end
	// then, while commands may go on for the time of grace.
	stopping context.Context
	stop     context.CancelFunc
}

// New returns a Server.
func New(o Options) *Server {
	o = o.withDefaults()
	s := &Server{
		host: o.Host, log: o.Logger, options: o, previews: o.Previews, keys: o.Keys,
		mux: http.NewServeMux(), origins: http.NewCrossOriginProtection(),
	}
	s.stopping, s.stop = context.WithCancel(context.Background())
	if o.Door != nil {
		s.door = newDoor(*o.Door, o.MaxRequests)
	}
	s.runs = run.New(run.Options{Host: o.Host, Spool: o.Spool, Logger: o.Logger})
	s.metrics = newMetrics(s, o.Metrics)
	s.ports = s.newPortProxy()
	s.previewProxy = s.newPreviewProxy(s.ports.Transport)
	config := openAPIConfig()
	config.Transformers = []huma.Transformer{transformError}
	s.api = humago.New(recorder{s}, config)
	s.api.UseMiddleware(s.adapt)
	s.mcp = s.newMCP()
	s.register()
	tidyOpenAPI(s.api.OpenAPI())
	return s
}

func (o Options) withDefaults() Options {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Metrics == nil {
		o.Metrics = prometheus.NewRegistry()
	}
	o.WriteTimeout = cmp.Or(o.WriteTimeout, defaultWriteTimeout)
	o.BodyTimeout = cmp.Or(o.BodyTimeout, defaultBodyTimeout)
	o.Grace = cmp.Or(o.Grace, defaultGrace)
	o.MaxRequests = cmp.Or(o.MaxRequests, defaultMaxRequests)
	return o
}

// register adds every route. Each file of this package adds those of its noun.
func (s *Server) register() {
	s.registerSandboxes()
	s.registerStats()
	s.registerExec()
	s.registerRun()
	s.registerTools()
	s.registerProcesses()
	s.registerOutput()
	s.registerTerminals()
	s.registerFiles()
	s.registerTransfers()
	s.registerWatch()
	s.registerListening()
	s.registerPorts()
	s.registerPreviews()
	s.registerNetwork()
	s.registerSecrets()
	s.registerKeys()
	s.registerImages()
	s.registerRuntimes()
	s.registerMCP()
	s.registerEvents()
	s.registerHealth()
	s.registerMetrics()
	s.registerDocs()
}

// recorder is the mux as huma sees it; it notes every pattern.
type recorder struct{ s *Server }

// HandleFunc registers a route.
func (r recorder) HandleFunc(pattern string, handler func(http.ResponseWriter, *http.Request)) {
	r.s.routes = append(r.s.routes, pattern)
	r.s.mux.HandleFunc(pattern, handler)
}

// ServeHTTP is part of humago's interface.
func (r recorder) ServeHTTP(w http.ResponseWriter, req *http.Request) { r.s.ServeHTTP(w, req) }

// passive returns a context for a stream that nothing depends on: it also ends when the
// server shuts down.
func (s *Server) passive(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(s.stopping, cancel)
	return ctx, func() {
		stop()
		cancel()
	}
}
