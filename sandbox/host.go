// Package sandbox provides the in-process engine: Host owns the drivers and the store,
// and makes, finds, ends and forgets sandboxes; Sandbox, Process, Files and Output are
// the portable types that behave alike on every runtime.
package sandbox

import (
	"context"
	"io"
	"iter"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/sandbox/driver"
	"github.com/covehq/cove/store"
)

type Options struct {
	Store         store.Store
	Drivers       map[string]driver.Opener
	Default       string
	Logger        *slog.Logger
	MaxSandboxes  int
	Retain        time.Duration
	SweepInterval time.Duration
	CreateTimeout time.Duration
}
type Host struct{}

func Open(ctx context.Context, o Options) (*Host, error) { return nil, cove.NotSupported }
func (h *Host) Close(ctx context.Context) error          { return cove.NotSupported }

type CreateOptions struct{ IdempotencyKey string }

func (h *Host) Create(ctx context.Context, spec cove.Spec, o CreateOptions) (*Sandbox, error) {
	return nil, cove.NotSupported
}
func (h *Host) Sandbox(ctx context.Context, idOrName string) (*Sandbox, error) {
	return nil, cove.NotSupported
}

type Filter struct {
	Labels map[string]string
	State  cove.State
}

func (h *Host) List(ctx context.Context, f Filter) ([]cove.Sandbox, error) {
	return nil, cove.NotSupported
}
func (h *Host) Runtimes(ctx context.Context) []cove.Runtime { return nil }

// FromNow, as the after of Subscribe, replays nothing.
const FromNow = ^uint64(0)

func (h *Host) Subscribe(ctx context.Context, after uint64) iter.Seq2[cove.Event, error] { return nil }
func (h *Host) Len() int                                                                 { return 0 }

type Sandbox struct{}

func (s *Sandbox) ID() string         { return "" }
func (s *Sandbox) View() cove.Sandbox { return cove.Sandbox{} }
func (s *Sandbox) Update(ctx context.Context, u cove.SandboxUpdate) (cove.Sandbox, error) {
	return cove.Sandbox{}, cove.NotSupported
}
func (s *Sandbox) Destroy(ctx context.Context) error { return cove.NotSupported }
func (s *Sandbox) Exec(ctx context.Context, r cove.ExecRequest) (cove.ExecResult, error) {
	return cove.ExecResult{}, cove.NotSupported
}

// StartOptions: Unique refuses a Tag that a running process has, with cove.Conflict.
type StartOptions struct{ Unique bool }

func (s *Sandbox) Start(ctx context.Context, r cove.ProcessRequest, o StartOptions) (*Process, error) {
	return nil, cove.NotSupported
}

// Run: Timeout 0 means the spec's timeout, as in Exec.
func (s *Sandbox) Run(ctx context.Context, r cove.ProcessRequest, stdin io.Reader) (*Output, error) {
	return nil, cove.NotSupported
}
func (s *Sandbox) Processes(ctx context.Context) ([]cove.Process, error) {
	return nil, cove.NotSupported
}
func (s *Sandbox) Process(pid int) *Process { return nil }

// DialPort's conn has CloseWrite.
func (s *Sandbox) DialPort(ctx context.Context, port int) (net.Conn, error) {
	return nil, cove.NotSupported
}
func (s *Sandbox) Files() *Files { return nil }

type Process struct{}

func (p *Process) PID() int { return 0 }
func (p *Process) Info(ctx context.Context) (cove.Process, error) {
	return cove.Process{}, cove.NotSupported
}
func (p *Process) Follow(ctx context.Context, from cove.Offsets, noFollow bool) (*Output, error) {
	return nil, cove.NotSupported
}
func (p *Process) Write(ctx context.Context, r io.Reader) error          { return cove.NotSupported }
func (p *Process) CloseStdin(ctx context.Context) error                  { return cove.NotSupported }
func (p *Process) Signal(ctx context.Context, name string) error         { return cove.NotSupported }
func (p *Process) Kill(ctx context.Context) error                        { return cove.NotSupported }
func (p *Process) Resize(ctx context.Context, s cove.TerminalSize) error { return cove.NotSupported }

type Output struct{}

func (o *Output) PID() int                   { return 0 }
func (o *Output) Next() (cove.Output, error) { return cove.Output{}, cove.NotSupported }
func (o *Output) Close() error               { return cove.NotSupported }

// Files; user "" is the sandbox's; a relative path is below its workdir.
type Files struct{}

func (f *Files) Stat(ctx context.Context, path, user string) (cove.FileInfo, error) {
	return cove.FileInfo{}, cove.NotSupported
}
func (f *Files) List(ctx context.Context, path string, depth int, user string) ([]cove.FileInfo, error) {
	return nil, cove.NotSupported
}
func (f *Files) MakeDir(ctx context.Context, path, user string) (cove.FileInfo, error) {
	return cove.FileInfo{}, cove.NotSupported
}
func (f *Files) Move(ctx context.Context, from, to, user string) (cove.FileInfo, error) {
	return cove.FileInfo{}, cove.NotSupported
}
func (f *Files) Remove(ctx context.Context, path, user string) error { return cove.NotSupported }
func (f *Files) Watch(ctx context.Context, path string, recursive bool, user string) (*Watch, error) {
	return nil, cove.NotSupported
}
func (f *Files) Read(ctx context.Context, path, user string, header http.Header) (*http.Response, error) {
	return nil, cove.NotSupported
}
func (f *Files) Write(ctx context.Context, path, user string, r io.Reader, mode *uint32) (cove.FileInfo, error) {
	return cove.FileInfo{}, cove.NotSupported
}
func (f *Files) Archive(ctx context.Context, path, user string) (io.ReadCloser, error) {
	return nil, cove.NotSupported
}
func (f *Files) Extract(ctx context.Context, path, user string, r io.Reader) error {
	return cove.NotSupported
}

type Watch struct{}

func (w *Watch) Next() (cove.FileEvent, error) { return cove.FileEvent{}, cove.NotSupported }
func (w *Watch) Close() error                  { return cove.NotSupported }
