package server

import (
	"bufio"
	"net"
	"net/http"
	"time"
)

// response is an http.ResponseWriter that drops a client which stops reading, and knows
// what was sent. http.ResponseController finds what is beneath through Unwrap.
type response struct {
	http.ResponseWriter
	controller *http.ResponseController
	timeout    time.Duration
	armed      time.Time // when the write deadline was set last
	status     int
	bytes      int64
	wrote      bool // the header was sent, or the connection was taken over
	hijacked   bool
	writeErr   error
}

func newResponse(w http.ResponseWriter, timeout time.Duration) *response {
	return &response{ResponseWriter: w, controller: http.NewResponseController(w), timeout: timeout}
}

// Unwrap is for http.ResponseController.
func (w *response) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// arm gives the next write its deadline. A tenth of the timeout may pass before it is
// renewed, since that is not free.
func (w *response) arm() {
	now := time.Now()
	if now.Sub(w.armed) < w.timeout/10 {
		return
	}
	w.armed = now
	// A writer without deadlines is one of a test.
	_ = w.controller.SetWriteDeadline(now.Add(w.timeout))
}

// WriteHeader sends the status.
func (w *response) WriteHeader(status int) {
	w.arm()
	if status >= 200 || status == http.StatusSwitchingProtocols {
		w.wrote = true
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write sends a part of the body.
func (w *response) Write(p []byte) (int, error) {
	if !w.wrote {
		w.wrote, w.status = true, http.StatusOK
	}
	w.arm()
	n, err := w.ResponseWriter.Write(p)
	w.bytes += int64(n)
	if err != nil && w.writeErr == nil {
		w.writeErr = err
	}
	return n, err
}

// FlushError sends what is buffered.
func (w *response) FlushError() error {
	if !w.wrote {
		w.wrote, w.status = true, http.StatusOK
	}
	w.arm()
	err := w.controller.Flush()
	if err != nil && w.writeErr == nil {
		w.writeErr = err
	}
	return err
}

// Flush sends what is buffered.
func (w *response) Flush() { _ = w.FlushError() }

// Hijack takes the connection over. It has no deadlines then.
func (w *response) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffered, err := w.controller.Hijack()
	if err == nil {
		w.wrote, w.hijacked, w.status = true, true, http.StatusSwitchingProtocols
	}
	return conn, buffered, err
}

// finish gives the server time to send what is still buffered.
func (w *response) finish() {
	if !w.hijacked {
		w.armed = time.Time{}
		w.arm()
	}
}

func (w *response) statusCode() int {
	if w.status == 0 {
		return http.StatusOK
	}
	return w.status
}
