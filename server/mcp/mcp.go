// Package mcp provides sandboxes to the clients of the Model Context Protocol: the tools
// of package tools, a sandbox for each session, made on first use and removed at its end,
// and the files in it as resources.
//
// What calls the tools is a model, which may have been told by what it read to do harm. It
// reaches the sandboxes of its session and no others, and can't give them more than
// whoever set the session up: no network, no mounts, no other runtime.
package mcp

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/covehq/cove"
	"github.com/covehq/cove/tools"
)

// Daemon makes sandboxes, on behalf of whom the context is.
type Daemon interface {
	// Create makes a sandbox; with reuse it takes the living one of the spec's name.
	Create(ctx context.Context, spec cove.Spec, reuse bool) (cove.Sandbox, error)
	// Open returns the sandbox with this id or name.
	Open(ctx context.Context, idOrName string) (cove.Sandbox, tools.Sandbox, error)
	// Remove destroys a sandbox; it succeeds where there is none.
	Remove(ctx context.Context, id string) error
	// List returns every sandbox that may be seen.
	List(ctx context.Context) ([]cove.Sandbox, error)
}

// Options configures a Server.
type Options struct {
	Daemon Daemon
	// Version is told to clients.
	Version string
	// Logger gets what the protocol's implementation complains about. Default: nothing.
	Logger *slog.Logger
}

// Session is what a client's session is given.
type Session struct {
	// Spec is what its sandboxes are. One with a name is taken where it is there already,
	// and stays when the session ends.
	Spec cove.Spec
	// Sandbox is the id or name of one to use in place of making one; it stays too.
	Sandbox string
	// All lets the session use, see and kill every sandbox that its caller may.
	All bool
	// Owner is whose session it is: nobody else can speak in it.
	Owner string
}

// Server speaks the protocol.
type Server struct {
	daemon Daemon
	server *sdk.Server
	group  sync.WaitGroup // of the sessions

	mu       sync.Mutex
	sessions map[*sdk.ServerSession]*session
	closed   bool
}

const instructions = `The tools work in a sandbox: an isolated Linux computer of your own, made when you first use one and removed when the session ends. Nothing you do in it reaches the user's machine, and unless the user allowed it, it has no network. Files stay from one call to the next; processes, directories and variables of a shell do not. Tools take sandbox only when you made more than one.`

// New returns a Server. It is closed with Close.
func New(o Options) *Server { return build(o, nil) }

// build returns a server of some versions of the protocol; none means all.
func build(o Options, versions []string) *Server {
	s := &Server{daemon: o.Daemon, sessions: map[*sdk.ServerSession]*session{}}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	s.server = sdk.NewServer(&sdk.Implementation{Name: "cove", Title: "Cove sandboxes", Version: o.Version}, &sdk.ServerOptions{
		Instructions: instructions, Logger: o.Logger, Capabilities: &sdk.ServerCapabilities{},
		SupportedProtocolVersions: versions,
	})
	s.server.AddReceivingMiddleware(s.enter)
	for _, tool := range tools.All() {
		s.addTool(tool)
	}
	s.addLifecycle()
	s.addResources()
	return s
}

type sessionKey struct{}

