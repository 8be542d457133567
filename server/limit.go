package server

import (
	"container/list"
	"sync"

	"golang.org/x/time/rate"
)

// limiters are the rate limiters of many callers. Those that were used last are kept; who
// is forgotten begins anew.
type limiters struct {
	each  rate.Limit
	burst int
	most  int

	mu     sync.Mutex
	byName map[string]*list.Element
	recent *list.List // of *limited, the last used first
}

type limited struct {
	name string
	rate *rate.Limiter
}

func newLimiters(each rate.Limit, burst, most int) *limiters {
	return &limiters{each: each, burst: burst, most: most, byName: map[string]*list.Element{}, recent: list.New()}
}

// allow reports whether a caller may do one thing more now.
func (l *limiters) allow(name string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	at := l.byName[name]
	if at == nil {
		if l.recent.Len() >= l.most {
			oldest := l.recent.Back()
			delete(l.byName, l.recent.Remove(oldest).(*limited).name)
		}
		at = l.recent.PushFront(&limited{name, rate.NewLimiter(l.each, l.burst)})
		l.byName[name] = at
	}
	l.recent.MoveToFront(at)
	return at.Value.(*limited).rate.Allow()
}

// tally counts what callers have in progress. The zero value allows nothing.
type tally struct {
	most int64

	mu     sync.Mutex
	counts map[string]int64
}

// enter counts one more of a caller's, unless it has as many as it may.
func (t *tally) enter(name string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.counts[name] >= t.most {
		return false
	}
	if t.counts == nil {
		t.counts = map[string]int64{}
	}
	t.counts[name]++
	return true
}

func (t *tally) leave(name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.counts[name]--; t.counts[name] <= 0 {
		delete(t.counts, name)
	}
}
