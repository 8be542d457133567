package server

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"strconv"

	"github.com/danielgtaylor/huma/v2"

	"github.com/covehq/cove"
	"github.com/covehq/cove/internal/httpapi"
	"github.com/covehq/cove/sandbox"
	"github.com/covehq/cove/server/mcp"
	"github.com/covehq/cove/tools"
)

const mcpPath = "/mcp"

// The lifetimes of the sandbox of a session, unless the session's address says otherwise.
// A session without requests ends long before; these are for a daemon that was killed.
const (
	mcpTTL  = cove.Duration(24 * 3600e9)
	mcpIdle = cove.Duration(3600e9)
)

func (s *Server) newMCP() *mcp.HTTP {
	return mcp.NewHTTP(mcp.Options{Daemon: mcpDaemon{s.host}, Version: cove.Version})
}

func (s *Server) registerMCP() {
	messages := map[string]*huma.MediaType{
		httpapi.TypeSSE:  {Schema: text("server-sent events; their data is a message of JSON-RPC")},
		httpapi.TypeJSON: {Schema: &huma.Schema{Type: huma.TypeObject, Description: "a message of JSON-RPC"}},
	}
	speak := operation("mcp", http.MethodPost, mcpPath, tagDaemon, "Speak the Model Context Protocol",
		"Streamable HTTP, with sessions. Each session has a sandbox of its own, which is made on first use and removed at its end. "+
			"The parameters say what it is; they are for the request that begins the session.")
	speak.RequestBody = &huma.RequestBody{Description: "a message of JSON-RPC", Required: true, Content: content(httpapi.TypeJSON, nil)} // huma would read a body that has a schema
	register(s, replies(speak, http.StatusOK, "What it replies.", messages), s.serveMCP)
	listen := operation("mcp-listen", http.MethodGet, mcpPath, tagDaemon, "Hear what a session says by itself", "")
	register(s, replies(listen, http.StatusOK, "Messages as they come.", messages), s.serveMCP)
	end := operation("mcp-end", http.MethodDelete, mcpPath, tagDaemon, "End a session", "Its sandboxes are removed.")
	register(s, noContent(end), s.serveMCP)
}

// mcpInput is what the address of a session may say.
type mcpInput struct {
	exchange
	Runtime string   `query:"runtime" doc:"what isolates its sandboxes"`
	Image   string   `query:"image" doc:"their root filesystem"`
	Network string   `query:"network" enum:"none,allow,open" doc:"what they may reach"`
	Allow   []string `query:"allow" doc:"rules of what they may reach, with commas" example:"pip,api.github.com"`
	Memory  string   `query:"memory" doc:"their memory" example:"2g"`
	CPUs    float64  `query:"cpus" minimum:"0" doc:"their processors"`
	User    string   `query:"user" doc:"user that commands run as"`
	Workdir string   `query:"workdir" doc:"working directory of commands"`
	Name    string   `query:"name" doc:"take the sandbox of this name where there is one, and leave it behind"`
	Sandbox string   `query:"sandbox" doc:"id or name of a sandbox to use in place of making one"`
	All     bool     `query:"all" doc:"let the session use, see and kill every sandbox that its caller may"`
}

func (s *Server) serveMCP(ctx context.Context, in *mcpInput) (*huma.StreamResponse, error) {
	given, err := in.session(sandbox.CallerOf(ctx))
	if err != nil {
		return nil, err
	}
	answer, err := s.mcp.Admit(in.r, given)
	if err != nil {
		return nil, err
	}
	return raw(func() { answer.ServeHTTP(in.w, in.r) })
}

// session is what a caller's session is given.
func (in *mcpInput) session(caller sandbox.Caller) (mcp.Session, error) {
	memory := cove.Bytes(0)
	if in.Memory != "" {
		var err error
		if memory, err = cove.ParseBytes(in.Memory); err != nil {
			return mcp.Session{}, cove.Errorf(cove.Invalid, "mcp", "", err.Error(), "correct the address")
		}
	}
	if in.Sandbox != "" && in.Name != "" {
		return mcp.Session{}, cove.Errorf(cove.Invalid, "mcp", "", "sandbox and name exclude each other", "leave one of them out of the address")
	}
	return mcp.Session{
		Sandbox: in.Sandbox, All: in.All, Owner: strconv.FormatBool(caller.All) + " " + caller.Owner,
		Spec: cove.Spec{
			Name: in.Name, Runtime: in.Runtime, Image: in.Image, User: in.User, Workdir: in.Workdir,
			Network: cove.Network{Mode: cove.NetworkMode(in.Network), Allow: in.Allow},
			Limits:  cove.Limits{Memory: memory, CPUs: in.CPUs}, TTL: mcpTTL, Idle: mcpIdle,
		},
	}, nil
}

// mcpDaemon is the host as package mcp wants it.
type mcpDaemon struct{ host *sandbox.Host }

// Create makes a sandbox.
func (d mcpDaemon) Create(ctx context.Context, spec cove.Spec, reuse bool) (cove.Sandbox, error) {
	var made *sandbox.Sandbox
	var err error
	if reuse {
		made, _, err = d.host.Reuse(ctx, spec, sandbox.CreateOptions{})
	} else {
		made, err = d.host.Create(ctx, spec, sandbox.CreateOptions{})
	}
	if err != nil {
		return cove.Sandbox{}, err
	}
	return made.View(), nil
}

// Open finds a sandbox.
func (d mcpDaemon) Open(ctx context.Context, idOrName string) (cove.Sandbox, tools.Sandbox, error) {
	found, err := d.host.Sandbox(ctx, idOrName)
	if err != nil {
		return cove.Sandbox{}, nil, err
	}
	return found.View(), toolbox{found}, nil
}

// Remove destroys a sandbox.
func (d mcpDaemon) Remove(ctx context.Context, id string) error {
	found, err := d.host.Sandbox(ctx, id)
	if err == nil {
		err = found.Destroy(ctx)
	}
	if errors.Is(err, cove.NotFound) || errors.Is(err, cove.Gone) {
		return nil
	}
	return err
}

// List returns the caller's sandboxes.
func (d mcpDaemon) List(ctx context.Context) ([]cove.Sandbox, error) {
	return d.host.List(ctx, sandbox.Filter{})
}

// toolbox is a sandbox as package tools wants it.
type toolbox struct{ box *sandbox.Sandbox }

// Exec runs a command.
func (t toolbox) Exec(ctx context.Context, r cove.ExecRequest) (cove.ExecResult, error) {
	return t.box.Exec(ctx, r)
}

// List lists one directory.
func (t toolbox) List(ctx context.Context, path string) ([]cove.FileInfo, error) {
	return t.box.Files().List(ctx, path, 1, "")
}

// Open reads a file.
func (t toolbox) Open(ctx context.Context, path string) (io.ReadCloser, error) {
	reply, err := t.box.Files().Read(ctx, path, "", nil)
	if err != nil {
		return nil, err
	}
	return reply.Body, nil
}

// Write replaces a file.
func (t toolbox) Write(ctx context.Context, path string, r io.Reader, mode fs.FileMode) error {
	var bits *uint32
	if mode != 0 {
		bits = new(uint32(mode.Perm()))
	}
	_, err := t.box.Files().Write(ctx, path, "", r, bits)
	return err
}

// Remove removes a file.
func (t toolbox) Remove(ctx context.Context, path string) error {
	return t.box.Files().Remove(ctx, path, "")
}
