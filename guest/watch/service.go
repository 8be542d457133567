package watch

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/guest/account"
	"github.com/covehq/cove/guest/file"
	wire "github.com/covehq/cove/guest/wire/gen/filesystem"
)

// maxWatchers bounds the watchers of a sandbox. One that is polled and has not been for
// abandoned gives way to a new one.
const (
	maxWatchers = 64
	abandoned   = 10 * time.Minute
)

// Service serves the watching RPCs of filesystem.Filesystem.
type Service struct {
	book *account.Book

	mu     sync.Mutex
	count  int
	closed bool
	polled map[string]*polled
}

// polled is a watcher whose events are fetched by calls.
type polled struct {
	*watcher
	last time.Time // of a fetch
}

// NewService returns a Service for the users in book.
func NewService(book *account.Book) *Service {
	return &Service{book: book, polled: map[string]*polled{}}
}

// Close ends the watchers that are polled. Streams end with their requests.
func (s *Service) Close() {
	s.mu.Lock()
	s.closed = true
	watchers := s.polled
	s.polled = map[string]*polled{}
	s.mu.Unlock()
	for _, w := range watchers {
		w.close()
	}
}

// open begins to watch; release is due for each watcher that it returns.
func (s *Service) open(header http.Header, path string, recursive, entries, network bool) (*watcher, error) {
	place, err := file.At(s.book, header, path)
	if err != nil {
		return nil, err
	}
	if err := s.admit(); err != nil {
		return nil, err
	}
	w, err := newWatcher(s.book, place, recursive, entries, network)
	if err != nil {
		s.leave()
		return nil, err
	}
	return w, nil
}

func (s *Service) release(w *watcher) {
	w.close()
	s.leave()
}

func (s *Service) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count--
}

// admit counts one more watcher.
func (s *Service) admit() error {
	s.mu.Lock()
	var oldest string
	for id, w := range s.polled {
		if oldest == "" || w.last.Before(s.polled[oldest].last) {
			oldest = id
		}
	}
	var replaced *polled
	if s.count >= maxWatchers && oldest != "" && time.Since(s.polled[oldest].last) > abandoned {
		replaced = s.polled[oldest]
		delete(s.polled, oldest)
		s.count--
	}
	full := s.count >= maxWatchers || s.closed
	if !full {
		s.count++
	}
	s.mu.Unlock()
	if replaced != nil {
		replaced.close()
	}
	if full {
		return cove.Errorf(cove.Exhausted, "", "", fmt.Sprintf("there are %d watchers", maxWatchers), "remove some, or watch a directory further up with recursive")
	}
	return nil
}

// WatchDir streams what happens in a directory.
func (s *Service) WatchDir(ctx context.Context, header http.Header, request *wire.WatchDirRequest, send func(*wire.WatchDirResponse) error) error {
	w, err := s.open(header, request.Path, request.Recursive, request.IncludeEntry, request.AllowNetworkMounts)
	if err != nil {
		return err
	}
	defer s.release(w)
	if err := send(&wire.WatchDirResponse{Event: &wire.WatchDirResponse_Start{Start: &wire.WatchDirResponse_StartEvent{}}}); err != nil {
		return err
	}
	interval := keepaliveOf(header)
	keepalive := time.NewTimer(interval)
	defer keepalive.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-keepalive.C:
			if err := send(&wire.WatchDirResponse{Event: &wire.WatchDirResponse_Keepalive{Keepalive: &wire.WatchDirResponse_KeepAlive{}}}); err != nil {
				return err
			}
		case <-w.ready:
			events, err := w.take()
			if err != nil {
				return err
			}
			for _, event := range events {
				if err := send(&wire.WatchDirResponse{Event: &wire.WatchDirResponse_Filesystem{Filesystem: event}}); err != nil {
					return err
				}
			}
		}
		keepalive.Reset(interval)
	}
}

// CreateWatcher begins to collect what happens in a directory.
func (s *Service) CreateWatcher(_ context.Context, header http.Header, request *wire.CreateWatcherRequest) (*wire.CreateWatcherResponse, error) {
	w, err := s.open(header, request.Path, request.Recursive, request.IncludeEntry, request.AllowNetworkMounts)
	if err != nil {
		return nil, err
	}
	id := rand.Text()
	s.mu.Lock()
	closed := s.closed
	if !closed {
		s.polled[id] = &polled{w, time.Now()}
	}
	s.mu.Unlock()
	if closed {
		s.release(w)
		return nil, cove.Errorf(cove.Unavailable, "", "", "the agent is stopping", "create a new sandbox")
	}
	return &wire.CreateWatcherResponse{WatcherId: id}, nil
}

// GetWatcherEvents fetches what has happened since the last call.
func (s *Service) GetWatcherEvents(_ context.Context, _ http.Header, request *wire.GetWatcherEventsRequest) (*wire.GetWatcherEventsResponse, error) {
	s.mu.Lock()
	w, ok := s.polled[request.WatcherId]
	if ok {
		w.last = time.Now()
	}
	s.mu.Unlock()
	if !ok {
		return nil, unknown(request.WatcherId)
	}
	events, err := w.take()
	if err != nil {
		return nil, err
	}
	return &wire.GetWatcherEventsResponse{Events: events}, nil
}

// RemoveWatcher ends the collecting.
func (s *Service) RemoveWatcher(_ context.Context, _ http.Header, request *wire.RemoveWatcherRequest) (*wire.RemoveWatcherResponse, error) {
	s.mu.Lock()
	w, ok := s.polled[request.WatcherId]
	delete(s.polled, request.WatcherId)
	s.mu.Unlock()
	if !ok {
		return nil, unknown(request.WatcherId)
	}
	s.release(w.watcher)
	return &wire.RemoveWatcherResponse{}, nil
}

func unknown(id string) error {
	return cove.Errorf(cove.NotFound, "", "", fmt.Sprintf("there is no watcher %q", id), "create one")
}

// keepaliveOf reads the time between keepalives from a request.
func keepaliveOf(header http.Header) time.Duration {
	const standard = 90 * time.Second
	interval, err := time.ParseDuration(header.Get("Keepalive-Ping-Interval") + "s")
	if err != nil || interval < time.Second || interval > 24*time.Hour {
		return standard
	}
	return interval
}
