package server

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net/http"
	"path"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/internal/httpapi"
)

// requestInfo is what is known about a request in progress.
type requestInfo struct {
	id     string
	log    *slog.Logger // of the server
	route  string       // the pattern that matched; "" for none
	at     string       // the path as the log has it; "" for the path
	key    string       // name of the key that it was made with
	client string       // its address; "" for that of the connection
	late   atomic.Bool  // its body did not arrive in time, whatever became of that
}

type requestKey struct{}

// infoOf returns what is known about the request that ctx belongs to.
func infoOf(ctx context.Context) *requestInfo {
	if info, ok := ctx.Value(requestKey{}).(*requestInfo); ok {
		return info
	}
	return &requestInfo{log: slog.New(slog.DiscardHandler)}
}

// ServeHTTP answers one request of the API.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.answer(w, r, &s.active, func(reply *response, r *http.Request, info *requestInfo) {
		if err := s.origins.Check(r); err != nil {
			s.fail(reply, r, foreignOrigin())
			return
		}
		pattern, handle := s.match(r)
		info.route = pattern
		handle(reply, r)
	})
}

// answer has one request answered: it names and bounds it, and at its end measures and
// logs it.
func (s *Server) answer(w http.ResponseWriter, r *http.Request, counted *active, handle func(*response, *http.Request, *requestInfo)) {
	begin := time.Now()
	info := &requestInfo{id: requestID(r), log: s.log}
	r = r.WithContext(context.WithValue(r.Context(), requestKey{}, info))
	reply := newResponse(w, s.options.WriteTimeout)
	reply.Header().Set(httpapi.HeaderRequestID, info.id)
	active := counted.enter()
	defer counted.leave()
	defer func() {
		failure := recover()
		aborted := failure != nil && (failure == http.ErrAbortHandler || reply.wrote)
		if failure != nil && failure != http.ErrAbortHandler {
			s.recovered(reply, r, failure)
		}
		if !aborted {
			reply.finish()
		}
		s.finished(reply, r, info, time.Since(begin))
		if aborted {
			panic(http.ErrAbortHandler) // closes the connection, so that the client notices
		}
	}()
	if active > s.options.MaxRequests && r.URL.Path != "/healthz" {
		s.fail(reply, r, cove.Errorf(cove.Exhausted, "", "", "too many requests are in progress", "try again in a moment"))
		return
	}
	handle(reply, r, info)
}

// match returns the pattern of the route that a request takes, "" where there is none, and
// what answers it.
func (s *Server) match(r *http.Request) (pattern string, handle func(*response, *http.Request)) {
	escaped := r.URL.EscapedPath()
	if target, ok := parsePortPath(escaped); ok {
		// Not by the mux, which would redirect a path that it finds unclean.
		return portRoute, func(w *response, r *http.Request) { s.proxyPort(w, r, target) }
	}
	handler, pattern := s.mux.Handler(r)
	if pattern == "" || path.Clean(escaped) != escaped {
		return "", func(w *response, r *http.Request) { s.noRoute(w, r, handler) }
	}
	return pattern, func(w *response, r *http.Request) { s.mux.ServeHTTP(w, r) }
}

// noRoute answers with 405 where another method would do, else with 404.
func (s *Server) noRoute(w *response, r *http.Request, handler http.Handler) {
	refusal := &refusal{header: http.Header{}}
	handler.ServeHTTP(refusal, r)
	at := r.Method + " " + r.URL.Path
	if allow := refusal.header.Get("Allow"); refusal.status == http.StatusMethodNotAllowed && allow != "" {
		w.Header().Set("Allow", allow)
		s.failStatus(w, r, http.StatusMethodNotAllowed, cove.Errorf(cove.Invalid, "", "",
			"there is no "+at, "use one of "+allow))
		return
	}
	s.fail(w, r, cove.Errorf(cove.NotFound, "", "", "there is no "+at, "see /docs for what there is"))
}

// refusal takes what http.ServeMux says about a request that it does not route.
type refusal struct {
	header http.Header
	status int
}

// Header returns the headers that were set.
func (r *refusal) Header() http.Header { return r.header }

// Write drops the text.
func (r *refusal) Write(p []byte) (int, error) { return len(p), nil }

// WriteHeader notes the status.
func (r *refusal) WriteHeader(status int) { r.status = status }

// recovered turns a panic into an internal error, where nothing was sent yet.
func (s *Server) recovered(w *response, r *http.Request, failure any) {
	if w.writeErr != nil {
		return // huma panics when a client goes away in the middle of a reply
	}
	s.log.ErrorContext(r.Context(), "panic", "request_id", infoOf(r.Context()).id,
		"panic", fmt.Sprint(failure), "stack", string(debug.Stack()))
	if !w.wrote {
		s.write(w, http.StatusInternalServerError, internalError(r.Context()))
	}
}

// finished measures and logs a request. The log has no query, since that may name things
// that are nobody's business, and of a proxied port only which it is.
func (s *Server) finished(w *response, r *http.Request, info *requestInfo, took time.Duration) {
	s.metrics.observe(info.route, r.Method, w.statusCode(), took)
	level := slog.LevelInfo
	switch {
	case r.Context().Err() != nil:
		// The client went away, whatever that made of the status.
	case w.statusCode() >= 500:
		level = slog.LevelWarn
	case info.route == "GET /healthz" || info.route == "GET /metrics":
		level = slog.LevelDebug
	}
	if !s.log.Enabled(r.Context(), level) {
		return
	}
	at := cmp.Or(info.at, r.URL.Path)
	if target, ok := parsePortPath(r.URL.EscapedPath()); ok && info.at == "" {
		at = target.prefix + "/…"
	}
	s.log.LogAttrs(r.Context(), level, "request",
		slog.String("request_id", info.id),
		slog.String("method", r.Method),
		slog.String("path", at),
		slog.String("route", info.route),
		slog.Int("status", w.statusCode()),
		slog.Int64("bytes", w.bytes),
		slog.Float64("ms", float64(took.Microseconds())/1000),
		slog.String("client", cmp.Or(info.client, r.RemoteAddr)),
		slog.String("key", info.key),
		slog.Bool("left", r.Context().Err() != nil),
	)
}

// requestID returns the caller's id for the request where that is harmless, else a new one.
func requestID(r *http.Request) string {
	const longest = 64
	id := r.Header.Get(httpapi.HeaderRequestID)
	harmless := id != "" && len(id) <= longest && strings.Trim(id,
		"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") == ""
	if harmless {
		return id
	}
	return strings.ToLower(rand.Text())
}

func foreignOrigin() error {
	return cove.Errorf(cove.Forbidden, "", "", "the request comes from a web page of another origin",
		"call the API from a program, or from a page that this server serves")
}
