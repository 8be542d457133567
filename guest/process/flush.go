package process

import (
	"context"
	"net/http"
)

// Flusher is an http.ResponseWriter whose flushes can be put off: Connect flushes after
// each message, also after the last, behind which the end of the stream and then that of
// the reply follow at once. As one write they wake the client once.
type Flusher struct {
	http.ResponseWriter
	lazy bool
}

type flusherKey struct{}

// WithFlusher returns a Flusher around w, and the request for the handler that may put its
// flushes off.
func WithFlusher(w http.ResponseWriter, r *http.Request) (*Flusher, *http.Request) {
	f := &Flusher{ResponseWriter: w}
	return f, r.WithContext(context.WithValue(r.Context(), flusherKey{}, f))
}

// Flush sends what is written so far.
func (f *Flusher) Flush() {
	if f.lazy {
		return
	}
	_ = http.NewResponseController(f.ResponseWriter).Flush()
}

// Unwrap gives http.ResponseController the writer.
func (f *Flusher) Unwrap() http.ResponseWriter { return f.ResponseWriter }

// flushAtEnd puts further flushes off until the handler of ctx's request returns.
func flushAtEnd(ctx context.Context) {
	if f, ok := ctx.Value(flusherKey{}).(*Flusher); ok {
		f.lazy = true
	}
}
