package sandbox

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/covehq/cove"
)

// No kernel tells who asks that a port is being listened on, neither Linux without
// privileges nor gVisor. So the guest is asked again and again, but only while somebody
// wants to know: fast after a change, since programs open their ports together, and then
// slower.
const (
	fastLook = 250 * time.Millisecond
	slowLook = time.Second
	// lookTimeout bounds what a guest may take to say which ports there are.
	lookTimeout = 5 * time.Second
	// mostChanges are told after one look, the others after the next ones: a guest that
	// opens and closes thousands must not push other sandboxes' events out of the ring.
	mostChanges = 8
	// mostWatched bounds the open ports of which a sandbox's watch keeps track.
	mostWatched = 256
)

// portWatch tells of one sandbox's ports that open and close.
type portWatch struct {
	mu     sync.Mutex
	wanted int // by how many
	stop   context.CancelFunc
	told   map[int]cove.ListeningPort // those that are open, as subscribers know it
}

// hostPortWatch has the ports of all sandboxes watched.
type hostPortWatch struct {
	mu     sync.Mutex
	wanted int
	stop   context.CancelFunc
}

// WatchPorts has the ports of a sandbox watched, of every one if it is nil, until the
// returned function is called: cove.EventPortOpened and cove.EventPortClosed are
// published. Each port is told once, whoever watches. Watching is no use of a sandbox,
// which may be idle all the same.
func (h *Host) WatchPorts(only *Sandbox) (stop func()) {
	if only != nil {
		return only.watchPorts()
	}
	w := &h.ports
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.wanted++; w.wanted == 1 {
		ctx, cancel := context.WithCancel(h.ctx)
		w.stop = cancel
		next := h.events.start(FromNow)
		h.spawn(func() { h.watchAllPorts(ctx, next) })
	}
	return sync.OnceFunc(func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.wanted--; w.wanted == 0 {
			w.stop()
		}
	})
}

// watchAllPorts watches the ports of the sandboxes that there are, and of those that
// the events from next on tell of, until ctx ends.
func (h *Host) watchAllPorts(ctx context.Context, next uint64) {
	watched := make(map[string]func())
	defer func() {
		for _, release := range watched {
			release()
		}
	}()
	watch := func(s *Sandbox) {
		if watched[s.id] == nil && s.life.Err() == nil {
			watched[s.id] = s.watchPorts()
		}
	}
	for behind := true; ; {
		if behind {
			for _, s := range h.all() {
				watch(s)
			}
		}
		batch, changed, err := h.events.read(next)
		if behind = errors.Is(err, cove.Exhausted); behind {
			next = h.events.start(FromNow)
			continue
		}
		if err != nil {
			return // the host closes
		}
		for _, event := range batch {
			next++
			switch event.Type {
			case cove.EventRunning:
				if s, err := h.Sandbox(ctx, event.Sandbox.ID); err == nil {
					watch(s)
				}
			case cove.EventStopped, cove.EventFailed, cove.EventRemoved:
				if release := watched[event.Sandbox.ID]; release != nil {
					release()
					delete(watched, event.Sandbox.ID)
				}
			}
		}
		if len(batch) > 0 {
			continue
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// watchPorts has the sandbox's ports watched until release is called.
func (s *Sandbox) watchPorts() (release func()) {
	w := &s.ports
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.wanted++; w.wanted == 1 {
		ctx, cancel := context.WithCancel(s.life)
		w.stop = cancel
		s.host.spawn(func() { s.followPorts(ctx) })
	}
	return sync.OnceFunc(func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.wanted--; w.wanted == 0 {
			w.stop()
		}
	})
}

// followPorts looks at the ports until ctx ends.
func (s *Sandbox) followPorts(ctx context.Context) {
	for pause := fastLook; ctx.Err() == nil; pause = min(pause*3/2, slowLook) {
		if s.lookAtPorts(ctx) {
			pause = fastLook
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
}

// lookAtPorts tells what has changed since the last look, and reports whether something
// had. A guest that can't be asked now is asked next time.
func (s *Sandbox) lookAtPorts(ctx context.Context) bool {
	s.mu.Lock()
	record, client := s.record, s.client
	s.mu.Unlock()
	if record.State != cove.StateRunning || client == nil {
		return false
	}
	asking, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	ports, err := client.ListeningPorts(asking)
	if err != nil {
		return false
	}
	s.ports.mu.Lock()
	defer s.ports.mu.Unlock()
	if ctx.Err() != nil {
		return false // somebody else looks by now, or nobody wants to know
	}
	changes := s.ports.compare(ports)
	for _, change := range changes {
		s.host.events.publishPort(change.kind, record, &change.port)
	}
	return len(changes) > 0
}

type portChange struct {
	kind cove.EventType
	port cove.ListeningPort
}

// compare returns what is to be told of the ports that are open now, and takes it for
// told. A port on which several sockets listen is one. The caller holds mu.
func (w *portWatch) compare(now []cove.ListeningPort) []portChange {
	sortPorts(now)
	open := make(map[int]cove.ListeningPort)
	for _, port := range now {
		if _, ok := open[port.Port]; !ok && len(open) < mostWatched {
			open[port.Port] = port
		}
	}
	var changes []portChange
	for _, number := range slices.Sorted(maps.Keys(w.told)) {
		if _, ok := open[number]; !ok && len(changes) < mostChanges {
			changes = append(changes, portChange{cove.EventPortClosed, w.told[number]})
			delete(w.told, number)
		}
	}
	for _, number := range slices.Sorted(maps.Keys(open)) {
		if _, ok := w.told[number]; !ok && len(changes) < mostChanges && len(w.told) < mostWatched {
			if w.told == nil {
				w.told = make(map[int]cove.ListeningPort)
			}
			w.told[number] = open[number]
			changes = append(changes, portChange{cove.EventPortOpened, open[number]})
		}
	}
	return changes
}
