package server

import (
	"errors"
	"io"
	"net/http"
	"os"
	"sync/atomic"
	"time"
)

const (
	// bodyRate is how many bytes earn a body one second more.
	bodyRate = 1 << 10
	// leaveTime is how long the rest of a body may take that nobody wants.
	leaveTime = 2 * time.Second
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
	late       *atomic.Bool // gets true for a body that did not arrive in time
}

// Read reads a piece. At the end the deadline is taken back, since it would also end the
// server's watch for a client that goes away. After an error it stays, for net/http reads
// what its handler has left of a body before it answers.
func (b *paced) Read(p []byte) (int, error) {
	begin := time.Now()
	left := b.patience + time.Duration(b.n/bodyRate)*time.Second - b.waited
	_ = b.controller.SetReadDeadline(begin.Add(left)) // a test's writer may have none
	n, err := b.ReadCloser.Read(p)
	b.n += int64(n)
	b.waited += time.Since(begin)
	if err == io.EOF {
		_ = b.controller.SetReadDeadline(time.Time{})
	}
	b.ended = b.ended || err != nil
	if errors.Is(err, os.ErrDeadlineExceeded) {
		b.late.Store(true)
	}
	return n, err
}

// leave gives net/http some time for a body that nobody has read to its end.
func (b *paced) leave(w *response, r *http.Request) {
	if r.ContentLength != 0 && !b.ended && !w.hijacked {
		_ = b.controller.SetReadDeadline(time.Now().Add(leaveTime))
	}
}
