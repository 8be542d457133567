package sandbox

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/covehq/cove/guest/pair"
	"github.com/covehq/cove/guest/wire"
	"github.com/covehq/cove/guest/wire/gen/guest"
	"github.com/covehq/cove/guest/wire/gen/guest/guestconnect"
	"github.com/covehq/cove/guest/wire/gen/process"
	"github.com/covehq/cove/guest/wire/gen/process/processconnect"
)

// agent is a guest in memory: a server that speaks the real wire and whose programs are
// functions. It keeps files in a map and has one listening port, 80, that echoes.
type agent struct {
	processconnect.UnimplementedProcessHandler
	guestconnect.UnimplementedGuestHandler

	server  *http.Server
	backlog chan net.Conn
	spares  chan net.Conn // on which to ask for what is outside
	stopped chan struct{}
	stop    sync.Once

	initError error  // of POST /init
	metrics   string // of GET /metrics
	deaf      bool   // programs go on when their reader leaves, ports when the sandbox ends

	mu    sync.Mutex
	init  map[string]any
	pids  int
	procs map[int]*proc
	files map[string][]byte
	ports []wire.ListeningPort // of GET wire.PortsPath
	looks int                  // how often those were asked for
}

// proc is a program that runs in an agent, or has ended.
type proc struct {
	pid    int
	start  *process.StartRequest
	output chan *process.ProcessEvent // closed after the end event
	stdin  *io.PipeReader
	input  *io.PipeWriter
	killed chan struct{}
	kill   func()
	signal chan process.Signal
	done   chan struct{}
	end    *process.ProcessEvent_EndEvent // may be read when done is closed

	stdout, stderr uint64 // offsets
}

func newAgent() *agent {
	a := &agent{
		backlog: make(chan net.Conn), spares: make(chan net.Conn, 64), stopped: make(chan struct{}),
		procs: make(map[int]*proc), files: make(map[string][]byte),
	}
	mux := http.NewServeMux()
	mux.Handle(processconnect.NewProcessHandler(a))
	mux.Handle(guestconnect.NewGuestHandler(a))
	mux.HandleFunc("POST /init", a.serveInit)
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	mux.HandleFunc("GET /metrics", a.serveMetrics)
	mux.HandleFunc("GET /files", a.serveRead)
	mux.HandleFunc("POST /files", a.serveWrite)
	mux.HandleFunc("POST /cove/dial", a.serveDial)
	mux.HandleFunc("GET "+wire.PortsPath, a.servePorts)
	mux.HandleFunc("POST "+wire.EgressPath, a.serveEgress)
	mux.HandleFunc("POST "+wire.NetworkPath, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	a.server = &http.Server{Handler: mux, Protocols: protocols}
	go func() { _ = a.server.Serve((*agentListener)(a)) }()
	return a
}

func (a *agent) servePorts(w http.ResponseWriter, _ *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.looks++
	_ = json.NewEncoder(w).Encode(a.ports)
}

// listen has programs listen on these ports, and on no others.
func (a *agent) listen(ports ...int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ports = nil
	for _, port := range ports {
		a.ports = append(a.ports, wire.ListeningPort{Port: port, Address: "0.0.0.0", PID: 7, Command: "serve"})
	}
}

// looked returns how often somebody asked for the ports.
func (a *agent) looked() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.looks
}

func (a *agent) serveMetrics(w http.ResponseWriter, _ *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	_, _ = io.WriteString(w, a.metrics)
}

// dial opens a connection to the agent, until it is closed.
func (a *agent) dial(ctx context.Context) (net.Conn, error) {
	host, inside, err := pair.New()
	if err != nil {
		return nil, err
	}
	select {
	case a.backlog <- inside:
		return host, nil
	case <-a.stopped:
		err = errors.New("connection refused")
	case <-ctx.Done():
		err = ctx.Err()
	}
	_, _ = host.Close(), inside.Close()
	return nil, err
}

// close ends the agent and all that runs in it, as the end of its sandbox does.
func (a *agent) close() {
	a.stop.Do(func() {
		close(a.stopped)
		_ = a.server.Close()
		a.mu.Lock()
		defer a.mu.Unlock()
		for _, p := range a.procs {
			p.kill()
		}
	})
}

