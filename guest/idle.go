package guest

import (
	"net/http"
	"runtime/debug"
	"time"
)

// idleAfter is how long after the last request the agent counts as idle.
const idleAfter = 5 * time.Second

// trimmer gives memory back to the system when the agent becomes idle: the runtime alone
// would keep for minutes what a large listing or transfer took.
type trimmer struct {
	next  http.Handler
	timer *time.Timer
}

func newTrimmer(next http.Handler) *trimmer {
	t := &trimmer{next: next, timer: time.AfterFunc(idleAfter, debug.FreeOSMemory)}
	t.timer.Stop()
	return t
}

// ServeHTTP serves a request.
func (t *trimmer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	defer t.timer.Reset(idleAfter)
	t.next.ServeHTTP(w, r)
}

// close ends the waiting for idleness.
func (t *trimmer) close() { t.timer.Stop() }
