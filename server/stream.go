package server

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/covehq/cove/internal/httpapi"
)

const (
	// maxPending bounds what was produced and not yet sent. Beyond it the producer waits,
	// and with it the process that writes.
	maxPending = 256 << 10
	// keepPending is the largest buffer that a stream holds on to while nothing happens.
	keepPending = 64 << 10
)

// encoding is how a stream is written.
type encoding struct {
	contentType string
	keepAlive   []byte // sent when nothing else was for a while; may be empty
	// err appends an error to what is sent. Without it the connection is cut, so that the
	// client notices.
	err func(b []byte, body httpapi.ErrorBody) []byte
}

// put hands a piece of a stream on: appendTo appends it to what is to be sent. It waits
// while too much is pending, and fails when the client is gone.
type put func(appendTo func([]byte) []byte) error

// stream answers with what produce puts, as it comes. Many pieces that come at once are
// sent together. It returns when produce has: its error is the stream's last piece. When
// the client goes away, or does not read for too long, the context of produce ends.
func (s *Server) stream(w http.ResponseWriter, r *http.Request, e encoding, produce func(context.Context, put) error) {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	header := w.Header()
	header.Set("Content-Type", e.contentType)
	header.Set("Cache-Control", "no-store")
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("X-Accel-Buffering", "no") // nginx would hold events back
	w.WriteHeader(http.StatusOK)
	box := newOutbox()
	produced := make(chan error, 1)
	go func() {
		err := produce(ctx, func(appendTo func([]byte) []byte) error { return box.put(ctx, appendTo) })
		box.close()
		produced <- err
	}()
	err := box.sendTo(w, e.keepAlive)
	cancel()
	if failure := <-produced; err != nil || failure == nil || r.Context().Err() != nil {
		return
	} else if e.err != nil {
		_, _ = w.Write(e.err(nil, describe(r.Context(), failure)))
		return
	} else {
		describe(r.Context(), failure) // logs what is ours to know
	}
	panic(http.ErrAbortHandler)
}

// outbox holds the encoded pieces between the goroutine that produces a stream and the
// one that sends it.
type outbox struct {
	ready chan struct{} // something was put, or it was closed
	room  chan struct{} // something was taken

	mu      sync.Mutex
	pending []byte
	spare   []byte
	closed  bool
}

func newOutbox() *outbox {
	return &outbox{ready: make(chan struct{}, 1), room: make(chan struct{}, 1)}
}

// put appends a piece, waiting for room until ctx ends.
func (o *outbox) put(ctx context.Context, appendTo func([]byte) []byte) error {
	for {
		o.mu.Lock()
		if len(o.pending) < maxPending {
			o.pending = appendTo(o.pending)
			o.mu.Unlock()
			signal(o.ready)
			return nil
		}
		o.mu.Unlock()
		select {
		case <-o.room:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// close says that nothing more is put.
func (o *outbox) close() {
	o.mu.Lock()
	o.closed = true
	o.mu.Unlock()
	signal(o.ready)
}

// take returns what is pending, valid until the next take, and whether more may come.
func (o *outbox) take() (batch []byte, more bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	batch = o.pending
	o.pending, o.spare = o.spare[:0], batch
	if cap(o.spare) > keepPending && len(batch) < keepPending {
		o.spare = nil
	}
	return batch, !o.closed
}

// sendTo sends what is put until the outbox is closed. It returns the error of a write
// that failed.
func (o *outbox) sendTo(w http.ResponseWriter, keepAlive []byte) error {
	controller := http.NewResponseController(w)
	silence := time.NewTimer(httpapi.KeepAlive)
	defer silence.Stop()
	for {
		var batch []byte
		more := true
		select {
		case <-o.ready:
			batch, more = o.take()
			signal(o.room)
		case <-silence.C:
			batch = keepAlive
		}
		if len(batch) > 0 {
			if _, err := w.Write(batch); err != nil {
				return err
			}
			if err := controller.Flush(); err != nil {
				return err
			}
		}
		if !more {
			return nil
		}
		silence.Reset(httpapi.KeepAlive)
	}
}

// signal wakes whoever waits on a channel of capacity one, now or later.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