// Serve speaks with one client until it has nothing more to say or ctx ends, and then
// removes what was made for it.
func (s *Server) Serve(ctx context.Context, in io.Reader, out io.Writer, given Session) error {
	ctx = context.WithValue(ctx, sessionKey{}, given)
	transport := &sdk.IOTransport{Reader: io.NopCloser(in), Writer: writeCloser{out}, MaxLineLength: maxMessage}
	err := s.server.Run(ctx, transport)
	s.Close()
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// maxMessage bounds one message of a client: it has room for a file that is written whole.
const maxMessage = 32 << 20

type writeCloser struct{ io.Writer }

// Close leaves the stream open, which is not ours.
func (writeCloser) Close() error { return nil }

// idleSession is how long a session of HTTP lives without a request. Clients go away
// without a word.
const idleSession = 30 * time.Minute

// HTTP is the protocol over HTTP, with sessions.
type HTTP struct {
	*Server
	handler http.Handler
}

// NewHTTP returns a Server of streamable HTTP.
//
// It speaks the versions of the protocol that have sessions, up to 2025-11-25: one of a
// version without has no end, at which its sandbox could be removed. Clients of later
// versions fall back to these.
func NewHTTP(o Options) *HTTP {
	s := build(o, []string{"2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"})
	return &HTTP{Server: s, handler: sdk.NewStreamableHTTPHandler(
		func(*http.Request) *sdk.Server { return s.server },
		&sdk.StreamableHTTPOptions{
			SessionTimeout: idleSession, MaxRequestBodyBytes: maxMessage, Logger: o.Logger,
			// By whose name the daemon may be called is for who serves this to say: behind a
			// proxy on loopback it has another.
			DisableLocalhostProtection: true,
		},
	)}
}

// Admit returns what answers a request, which may begin a session that is given this. It
// refuses who speaks in the session of another owner.
func (h *HTTP) Admit(r *http.Request, given Session) (http.Handler, error) {
	id := r.Header.Get("Mcp-Session-Id")
	if err := h.admit(id, given.Owner); err != nil {
		return nil, err
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodDelete {
			h.cancel(id)
		}
		h.handler.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), sessionKey{}, given)))
	}), nil
}

// maxSessions bounds the sessions at a time, and maxOwned those of one owner.
const (
	maxSessions = 1000
	maxOwned    = 100
)

// admit refuses who speaks in another one's session, and more sessions than there is room
// for.
func (s *Server) admit(id, owner string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return cove.Errorf(cove.Unavailable, "mcp", "", "the daemon is stopping", "try again in a moment")
	}
	owned := 0
	for at, session := range s.sessions {
		if session.given.Owner == owner {
			owned++
		} else if id != "" && at.ID() == id {
			return cove.Errorf(cove.NotFound, "mcp", "", "session not found", "begin a new one")
		}
	}
	if id == "" && (owned >= maxOwned || len(s.sessions) >= maxSessions) {
		return cove.Errorf(cove.Exhausted, "mcp", "", "there are too many sessions", "end those that are not used any more")
	}
	return nil
}

// cancel ends the calls of a session that are in progress.
func (s *Server) cancel(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for at, session := range s.sessions {
		if at.ID() == id {
			session.stop()
		}
	}
}

// enter notes a session at its first message.
func (s *Server) enter(next sdk.MethodHandler) sdk.MethodHandler {
	return func(ctx context.Context, method string, r sdk.Request) (sdk.Result, error) {
		at, ok := r.GetSession().(*sdk.ServerSession)
		if !ok {
			return nil, errors.New("not a session of a server")
		}
		session, err := s.session(ctx, at)
		if err != nil {
			return nil, err
		}
		// The implementation waits for the calls in progress when a session ends.
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(session.life, cancel)()
		return next(ctx, method, r)
	}
}

// session returns what is kept of a session. Until it ends, a goroutine waits to remove
// what was made for it.
func (s *Server) session(ctx context.Context, at *sdk.ServerSession) (*session, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if known := s.sessions[at]; known != nil {
		return known, nil
	}
	if s.closed {
		return nil, cove.Errorf(cove.Unavailable, "mcp", "", "the server is stopping", "begin a new session")
	}
	given, _ := ctx.Value(sessionKey{}).(Session)
	fresh := newSession(s.daemon, given)
	s.sessions[at] = fresh
	ctx = context.WithoutCancel(ctx) // for whom it is, and not for how long
	s.group.Go(func() {
		_ = at.Wait()
		fresh.stop()
		fresh.end(ctx)
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.sessions, at)
	})
	return fresh, nil
}

// Close ends the sessions, and returns when what was made for them is removed.
func (s *Server) Close() {
	s.mu.Lock()
	s.closed = true
	var open []*sdk.ServerSession
	for at, session := range s.sessions {
		session.stop()
		open = append(open, at)
	}
	s.mu.Unlock()
	for _, at := range open {
		_ = at.Close() // fails where the client closed it first
	}
	s.group.Wait()
}
