// Package daiv provides the HTTP API of daiv-sandbox, as its 0.1 series has it, over
// one-shot runs: POST /api/v1/run/commands/ and /api/v1/run/code/, GET /-/health/ and
// /-/version/. Its callers change the URL and nothing else; docs/migrate/daiv-sandbox.md
// says what differs.
package daiv

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/internal/httpapi"
	"github.com/covehq/cove/key"
	"github.com/covehq/cove/run"
	"github.com/covehq/cove/sandbox"
)

// Options configures a Server. Host and Key are needed.
type Options struct {
	Host *sandbox.Host
	// Key is what callers send as X-API-Key.
	Key string
	// Keys are further keys, of scope run. Default: none.
	Keys *key.Ring
	// Spec is what every sandbox is, but for its image, which the request names.
	Spec cove.Spec
	// CodeImage is what run/code runs in: an image with uv, or with python3 and pip.
	// Default DefaultCodeImage.
	CodeImage string
	// MaxTime is the longest time that the commands of a request may take. Default 10 m.
	MaxTime time.Duration
	// Spool is a directory for what runs move. Default: the system's for temporary files.
	Spool string
	// Logger gets internal errors whole. Default: nothing is logged.
	Logger *slog.Logger
}

// DefaultCodeImage is the image that daiv-sandbox runs code in.
const DefaultCodeImage = "ghcr.io/astral-sh/uv:python3.12-bookworm-slim"

const (
	owner          = "daiv-sandbox" // of the sandboxes of callers with Options.Key
	defaultMaxTime = 10 * time.Minute
	maxBody        = 64 << 20
	bodyTimeout    = 2 * time.Minute
	grace          = 5 * time.Second
)

// Server is the API. It is an http.Handler; Serve runs it on a listener.
type Server struct {
	options Options
	key     [sha256.Size]byte
	runs    *run.Runner
	mux     *http.ServeMux
}

// New returns a Server. The error is cove.Invalid for options that lack a key.
func New(o Options) (*Server, error) {
	if o.Key == "" {
		return nil, cove.Errorf(cove.Invalid, "serve daiv", "", "there is no key for the API of daiv-sandbox", "set DAIV_SANDBOX_API_KEY")
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	o.MaxTime = cmp.Or(o.MaxTime, defaultMaxTime)
	o.CodeImage = cmp.Or(o.CodeImage, DefaultCodeImage)
	s := &Server{options: o, key: sha256.Sum256([]byte(o.Key)), mux: http.NewServeMux()}
	s.runs = run.New(run.Options{Host: o.Host, Spool: o.Spool, Logger: o.Logger})
	// Its routes answer below /api/v1 and, behind a proxy that cuts that off, at the root.
	for _, prefix := range []string{"", "/api/v1"} {
		s.route(prefix+"/run/commands", http.MethodPost, s.guarded(s.commands))
		s.route(prefix+"/run/code", http.MethodPost, s.guarded(s.code))
		s.route(prefix+"/-/health", http.MethodGet, func(w http.ResponseWriter, _ *http.Request) {
			reply(w, http.StatusOK, map[string]string{"status": "ok"})
		})
		s.route(prefix+"/-/version", http.MethodGet, func(w http.ResponseWriter, _ *http.Request) {
			reply(w, http.StatusOK, map[string]string{"version": cove.Version})
		})
	}
	s.mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { refuse(w, http.StatusNotFound, "Not Found") })
	return s, nil
}

// route registers a path, with a slash at its end or without.
func (s *Server) route(path, method string, handle http.HandlerFunc) {
	only := func(w http.ResponseWriter, r *http.Request) {
		if r.Method != method {
			w.Header().Set("Allow", method)
			refuse(w, http.StatusMethodNotAllowed, "Method Not Allowed")
			return
		}
		handle(w, r)
	}
	s.mux.HandleFunc(path+"/{$}", only)
	s.mux.HandleFunc(path, only)
}

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// Serve serves the API on a listener until ctx ends, and then for a time of grace what is
// in progress. It closes the listener, and returns nil after an orderly end.
func (s *Server) Serve(ctx context.Context, listener net.Listener) error {
	requests, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	server := &http.Server{
		Handler: s, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
		ErrorLog:    slog.NewLogLogger(s.options.Logger.Handler(), slog.LevelDebug),
		BaseContext: func(net.Listener) context.Context { return requests },
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
	defer cancel()
	err := server.Shutdown(ending)
	if errors.Is(err, context.DeadlineExceeded) {
		// What is cut off removes its sandbox before it ends.
		cut()
		ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
		defer cancel()
		_ = server.Shutdown(ending)
		err = server.Close()
	}
	<-ended
	return err
}

// guarded answers only to who has a key.
func (s *Server) guarded(handle func(http.ResponseWriter, *http.Request)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		sent := r.Header.Get(httpapi.HeaderAPIKey)
		r.Header.Del(httpapi.HeaderAPIKey)
		if sent == "" {
			refuse(w, http.StatusForbidden, "API Key header is missing")
			return
		}
		caller, life, ok := s.caller(sent)
		if !ok {
			refuse(w, http.StatusForbidden, "Invalid API Key")
			return
		}
		ctx, cancel := context.WithCancel(sandbox.As(r.Context(), caller))
		defer cancel()
		defer context.AfterFunc(life, cancel)()
		handle(w, r.WithContext(ctx))
	}
}

// caller returns who has a key, and a context that ends with the key. It compares hashes,
// so that the time it takes tells nothing.
func (s *Server) caller(sent string) (sandbox.Caller, context.Context, bool) {
	sum := sha256.Sum256([]byte(sent))
	if subtle.ConstantTimeCompare(sum[:], s.key[:]) == 1 {
		return sandbox.Caller{Owner: owner}, context.Background(), true
	}
	if s.options.Keys == nil {
		return sandbox.Caller{}, nil, false
	}
	grant, err := s.options.Keys.Check(sent)
	if err != nil || !grant.Scope.Includes(cove.ScopeRun) {
		return sandbox.Caller{}, nil, false
	}
	return sandbox.Caller{Owner: grant.Owner, All: grant.Scope.Includes(cove.ScopeAdmin)}, grant.Life(), true
}

// reply answers with JSON.
func reply(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", httpapi.TypeJSON)
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	_ = encoder.Encode(body) // fails when the client is gone
}

// refuse answers with an error as daiv-sandbox writes it.
func refuse(w http.ResponseWriter, status int, detail string) {
	if status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "1")
	}
	reply(w, status, map[string]string{"detail": detail})
}

// fail answers with an error of ours. An internal one is logged whole and told short.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	body := httpapi.Describe(err)
	if body.Code == cove.Internal {
		s.options.Logger.ErrorContext(r.Context(), "internal error", "path", r.URL.Path, "error", err.Error())
		refuse(w, http.StatusInternalServerError, "internal error; look into the daemon's log")
		return
	}
	refuse(w, httpapi.Status(body.Code), strings.TrimSpace(body.Message+"\n"+body.Hint))
}
