// Package guest is the agent: process 1 of every sandbox. It starts commands, moves files,
// watches directories and connects ports for whoever holds a stream to it, and collects
// what dies.
//
// Every stream speaks HTTP, and whoever has one is the sandbox's owner: nothing inside but
// root gets one.
package guest

import (
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/covehq/cove/guest/account"
	"github.com/covehq/cove/guest/file"
	"github.com/covehq/cove/guest/flow"
	"github.com/covehq/cove/guest/outward"
	"github.com/covehq/cove/guest/process"
	"github.com/covehq/cove/guest/rpc"
	"github.com/covehq/cove/guest/watch"
	"github.com/covehq/cove/guest/wire"
	"github.com/covehq/cove/guest/wire/gen/filesystem/filesystemconnect"
	"github.com/covehq/cove/guest/wire/gen/guest/guestconnect"
	"github.com/covehq/cove/guest/wire/gen/process/processconnect"
)

// Options configures an Agent. The zero value serves in any process.
type Options struct {
	// Orphans says that this process inherits orphans, as process 1 or a subreaper, and
	// has the agent collect them. Nothing else in it may then wait for children.
	Orphans bool
	// Passwd and Group are the account files; "" is those in /etc.
	Passwd, Group string
	// Memory is how many bytes of output all processes together may retain; 0 is a
	// share of the memory that the sandbox has.
	Memory int
	// Log gets what is worth a line; nil is nowhere.
	Log io.Writer
	// Way is the way out of the sandbox, which the agent closes; nil: there is none.
	Way *outward.Way
}

// Agent serves the wire. Its methods may be called concurrently.
type Agent struct {
	book     *account.Book
	table    *process.Table
	watchers *watch.Service
	log      *log.Logger
	handler  *trimmer
	server   *http.Server
	feed     *feed
	way      *outward.Way // nil: there is none
	trust    *trust
	buffers  *flow.Buffers
	doors    sync.WaitGroup

	mu      sync.Mutex
	closers map[io.Closer]struct{} // doors and listeners
	closed  bool
}

// New returns an Agent, which serves nobody yet.
func New(o Options) *Agent {
	orDefault(&o.Passwd, "/etc/passwd")
	orDefault(&o.Group, "/etc/group")
	if o.Log == nil {
		o.Log = io.Discard
	}
	if o.Memory == 0 {
		o.Memory = outputShare(memoryLimit())
	}
	book := account.Open(o.Passwd, o.Group)
	a := &Agent{
		book:     book,
		table:    process.NewTable(process.NewReaper(o.Orphans), o.Memory),
		watchers: watch.NewService(book),
		log:      newLog(o.Log),
		feed:     newFeed(),
		way:      o.Way,
		trust:    newTrust(),
		buffers:  flow.New(),
		closers:  map[io.Closer]struct{}{},
	}
	a.handler = newTrimmer(a.routes())
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	a.server = &http.Server{
		Handler:           a.handler,
		Protocols:         protocols,
		ReadHeaderTimeout: time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          a.log,
		// One stream that nobody reads must not stop the others of its connection.
		// A carrier whose host is gone may stay open, since an engine holds it: it is asked
		// for a sign of life, so that what it carried ends.
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: 1000, MaxReceiveBufferPerStream: 256 << 10, MaxReceiveBufferPerConnection: 8 << 20,
			SendPingTimeout: 15 * time.Second, PingTimeout: 10 * time.Second,
		},
	}
	return a
}

// newLog returns the agent's log.
func newLog(to io.Writer) *log.Logger { return log.New(to, "cove-agent: ", 0) }

func orDefault(field *string, value string) {
	if *field == "" {
		*field = value
	}
}

// Handler returns the agent's HTTP interface.
func (a *Agent) Handler() http.Handler { return a.handler }

// Serve serves the connections that ServeConn, ServeDoor and Listen bring, until Close. It
// is called once.
func (a *Agent) Serve() error {
	err := a.server.Serve(a.feed)
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// ServeConn serves one connection in the background.
func (a *Agent) ServeConn(c net.Conn) { a.feed.put(c) }

// Close kills all processes, closes all connections and waits for that until ctx ends.
func (a *Agent) Close(ctx context.Context) error {
	a.mu.Lock()
	a.closed = true
	for closer := range a.closers {
		_ = closer.Close()
	}
	a.mu.Unlock()
	err := a.table.Close(ctx)
	err = errors.Join(err, a.server.Close())
	_ = a.feed.Close()
	a.watchers.Close()
	if a.way != nil {
		err = errors.Join(err, a.way.Close())
	}
	a.doors.Wait()
	a.handler.close()
	return err
}

// own registers something that Close closes; it returns false after Close.
func (a *Agent) own(c io.Closer) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return false
	}
	a.closers[c] = struct{}{}
	return true
}

