package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

// The limits of a connection. A body has none here: operations that read JSON have their
// own, and streams are as long as they are.
const (
	readHeaderTimeout = 10 * time.Second
	idleTimeout       = 2 * time.Minute
	maxHeaderBytes    = 64 << 10
	// abandonAfter is how long Serve waits for handlers whose context has ended.
	abandonAfter = 10 * time.Second
)

// Serve serves the API on a Unix socket, to whom the mode of its file lets in, until ctx
// ends. Then it takes no more requests, ends
// the streams that only report, lets the others finish for the time of grace, and cancels
// them. It closes the listener, and returns nil after an orderly end.
func (s *Server) Serve(ctx context.Context, listener net.Listener) error {
	if at := listener.Addr(); at.Network() != "unix" {
		return errors.Join(listener.Close(), fmt.Errorf("serve: %s is no Unix socket, and would let everybody in", at))
	}
	return s.serve(ctx, listener, &http.Server{Handler: s}, &s.active)
}

// ServePreviews serves nothing but previews on a listener, until ctx ends and in the manner
// of Serve: by HTTP/1.1 and HTTP/2, with TLS where the options have it.
func (s *Server) ServePreviews(ctx context.Context, listener net.Listener) error {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(s.previews.TLS == nil) // as a proxy in front may speak it
	server := &http.Server{Handler: http.HandlerFunc(s.servePreview), Protocols: protocols, TLSConfig: s.previews.TLS, DisableGeneralOptionsHandler: true}
	return s.serve(ctx, listener, server, &s.previewed)
}

func (s *Server) serve(ctx context.Context, listener net.Listener, server *http.Server, active *active) error {
	requests, cancelRequests := context.WithCancel(context.WithoutCancel(ctx))
	defer cancelRequests()
	server.ReadHeaderTimeout = readHeaderTimeout
	server.IdleTimeout = idleTimeout
	server.MaxHeaderBytes = maxHeaderBytes
	server.ErrorLog = slog.NewLogLogger(s.log.Handler(), slog.LevelDebug)
	server.BaseContext = func(net.Listener) context.Context { return requests }
	ended := make(chan error, 1)
	go func() {
		if server.TLSConfig != nil {
			ended <- server.ServeTLS(listener, "", "")
		} else {
			ended <- server.Serve(listener)
		}
	}()
	select {
	case err := <-ended:
		s.stop()
		s.mcp.Close()
		cancelRequests()
		return errors.Join(err, active.drain())
	case <-ctx.Done():
	}
	s.stop()
	s.mcp.Close()
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.options.Grace)
	defer cancel()
	if server.Shutdown(grace) != nil || !active.idleWithin(grace) {
		s.log.InfoContext(ctx, "requests are cut off by the shutdown", "requests", active.count())
	}
	cancelRequests()
	server.Close()
	<-ended
	return active.drain()
}

// idleWithin waits until ctx ends for requests, those included whose connection
// http.Server has given away: terminals and upgraded ports.
func (a *active) idleWithin(ctx context.Context) bool {
	select {
	case <-a.idle():
		return true
	case <-ctx.Done():
		return false
	}
}

// drain waits for the handlers, whose contexts have ended.
func (a *active) drain() error {
	ctx, cancel := context.WithTimeout(context.Background(), abandonAfter)
	defer cancel()
	if !a.idleWithin(ctx) {
		return errors.New("requests did not end with their context")
	}
	return nil
}

// active counts the requests in progress.
type active struct {
	mu      sync.Mutex
	n       int64
	waiting []chan struct{} // closed when n is 0
}

// enter counts a request and returns how many there are with it.
func (a *active) enter() int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.n++
	return a.n
}

func (a *active) leave() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.n--
	if a.n > 0 {
		return
	}
	for _, done := range a.waiting {
		close(done)
	}
	a.waiting = nil
}

func (a *active) count() int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.n
}

// idle returns a channel that is closed at the next moment without requests.
func (a *active) idle() <-chan struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()
	done := make(chan struct{})
	if a.n == 0 {
		close(done)
	} else {
		a.waiting = append(a.waiting, done)
	}
	return done
}
