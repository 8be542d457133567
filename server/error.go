package server

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"

	"github.com/covehq/cove"
	"github.com/covehq/cove/internal/httpapi"
)

// retryAfter is what a client is told that may try again, in seconds.
const retryAfter = 1

// problem is an error on its way through huma, which sends it with its status, its
// headers, and its fields as JSON.
type problem struct {
	httpapi.ErrorReply
	status int
}

// Error returns the message.
func (p *problem) Error() string { return p.ErrorReply.Error.Message }

// GetStatus returns the HTTP status.
func (p *problem) GetStatus() int { return p.status }

// GetHeaders returns Retry-After where trying again may help.
func (p *problem) GetHeaders() http.Header { return retryHeader(p.ErrorReply.Error.Code) }

func retryHeader(code cove.Code) http.Header {
	if code == cove.Exhausted || code == cove.Unavailable {
		return http.Header{"Retry-After": {strconv.Itoa(retryAfter)}}
	}
	return nil
}

func newProblem(ctx context.Context, err error) *problem {
	body := describe(ctx, err)
	return &problem{httpapi.ErrorReply{Error: body}, httpapi.Status(body.Code)}
}

// describe returns err as the API shows it. An internal error is logged whole and shown
// short: its text may name paths of the host.
func describe(ctx context.Context, err error) httpapi.ErrorBody {
	info := infoOf(ctx)
	if info.late.Load() {
		return httpapi.ErrorBody{Code: cove.Timeout, Message: "the body did not arrive in time", Hint: "send it faster"}
	}
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		return httpapi.ErrorBody{Code: cove.Unavailable, Message: "the request was cancelled", Hint: "try again"}
	}
	body := httpapi.Describe(err)
	if body.Code != cove.Internal {
		return body
	}
	info.log.ErrorContext(ctx, "internal error", "request_id", info.id, "route", info.route, "error", err.Error())
	return internalError(ctx)
}

func internalError(ctx context.Context) httpapi.ErrorBody {
	return httpapi.ErrorBody{
		Code: cove.Internal, Message: "internal error",
		Hint: "look for request " + infoOf(ctx).id + " in the daemon's log",
	}
}

// fail answers with an error.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	body := describe(r.Context(), err)
	s.write(w, httpapi.Status(body.Code), body)
}

// failStatus answers with an error whose status is one of HTTP's own.
func (s *Server) failStatus(w http.ResponseWriter, r *http.Request, status int, err error) {
	s.write(w, status, describe(r.Context(), err))
}

func (s *Server) write(w http.ResponseWriter, status int, body httpapi.ErrorBody) {
	for name, values := range retryHeader(body.Code) {
		w.Header()[name] = values
	}
	for _, name := range []string{"Content-Length", "Content-Encoding", "Etag", "Last-Modified", "Location"} {
		w.Header().Del(name)
	}
	w.Header().Set("Content-Type", httpapi.TypeJSON)
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	// The client may be gone, which nobody needs to hear.
	_ = json.NewEncoder(w).Encode(httpapi.ErrorReply{Error: body})
}
