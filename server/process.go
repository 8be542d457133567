package server

import (
	"context"
	"net/http"

	"github.com/covehq/cove"
	"github.com/covehq/cove/internal/httpapi"
	"github.com/covehq/cove/sandbox"
)

// ProcessTarget is the process that an operation is about.
type ProcessTarget struct {
	Target
	PID int `path:"pid" minimum:"1" doc:"process id inside the sandbox"`
}

// process returns a handle on the target, without looking whether the process exists.
func (s *Server) process(ctx context.Context, target ProcessTarget) (*sandbox.Process, error) {
	box, err := s.host.Sandbox(ctx, target.ID)
	if err != nil {
		return nil, err
	}
	return box.Process(target.PID), nil
}

func (s *Server) registerProcesses() {
	const path = "/v1/sandboxes/{id}/processes"
	start := operation("start-process", http.MethodPost, path, tagCommands, "Start a process in the background",
		"It outlives the request. Read its output by offset, write its input, signal it; an ended one is kept for a while.")
	start.DefaultStatus = http.StatusCreated
	start.MaxBodyBytes = maxExecBody
	register(s, start, s.startProcess)
	register(s, operation("list-processes", http.MethodGet, path, tagCommands, "List processes",
		"What was started, ended ones that are kept included."), s.listProcesses)
	register(s, operation("get-process", http.MethodGet, path+"/{pid}", tagCommands, "Get a process", ""), s.getProcess)
	register(s, noContent(operation("kill-process", http.MethodDelete, path+"/{pid}", tagCommands, "Kill a process with its whole tree",
		"Returns when nothing that it started is left, whatever session or parent that has by now.")), s.killProcess)
	register(s, noContent(operation("signal-process", http.MethodPost, path+"/{pid}/signal", tagCommands, "Signal a process",
		"The process alone; DELETE reaches its whole tree.")), s.signalProcess)
	register(s, noContent(operation("resize-terminal", http.MethodPost, path+"/{pid}/resize", tagCommands, "Resize a process's terminal", "")), s.resizeProcess)
	register(s, noContent(uploads(operation("write-stdin", http.MethodPost, path+"/{pid}/stdin", tagCommands, "Write to a process's standard input",
		"The body is handed on as it arrives, however long that takes."), httpapi.TypeBytes, "what to write")), s.writeStdin)
}

type startInput struct {
	Target
	Unique bool `query:"unique" doc:"refuse with conflict when a running process has the same tag"`
	Body   cove.ProcessRequest
}

func (s *Server) startProcess(ctx context.Context, in *startInput) (*struct{ Body cove.Process }, error) {
	box, err := s.host.Sandbox(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	process, err := box.Start(ctx, in.Body, sandbox.StartOptions{Unique: in.Unique})
	if err != nil {
		return nil, err
	}
	info, err := process.Info(ctx)
	if err != nil {
		return nil, err
	}
	return &struct{ Body cove.Process }{info}, nil
}

func (s *Server) listProcesses(ctx context.Context, in *Target) (*struct{ Body httpapi.Processes }, error) {
	box, err := s.host.Sandbox(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	list, err := box.Processes(ctx)
	if err != nil {
		return nil, err
	}
	if list == nil {
		list = []cove.Process{}
	}
	return &struct{ Body httpapi.Processes }{httpapi.Processes{Processes: list}}, nil
}

func (s *Server) getProcess(ctx context.Context, in *ProcessTarget) (*struct{ Body cove.Process }, error) {
	process, err := s.process(ctx, *in)
	if err != nil {
		return nil, err
	}
	info, err := process.Info(ctx)
	if err != nil {
		return nil, err
	}
	return &struct{ Body cove.Process }{info}, nil
}

func (s *Server) killProcess(ctx context.Context, in *ProcessTarget) (*struct{}, error) {
	process, err := s.process(ctx, *in)
	if err != nil {
		return nil, err
	}
	return nil, process.Kill(ctx)
}

type signalInput struct {
	ProcessTarget
	Body httpapi.SignalRequest
}

func (s *Server) signalProcess(ctx context.Context, in *signalInput) (*struct{}, error) {
	process, err := s.process(ctx, in.ProcessTarget)
	if err != nil {
		return nil, err
	}
	return nil, process.Signal(ctx, in.Body.Signal)
}

type resizeInput struct {
	ProcessTarget
	Body cove.TerminalSize
}

func (s *Server) resizeProcess(ctx context.Context, in *resizeInput) (*struct{}, error) {
	process, err := s.process(ctx, in.ProcessTarget)
	if err != nil {
		return nil, err
	}
	return nil, process.Resize(ctx, in.Body)
}

type stdinInput struct {
	exchange
	ProcessTarget
	Close bool `query:"close" doc:"end the input after the body"`
}

func (s *Server) writeStdin(ctx context.Context, in *stdinInput) (*struct{}, error) {
	process, err := s.process(ctx, in.ProcessTarget)
	if err != nil {
		return nil, err
	}
	if in.r.ContentLength != 0 {
		if err := process.Write(ctx, in.r.Body); err != nil {
			return nil, err
		}
	}
	if in.Close {
		return nil, process.CloseStdin(ctx)
	}
	return nil, nil
}
