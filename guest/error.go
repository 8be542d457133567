package guest

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"

	"connectrpc.com/connect"

	"github.com/covehq/cove"
	"github.com/covehq/cove/guest/process"
	"github.com/covehq/cove/guest/wire"
)

// errorInterceptor turns the errors of services into Connect's.
type errorInterceptor struct{}

// WrapUnary wraps a call with one request and one reply.
func (errorInterceptor) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, request connect.AnyRequest) (connect.AnyResponse, error) {
		response, err := next(ctx, request)
		return response, wireError(err)
	}
}

// WrapStreamingClient is for clients, which this is not.
func (errorInterceptor) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

// WrapStreamingHandler wraps a call with a stream.
func (errorInterceptor) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) error {
		return wireError(next(ctx, conn))
	}
}

// wireError makes the Connect error for err.
func wireError(err error) error {
	var ready *connect.Error
	if err == nil || errors.As(err, &ready) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	code := cove.CodeOf(err)
	failed := connect.NewError(wire.Connect(code), errors.New(message(err)))
	failed.Meta().Set(wire.CodeHeader, string(code))
	if hint := cove.HintOf(err); hint != "" {
		failed.Meta().Set(wire.HintHeader, headerText(hint))
	}
	if exit := cove.ExitOf(err); exit != 0 {
		failed.Meta().Set(wire.ExitHeader, strconv.Itoa(exit))
	}
	return failed
}

// message is what went wrong, without the operation: the caller knows what it asked for.
func message(err error) string {
	if e, ok := err.(*cove.Error); ok && e.Err != nil {
		return e.Err.Error()
	}
	return err.Error()
}

// headerText makes a text fit for a header.
func headerText(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
}

// reply makes a handler of a function that returns an error instead of writing one. After
// the reply has begun, an error breaks the connection, so that the client can't take half
// a reply for a whole one.
func reply(serve func(http.ResponseWriter, *http.Request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		begun := &beginning{ResponseWriter: w}
		err := serve(begun, r)
		switch {
		case err == nil:
		case begun.begun:
			panic(http.ErrAbortHandler)
		default:
			writeError(w, err)
		}
	}
}

// writeError answers with an error as E2B's agent does.
func writeError(w http.ResponseWriter, err error) {
	code := cove.CodeOf(err)
	status := wire.Status(code)
	if own, ok := err.(interface{ Status() int }); ok {
		status = own.Status()
	}
	header := w.Header()
	for _, name := range []string{"Content-Length", "Content-Encoding", "Etag", "Last-Modified", "Accept-Ranges", "Trailer"} {
		header.Del(name)
	}
	header.Set("Content-Type", "application/json")
	header.Set(wire.CodeHeader, string(code))
	if hint := cove.HintOf(err); hint != "" {
		header.Set(wire.HintHeader, headerText(hint))
	}
	body, _ := json.Marshal(map[string]any{"code": status, "message": message(err)})
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

// beginning notes whether a reply has begun.
type beginning struct {
	http.ResponseWriter
	begun bool
}

// WriteHeader begins the reply.
func (b *beginning) WriteHeader(status int) {
	b.begun = b.begun || status >= http.StatusOK || status == http.StatusSwitchingProtocols
	b.ResponseWriter.WriteHeader(status)
}

// Write begins the reply too.
func (b *beginning) Write(p []byte) (int, error) {
	b.begun = true
	return b.ResponseWriter.Write(p)
}

// Unwrap gives http.ResponseController the writer.
func (b *beginning) Unwrap() http.ResponseWriter { return b.ResponseWriter }

// withLazyFlush lets handlers put off their last flush.
func withLazyFlush(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(process.WithFlusher(w, r))
	})
}

// withoutZeroTimeout takes a Connect timeout of 0 off a request: E2B's clients mean none
// by it, Connect an expired one.
func withoutZeroTimeout(next http.Handler) http.Handler {
	const name = "Connect-Timeout-Ms"
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if value := r.Header.Get(name); value != "" && strings.Trim(value, "0") == "" {
			r.Header.Del(name)
		}
		next.ServeHTTP(w, r)
	})
}
