package fake

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"slices"
	"strings"
	"sync"

	"github.com/covehq/cove/guest/wire/gen/filesystem"
	"github.com/covehq/cove/guest/wire/gen/process"
	"google.golang.org/protobuf/proto"
)

// Mistakes of the agent, made on the way to it: a request is changed, or answered as
// though it had been done.
const (
	EnvIgnored        Bug = "a command's environment is ignored"
	CwdIgnored        Bug = "a command's working directory is ignored"
	TagIgnored        Bug = "a command's tag is ignored"
	EmptyArguments    Bug = "empty arguments are dropped"
	InputStaysOpen    Bug = "a command without input waits for some"
	TimeoutIgnored    Bug = "a command's time-out is ignored"
	DisconnectIgnored Bug = "a broken stream kills nothing"
	DisconnectKills   Bug = "a broken stream kills what should go on"
	UserIgnored       Bug = "the user is ignored"
	KillTreeIgnored   Bug = "kill tree kills nothing"
	SignalIgnored     Bug = "signals are not sent"
	StdinNeverEnds    Bug = "standard input is not closed"
	ResizeIgnored     Bug = "a terminal keeps its size"
	OffsetIgnored     Bug = "following begins at the start, whatever the offset"
	RangeIgnored      Bug = "a read returns the whole file"
	ModeIgnored       Bug = "a written file has the usual mode"
	DepthIgnored      Bug = "a listing is one level deep"
	MoveIgnored       Bug = "move does nothing"
	RemoveIgnored     Bug = "remove does nothing"
	ShallowWatch      Bug = "a recursive watch is not"
)

// tampering changes a request on its way, or returns true when it is not to arrive.
type tampering func(r *http.Request) (swallow bool)

// tamperings returns those of the bugs that are made on the way to the agent.
func (b bugs) tamperings() []tampering {
	var all []tampering
	for _, bug := range b {
		if with := bug.tampering(); with != nil {
			all = append(all, with)
		}
	}
	return all
}

func (b Bug) tampering() tampering {
	switch b {
	case EnvIgnored:
		return onStart(func(s *process.StartRequest) { s.Process.Envs = nil })
	case CwdIgnored:
		return onStart(func(s *process.StartRequest) { s.Process.Cwd = nil })
	case TagIgnored:
		return onStart(func(s *process.StartRequest) { s.Tag = nil })
	case EmptyArguments:
		return onStart(func(s *process.StartRequest) {
			s.Process.Args = slices.DeleteFunc(s.Process.Args, func(argument string) bool { return argument == "" })
		})
	case InputStaysOpen:
		return onStart(func(s *process.StartRequest) { s.Stdin = proto.Bool(true) })
	case TimeoutIgnored:
		return onStart(func(s *process.StartRequest) { s.TimeoutMs = nil })
	case DisconnectIgnored:
		return onStart(func(s *process.StartRequest) { s.KillOnDisconnect = false })
	case DisconnectKills:
		return onStart(func(s *process.StartRequest) { s.KillOnDisconnect = true })
	case OffsetIgnored:
		return rewrite("/process.Process/Connect", func(c *process.ConnectRequest) {
			c.StdoutOffset, c.StderrOffset = proto.Uint64(0), proto.Uint64(0)
		})
	case DepthIgnored:
		return rewrite("/filesystem.Filesystem/ListDir", func(l *filesystem.ListDirRequest) { l.Depth = 1 })
	case ShallowWatch:
		return rewrite("/filesystem.Filesystem/WatchDir", func(w *filesystem.WatchDirRequest) { w.Recursive = false })
	case UserIgnored:
		return edit(func(r *http.Request) { r.Header.Del("Authorization") })
	case RangeIgnored:
		return edit(func(r *http.Request) { r.Header.Del("Range") })
	case ModeIgnored:
		return edit(func(r *http.Request) {
			query := r.URL.Query()
			query.Del("mode")
			r.URL.RawQuery = query.Encode()
		})
	case KillTreeIgnored:
		return swallow("/cove.guest.Guest/KillTree")
	case SignalIgnored:
		return swallow("/process.Process/SendSignal")
	case StdinNeverEnds:
		return swallow("/process.Process/CloseStdin")
	case ResizeIgnored:
		return swallow("/process.Process/Update")
	case MoveIgnored:
		return swallow("/filesystem.Filesystem/Move")
	case RemoveIgnored:
		return swallow("/filesystem.Filesystem/Remove")
	}
	return nil
}

func swallow(path string) tampering {
	return func(r *http.Request) bool { return r.URL.Path == path }
}

func edit(change func(*http.Request)) tampering {
	return func(r *http.Request) bool {
		change(r)
		return false
	}
}

// onStart changes how a command is started.
func onStart(change func(*process.StartRequest)) tampering {
	return rewrite("/process.Process/Start", change)
}

// rewrite changes the message of a request in the binary codec, enveloped or not.
func rewrite[T any, M interface {
	*T
	proto.Message
}](path string, change func(M)) tampering {
	return func(r *http.Request) bool {
		if r.URL.Path != path {
			return false
		}
		body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
		envelope := 0
		if strings.HasPrefix(r.Header.Get("Content-Type"), "application/connect+") {
			envelope = 5 // flags and length
		}
		message := M(new(T))
		if err != nil || len(body) < envelope || proto.Unmarshal(body[envelope:], message) != nil {
			return true
		}
		change(message)
		encoded, err := proto.Marshal(message)
		if err != nil {
			return true
		}
		if envelope > 0 {
			encoded = append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(encoded))), encoded...)
		}
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(encoded)), int64(len(encoded))
		return false
	}
}

// tamper puts a proxy between a caller and the agent, which it dials for itself. The proxy
// ends when the caller closes what it got.
func tamper(dial func(context.Context) (net.Conn, error), with []tampering) net.Conn {
	near, far := net.Pipe()
	transport := &http.Transport{
		DialContext:        func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
		DisableCompression: true,
	}
	proxy := &httputil.ReverseProxy{
		Rewrite:       func(p *httputil.ProxyRequest) { p.Out.URL.Scheme, p.Out.URL.Host = "http", "agent" },
		Transport:     transport,
		FlushInterval: -1,
		ErrorLog:      log.New(io.Discard, "", 0),
	}
	server := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			for _, change := range with {
				if change(r) {
					w.Header().Set("Content-Type", r.Header.Get("Content-Type"))
					return
				}
			}
			// The server would else read what is left of the request before it replies.
			_ = http.NewResponseController(w).EnableFullDuplex()
			proxy.ServeHTTP(w, r)
		}),
		ErrorLog:  log.New(io.Discard, "", 0),
		Protocols: new(http.Protocols),
		ConnState: func(_ net.Conn, state http.ConnState) {
			if state == http.StateClosed {
				transport.CloseIdleConnections()
			}
		},
	}
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetUnencryptedHTTP2(true)
	go func() { _ = server.Serve(&oneConn{conn: far}) }()
	return near
}

// oneConn is a listener that accepts a single connection.
type oneConn struct {
	conn net.Conn
	once sync.Once
}

func (l *oneConn) Accept() (net.Conn, error) {
	var conn net.Conn
	l.once.Do(func() { conn = l.conn })
	if conn == nil {
		return nil, net.ErrClosed
	}
	return conn, nil
}

func (l *oneConn) Close() error   { return nil }
func (l *oneConn) Addr() net.Addr { return l.conn.LocalAddr() }