// disown closes and forgets it.
func (a *Agent) disown(c io.Closer) {
	_ = c.Close()
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.closers, c)
}

// routes puts the interface together.
func (a *Agent) routes() http.Handler {
	mux := http.NewServeMux()
	options := connect.WithHandlerOptions(
		connect.WithInterceptors(errorInterceptor{}),
		connect.WithReadMaxBytes(maxRequest),
		connect.WithCompressMinBytes(compressible),
	)
	a.routeProcesses(mux, process.NewService(a.table, a.book), options)
	files := file.New(a.book)
	a.routeFiles(mux, files, options)
	mux.HandleFunc("GET /files", reply(files.Download))
	mux.HandleFunc("POST /files", reply(files.Upload))
	mux.HandleFunc("GET /cove/archive", reply(files.Archive))
	mux.HandleFunc("PUT /cove/archive", reply(files.Extract))
	mux.HandleFunc("POST /cove/dial", reply(a.serveDial))
	mux.HandleFunc("POST "+wire.TunnelPath, reply(a.serveTunnel))
	mux.HandleFunc("POST "+wire.EgressPath, reply(a.serveEgress))
	mux.HandleFunc("POST "+wire.NetworkPath, reply(a.serveNetwork))
	mux.HandleFunc("GET "+wire.PortsPath, a.servePorts)
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	mux.HandleFunc("GET /metrics", newMeter().serve)
	mux.HandleFunc("GET /envs", a.serveEnvs)
	mux.HandleFunc("POST /init", reply(a.serveInit))
	return withoutZeroTimeout(withLazyFlush(mux))
}

// routeProcesses serves process.Process and cove.guest.Guest.
func (a *Agent) routeProcesses(mux *http.ServeMux, s *process.Service, options connect.HandlerOption) {
	mux.Handle(rpc.Unary(processconnect.ProcessListProcedure, s.List, options))
	mux.Handle(rpc.Outputs(processconnect.ProcessConnectProcedure, s.Connect, options))
	mux.Handle(rpc.Outputs(processconnect.ProcessStartProcedure, s.Start, options))
	mux.Handle(rpc.Unary(processconnect.ProcessUpdateProcedure, s.Update, options))
	mux.Handle(rpc.Inputs(processconnect.ProcessStreamInputProcedure, s.StreamInput, options))
	mux.Handle(rpc.Unary(processconnect.ProcessSendInputProcedure, s.SendInput, options))
	mux.Handle(rpc.Unary(processconnect.ProcessSendSignalProcedure, s.SendSignal, options))
	mux.Handle(rpc.Unary(processconnect.ProcessCloseStdinProcedure, s.CloseStdin, options))
	mux.Handle(rpc.Unary(guestconnect.GuestKillTreeProcedure, s.KillTree, options))
}

// routeFiles serves filesystem.Filesystem.
func (a *Agent) routeFiles(mux *http.ServeMux, files *file.Service, options connect.HandlerOption) {
	mux.Handle(rpc.Unary(filesystemconnect.FilesystemStatProcedure, files.Stat, options))
	mux.Handle(rpc.Unary(filesystemconnect.FilesystemMakeDirProcedure, files.MakeDir, options))
	mux.Handle(rpc.Unary(filesystemconnect.FilesystemMoveProcedure, files.Move, options))
	mux.Handle(rpc.Unary(filesystemconnect.FilesystemListDirProcedure, files.ListDir, options))
	mux.Handle(rpc.Unary(filesystemconnect.FilesystemRemoveProcedure, files.Remove, options))
	mux.Handle(rpc.Outputs(filesystemconnect.FilesystemWatchDirProcedure, a.watchers.WatchDir, options))
	mux.Handle(rpc.Unary(filesystemconnect.FilesystemCreateWatcherProcedure, a.watchers.CreateWatcher, options))
	mux.Handle(rpc.Unary(filesystemconnect.FilesystemGetWatcherEventsProcedure, a.watchers.GetWatcherEvents, options))
	mux.Handle(rpc.Unary(filesystemconnect.FilesystemRemoveWatcherProcedure, a.watchers.RemoveWatcher, options))
}

const (
	// maxRequest bounds one message to the agent.
	maxRequest = 16 << 20
	// compressible is the size from which a reply is compressed for clients that ask.
	compressible = 4 << 10
)