// running returns the pids of the programs that run.
func (a *agent) running() []int {
	a.mu.Lock()
	defer a.mu.Unlock()
	var pids []int
	for pid, p := range a.procs {
		if !isClosed(p.done) {
			pids = append(pids, pid)
		}
	}
	return pids
}

type agentListener agent

func (l *agentListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.backlog:
		return conn, nil
	case <-l.stopped:
		return nil, net.ErrClosed
	}
}

func (l *agentListener) Close() error   { return nil }
func (l *agentListener) Addr() net.Addr { return &net.UnixAddr{Name: "agent", Net: "unix"} }

func (a *agent) serveInit(w http.ResponseWriter, r *http.Request) {
	if a.initError != nil {
		http.Error(w, a.initError.Error(), http.StatusBadRequest)
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := json.NewDecoder(r.Body).Decode(&a.init); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (a *agent) serveRead(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	content, ok := a.files[r.URL.Query().Get("path")]
	a.mu.Unlock()
	if !ok {
		http.Error(w, "no such file", http.StatusNotFound)
		return
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
}

func (a *agent) serveWrite(w http.ResponseWriter, r *http.Request) {
	content, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	path := r.URL.Query().Get("path")
	a.mu.Lock()
	a.files[path] = content
	a.mu.Unlock()
	_ = json.NewEncoder(w).Encode([]map[string]any{{"path": path, "size": len(content)}})
}

func (a *agent) serveDial(w http.ResponseWriter, r *http.Request) {
	if r.URL.Query().Get("port") != "80" {
		http.Error(w, "nothing listens there", http.StatusServiceUnavailable)
		return
	}
	conn, buffered, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: cove-stream\r\n\r\n")
	closed := make(chan struct{})
	defer close(closed)
	go func() {
		select {
		case <-a.stopped:
			if !a.deaf {
				conn.Close()
			}
		case <-closed:
		}
	}()
	_, _ = io.Copy(conn, buffered)
}

// Start runs one of the programs.
func (a *agent) Start(ctx context.Context, r *connect.Request[process.StartRequest], stream *connect.ServerStream[process.StartResponse]) error {
	p := a.spawn(r.Msg)
	if p == nil {
		return connect.NewError(connect.CodeNotFound, fmt.Errorf("%s: command not found", r.Msg.GetProcess().GetCmd()))
	}
	first := &process.ProcessEvent{Event: &process.ProcessEvent_Start{Start: &process.ProcessEvent_StartEvent{Pid: uint32(p.pid)}}}
	if err := stream.Send(&process.StartResponse{Event: first}); err != nil {
		return err
	}
	for {
		select {
		case event, ok := <-p.output:
			if !ok {
				return nil
			}
			if err := stream.Send(&process.StartResponse{Event: event}); err != nil {
				return a.left(p, err)
			}
		case <-ctx.Done():
			return a.left(p, ctx.Err())
		case <-a.stopped:
			panic(http.ErrAbortHandler) // the connection breaks without another word
		}
	}
}

// left is what happens to a program when its reader leaves.
func (a *agent) left(p *proc, err error) error {
	if p.start.KillOnDisconnect && !a.deaf {
		p.kill()
	}
	go func() { // nobody reads any more
		for range p.output {
		}
	}()
	return err
}

func (a *agent) spawn(r *process.StartRequest) *proc {
	program := programs[r.GetProcess().GetCmd()]
	if program == nil {
		return nil
	}
	p := &proc{
		start: r, output: make(chan *process.ProcessEvent), killed: make(chan struct{}),
		signal: make(chan process.Signal, 1), done: make(chan struct{}),
	}
	p.stdin, p.input = io.Pipe()
	p.kill = sync.OnceFunc(func() {
		close(p.killed)
		p.stdin.Close()
	})
	if !r.GetStdin() {
		p.input.Close()
	}
	a.mu.Lock()
	a.pids++
	p.pid = a.pids
	a.procs[p.pid] = p
	a.mu.Unlock()
	go p.run(a, program)
	return p
}

func (p *proc) run(a *agent, program func(*agent, *proc) int) {
	timedOut := make(chan struct{})
	if p.start.TimeoutMs != nil {
		timer := time.AfterFunc(time.Duration(*p.start.TimeoutMs)*time.Millisecond, func() {
			close(timedOut)
			p.kill()
		})
		defer timer.Stop()
	}
	code := program(a, p)
	end := &process.ProcessEvent_EndEvent{ExitCode: int32(code), Exited: code >= 0, DurationUs: 1500, TimedOut: isClosed(timedOut)}
	if code < 0 {
		end.Signal = 9
	}
	p.end = end
	close(p.done)
	p.stdin.Close()
	select {
	case p.output <- &process.ProcessEvent{Event: &process.ProcessEvent_End{End: end}}:
	case <-a.stopped:
	}
	close(p.output)
}

// write sends bytes to the reader, and reports whether the program still runs.
func (p *proc) write(stderr bool, data []byte) bool {
	event := &process.ProcessEvent_DataEvent{Output: &process.ProcessEvent_DataEvent_Stdout{Stdout: data}, Offset: p.stdout}
	if stderr {
		event = &process.ProcessEvent_DataEvent{Output: &process.ProcessEvent_DataEvent_Stderr{Stderr: data}, Offset: p.stderr}
		p.stderr += uint64(len(data))
	} else {
		p.stdout += uint64(len(data))
	}
	select {
	case p.output <- &process.ProcessEvent{Event: &process.ProcessEvent_Data{Data: event}}:
		return true
	case <-p.killed:
		return false
	}
}

// programs are what an agent can run. They return the exit code, or -1 when killed.
var programs = map[string]func(*agent, *proc) int{
	"true": func(*agent, *proc) int { return 0 },
	"exit": func(_ *agent, p *proc) int {
		code, _ := strconv.Atoi(p.start.GetProcess().GetArgs()[0])
		return code
	},
	"echo": func(_ *agent, p *proc) int {
		p.write(false, []byte(strings.Join(p.start.GetProcess().GetArgs(), " ")))
		return 0
	},
	"complain": func(_ *agent, p *proc) int {
		p.write(true, []byte(strings.Join(p.start.GetProcess().GetArgs(), " ")))
		return 1
	},
	"context": func(_ *agent, p *proc) int {
		env := p.start.GetProcess().GetEnvs()
		var lines []string
		for _, name := range slices.Sorted(maps.Keys(env)) {
			lines = append(lines, name+"="+env[name])
		}
		p.write(false, fmt.Appendf(nil, "%s %s", p.start.GetProcess().GetCwd(), strings.Join(lines, ",")))
		return 0
	},
	"sleep": func(_ *agent, p *proc) int {
		p.write(false, []byte("asleep"))
		select {
		case <-p.killed:
		case <-p.signal:
		}
		return -1
	},
	// A hostile guest, which neither heeds a time-out nor a kill.
	"stuck": func(a *agent, p *proc) int {
		p.write(false, []byte("stuck"))
		<-a.stopped
		return -1
	},
	"cat": func(_ *agent, p *proc) int {
		buffer := make([]byte, 64<<10)
		for {
			n, err := p.stdin.Read(buffer)
			if n > 0 && !p.write(false, bytes.Clone(buffer[:n])) {
				return -1
			}
			if err != nil {
				return 0
			}
		}
	},
	// Reads as many bytes as it is told, and says how many there were.
	"head": func(_ *agent, p *proc) int {
		most, _ := strconv.ParseInt(p.start.GetProcess().GetArgs()[0], 10, 64)
		n, _ := io.Copy(io.Discard, io.LimitReader(p.stdin, most))
		p.write(false, strconv.AppendInt(nil, n, 10))
		return 0
	},
	// Writes as many MiB as it is told.
	"flood": func(_ *agent, p *proc) int {
		piece := bytes.Repeat([]byte("0123456789abcdef"), 8<<10)
		most, _ := strconv.Atoi(p.start.GetProcess().GetArgs()[0])
		for range most * (1 << 20) / len(piece) {
			if !p.write(false, piece) {
				return -1
			}
		}
		return 0
	},
	// Writes as many bytes as it is told, in lines of eight digits that count up.
	"count": func(_ *agent, p *proc) int {
		total, _ := strconv.Atoi(p.start.GetProcess().GetArgs()[0])
		for written := 0; written < total; {
			var chunk bytes.Buffer
			for chunk.Len() < 64<<10 && written+chunk.Len() < total {
				fmt.Fprintf(&chunk, "%07d\n", (written+chunk.Len())/8)
			}
			if !p.write(false, chunk.Bytes()) {
				return -1
			}
			written += chunk.Len()
		}
		return 0
	},
}

func (a *agent) find(selector *process.ProcessSelector) (*proc, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if p := a.procs[int(selector.GetPid())]; p != nil {
		return p, nil
	}
	return nil, connect.NewError(connect.CodeNotFound, errors.New("no such process"))
}

// Connect sends only the end of a program.
func (a *agent) Connect(ctx context.Context, r *connect.Request[process.ConnectRequest], stream *connect.ServerStream[process.ConnectResponse]) error {
	p, err := a.find(r.Msg.Process)
	if err != nil {
		return err
	}
	first := &process.ProcessEvent{Event: &process.ProcessEvent_Start{Start: &process.ProcessEvent_StartEvent{Pid: uint32(p.pid)}}}
	if err := stream.Send(&process.ConnectResponse{Event: first}); err != nil || r.Msg.NoFollow {
		return err
	}
	select {
	case <-p.done:
		return stream.Send(&process.ConnectResponse{Event: &process.ProcessEvent{Event: &process.ProcessEvent_End{End: p.end}}})
	case <-ctx.Done():
		return ctx.Err()
	case <-a.stopped:
		panic(http.ErrAbortHandler)
	}
}

// List lists the programs.
func (a *agent) List(context.Context, *connect.Request[process.ListRequest]) (*connect.Response[process.ListResponse], error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	reply := &process.ListResponse{}
	for _, pid := range slices.Sorted(maps.Keys(a.procs)) {
		info := &process.ProcessInfo{Config: a.procs[pid].start.Process, Pid: uint32(pid), Tag: a.procs[pid].start.Tag}
		if isClosed(a.procs[pid].done) {
			info.End = a.procs[pid].end
		}
		reply.Processes = append(reply.Processes, info)
	}
	return connect.NewResponse(reply), nil
}

// StreamInput writes to a program's standard input.
func (a *agent) StreamInput(_ context.Context, stream *connect.ClientStream[process.StreamInputRequest]) (*connect.Response[process.StreamInputResponse], error) {
	var p *proc
	for stream.Receive() {
		if start := stream.Msg().GetStart(); start != nil {
			var err error
			if p, err = a.find(start.Process); err != nil {
				return nil, err
			}
			continue
		}
		data := append(stream.Msg().GetData().GetInput().GetStdin(), stream.Msg().GetData().GetInput().GetAny()...)
		if _, err := p.input.Write(data); err != nil {
			return nil, connect.NewError(connect.CodeFailedPrecondition, err)
		}
	}
	return connect.NewResponse(&process.StreamInputResponse{}), stream.Err()
}

// CloseStdin closes a program's standard input.
func (a *agent) CloseStdin(_ context.Context, r *connect.Request[process.CloseStdinRequest]) (*connect.Response[process.CloseStdinResponse], error) {
	p, err := a.find(r.Msg.Process)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&process.CloseStdinResponse{}), p.input.Close()
}

// SendSignal sends a program a signal.
func (a *agent) SendSignal(_ context.Context, r *connect.Request[process.SendSignalRequest]) (*connect.Response[process.SendSignalResponse], error) {
	p, err := a.find(r.Msg.Process)
	if err != nil {
		return nil, err
	}
	p.signal <- r.Msg.Signal
	return connect.NewResponse(&process.SendSignalResponse{}), nil
}

// KillTree kills a program.
func (a *agent) KillTree(_ context.Context, r *connect.Request[guest.KillTreeRequest]) (*connect.Response[guest.KillTreeResponse], error) {
	p, err := a.find(r.Msg.Process)
	if err != nil {
		return nil, err
	}
	p.kill()
	return connect.NewResponse(&guest.KillTreeResponse{Killed: 1}), nil
}
