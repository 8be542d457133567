package mcp

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/tools"
)

const (
	// maxMade bounds the sandboxes that a session has at a time.
	maxMade = 10
	// endTime bounds the removal of what a session made.
	endTime = time.Minute
)

// session is what one client's session has.
type session struct {
	daemon Daemon
	given  Session

	life  context.Context // ends when the session is to end
	stop  context.CancelFunc
	gate  chan struct{} // held while sandboxes are made and removed; guards what follows
	own   string        // id of the sandbox that tools use; "" before the first use
	made  []string      // ids to be removed at the end
	ended bool
}

func newSession(daemon Daemon, given Session) *session {
	s := &session{daemon: daemon, given: given, gate: make(chan struct{}, 1)}
	s.life, s.stop = context.WithCancel(context.Background())
	return s
}

// lock waits for the gate.
func (s *session) lock(ctx context.Context) error {
	select {
	case s.gate <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	if s.ended {
		s.unlock()
		return cove.Errorf(cove.Gone, "mcp", "", "the session has ended", "begin a new one")
	}
	return nil
}

func (s *session) unlock() { <-s.gate }

// sandbox returns the sandbox that a call is about: the one it names, else the session's
// own, which is made where there is none yet.
func (s *session) sandbox(ctx context.Context, asked string) (string, tools.Sandbox, error) {
	id, err := s.locate(ctx, asked)
	if err != nil {
		return "", nil, err
	}
	view, sandbox, err := s.daemon.Open(ctx, id)
	if err == nil && view.Reason == "" {
		return view.ID, sandbox, nil
	}
	if err != nil && !errors.Is(err, cove.NotFound) && !errors.Is(err, cove.Gone) {
		return "", nil, err
	}
	return "", nil, s.forget(ctx, id, view)
}

// locate returns the id of the sandbox that a call is about.
func (s *session) locate(ctx context.Context, asked string) (string, error) {
	if err := s.lock(ctx); err != nil {
		return "", err
	}
	defer s.unlock()
	switch {
	case asked == "" && s.own == "":
		err := s.begin(ctx)
		return s.own, err
	case asked == "":
		return s.own, nil
	case asked != s.own && !s.given.All && !slices.Contains(s.made, asked):
		return "", cove.Errorf(cove.NotFound, "find sandbox", strconv.Quote(asked), "this session has no such sandbox", "see list_sandboxes, or leave sandbox out")
	}
	return asked, nil
}

// begin provides the session's own sandbox.
func (s *session) begin(ctx context.Context) error {
	if s.given.Sandbox != "" {
		view, _, err := s.daemon.Open(ctx, s.given.Sandbox)
		s.own = view.ID
		return err
	}
	view, err := s.make(ctx, s.given.Spec)
	s.own = view.ID
	return err
}

// make makes a sandbox for the session.
func (s *session) make(ctx context.Context, spec cove.Spec) (cove.Sandbox, error) {
	if len(s.made) >= maxMade {
		return cove.Sandbox{}, cove.Errorf(cove.Exhausted, "create", "", "this session has "+strconv.Itoa(maxMade)+" sandboxes", "kill those that you need no more")
	}
	view, err := s.daemon.Create(ctx, spec, spec.Name != "")
	if err == nil && spec.Name == "" {
		s.made = append(s.made, view.ID)
	}
	return view, err
}

// forget takes a sandbox out of the session that has ended, and says so.
func (s *session) forget(ctx context.Context, id string, view cove.Sandbox) error {
	why := "the sandbox has ended"
	if view.Message != "" {
		why += ": " + view.Message
	} else if view.Reason != "" {
		why += ": " + string(view.Reason)
	}
	if err := s.lock(ctx); err != nil {
		return err
	}
	defer s.unlock()
	hint := "use another sandbox: see list_sandboxes"
	if s.own == id {
		s.own, hint = "", "the next call gets a new one; what was in this one is lost"
	}
	s.drop(id)
	return cove.Errorf(cove.Gone, "find sandbox", id, why, hint)
}

func (s *session) drop(id string) {
	s.made = slices.DeleteFunc(s.made, func(other string) bool { return other == id })
}

// kill removes a sandbox; "" is the session's own.
func (s *session) kill(ctx context.Context, asked string) (string, error) {
	if err := s.lock(ctx); err != nil {
		return "", err
	}
	defer s.unlock()
	id := asked
	if id == "" {
		id = s.own
	}
	switch {
	case id == "":
		return "", cove.Errorf(cove.NotFound, "kill", "", "this session has no sandbox yet", "there is nothing to do")
	case !s.given.All && !slices.Contains(s.made, id):
		return "", cove.Errorf(cove.Forbidden, "kill", strconv.Quote(id), "the sandbox was not made by this session", "leave it: it belongs to the user")
	}
	if err := s.daemon.Remove(ctx, id); err != nil {
		return "", err
	}
	if s.own == id {
		s.own = ""
	}
	s.drop(id)
	return id, nil
}

// end removes what was made for the session.
func (s *session) end(ctx context.Context) {
	s.gate <- struct{}{}
	defer s.unlock()
	s.ended = true
	ctx, cancel := context.WithTimeout(ctx, endTime)
	defer cancel()
	for _, id := range s.made {
		// Where that fails, the daemon is gone or its time to live ends it.
		_ = s.daemon.Remove(ctx, id)
	}
	s.made, s.own = nil, ""
}
