package server

import (
	"io"
	"net/http"
	"time"
)

// The pace at which a body has to arrive, while somebody wants to read it.
const (
	bodyPatience = 30 * time.Second
	bodyRate     = 1 << 10 // bytes for each further second
	// leaveTime is how long the rest of a body may take that nobody wants.
	leaveTime = 5 * time.Second
)

// unpaced reports whether a route takes what somebody types, or what a program sends when
// it likes.
func unpaced(pattern string) bool {
	return pattern == portRoute || pattern == "POST /v1/sandboxes/{id}/processes/{pid}/stdin"
}

// paced is a request body whose sender may not dawdle. Time in which nobody reads, because
// what it goes to is busy, is not the sender's.
type paced struct {
	io.ReadCloser
	controller *http.ResponseController
	patience   time.Duration
	n          int64
	waited     time.Duration
	ended      bool
}

// Read reads a piece. At the end, or an error, the deadline is taken back, since it would
// also end the server's watch for a client that goes away.
func (b *paced) Read(p []byte) (int, error) {
	begin := time.Now()
	left := b.patience + time.Duration(b.n/bodyRate)*time.Second - b.waited
	_ = b.controller.SetReadDeadline(begin.Add(left)) // a test's writer may have none
	n, err := b.ReadCloser.Read(p)
	b.n += int64(n)
	b.waited += time.Since(begin)
	if err != nil {
		b.ended = true
		_ = b.controller.SetReadDeadline(time.Time{})
	}
	return n, err
}

// leave has net/http, which reads what its handler has left of a body, not wait for long.
func (b *paced) leave(w *response, r *http.Request) {
	if r.ContentLength != 0 && !b.ended && !w.hijacked {
		_ = b.controller.SetReadDeadline(time.Now().Add(leaveTime))
	}
}
