package mcp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/jsonschema-go/jsonschema"
	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/covehq/cove"
	"github.com/covehq/cove/tools"
)

// sandboxParameter is the parameter that every tool has beside its own.
const sandboxParameter = "sandbox"

// addTool adds a tool of package tools.
func (s *Server) addTool(tool tools.Tool) {
	schema := tool.Parameters.CloneSchemas()
	schema.Properties[sandboxParameter] = &jsonschema.Schema{
		Type: "string", Description: "Id of the sandbox, as create_sandbox gave it. Default the session's own.",
	}
	schema.PropertyOrder = append(slices.Clone(schema.PropertyOrder), sandboxParameter)
	closed, destructive := false, !tool.ReadOnly
	s.server.AddTool(&sdk.Tool{
		Name: tool.Name, Title: tool.Title, Description: tool.Description, InputSchema: schema, OutputSchema: tool.Result,
		Annotations: &sdk.ToolAnnotations{
			Title: tool.Title, ReadOnlyHint: tool.ReadOnly, IdempotentHint: tool.Idempotent,
			DestructiveHint: &destructive, OpenWorldHint: &closed,
		},
	}, func(ctx context.Context, r *sdk.CallToolRequest) (*sdk.CallToolResult, error) {
		stop := progress(ctx, r, tool.Title)
		defer stop()
		return reply(s.call(ctx, r, tool))
	})
}

func (s *Server) call(ctx context.Context, r *sdk.CallToolRequest, tool tools.Tool) tools.Result {
	session, err := s.session(ctx, r.Session)
	if err != nil {
		return tools.Failed(err)
	}
	asked, arguments, err := split(r.Params.Arguments)
	if err != nil {
		return tools.Failed(err)
	}
	id, sandbox, err := session.sandbox(ctx, asked)
	if err != nil {
		return tools.Failed(cove.Wrap(err, tool.Name, ""))
	}
	result := tool.Call(ctx, sandbox, arguments)
	if failure, ok := result.Data.(tools.Failure); ok && failure.Code == cove.Gone {
		view, _, err := s.daemon.Open(ctx, id)
		if err == nil || errors.Is(err, cove.NotFound) || errors.Is(err, cove.Gone) {
			return tools.Failed(session.forget(ctx, id, view))
		}
	}
	return result
}

// split takes the sandbox out of the arguments of a call. What else is wrong with them is
// for the tool to say.
func split(arguments json.RawMessage) (sandbox string, rest json.RawMessage, err error) {
	var given map[string]json.RawMessage
	if json.Unmarshal(arguments, &given) != nil || given[sandboxParameter] == nil {
		return "", arguments, nil
	}
	if json.Unmarshal(given[sandboxParameter], &sandbox) != nil {
		return "", nil, cove.Errorf(cove.Invalid, "", "", "the parameter sandbox is not a string", "give an id, or leave it out")
	}
	delete(given, sandboxParameter)
	rest, err = json.Marshal(given)
	return sandbox, rest, err
}

// reply makes a result of the protocol. A failure has no structured content, since that
// would have to be what the tool's schema says; its code is in the metadata.
func reply(result tools.Result) (*sdk.CallToolResult, error) {
	r := &sdk.CallToolResult{Content: []sdk.Content{&sdk.TextContent{Text: result.Text}}, IsError: result.IsError}
	if failure, ok := result.Data.(tools.Failure); ok {
		r.Meta = sdk.Meta{"cove/error": failure}
	} else {
		r.StructuredContent = result.Data
	}
	return r, nil
}

// progressEvery is how often a client is told that a call goes on.
const progressEvery = time.Second

// progress tells a client that asked for it that a call goes on, until the function that
// it returns is called.
func progress(ctx context.Context, r *sdk.CallToolRequest, what string) (stop func()) {
	token := r.Params.GetProgressToken()
	if token == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	begin := time.Now()
	go func() {
		defer close(done)
		tick := time.NewTicker(progressEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			took := time.Since(begin).Seconds()
			// Fails when the client is gone, which ends ctx too.
			_ = r.Session.NotifyProgress(ctx, &sdk.ProgressNotificationParams{
				ProgressToken: token, Progress: took, Message: fmt.Sprintf("%s: %.0f s", what, took),
			})
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

type createInput struct {
	Image *string `json:"image,omitempty" jsonschema:"Name of an image, as in python:3.12. Default that of the session."`
}

type sandboxInput struct {
	Sandbox *string `json:"sandbox,omitempty" jsonschema:"Id of the sandbox. Default the session's own."`
}

type nothing struct{}

type sandboxView struct {
	ID      string `json:"id" jsonschema:"for the parameter sandbox of the other tools"`
	Image   string `json:"image"`
	Runtime string `json:"runtime" jsonschema:"what isolates it"`
	State   string `json:"state"`
	Workdir string `json:"workdir" jsonschema:"its working directory"`
	Network string `json:"network" jsonschema:"what it may reach: none, allow for some places, open"`
	Default bool   `json:"default" jsonschema:"tools use it that name none"`
}

type sandboxList struct {
	Sandboxes []sandboxView `json:"sandboxes"`
}

type killed struct {
	ID string `json:"id" jsonschema:"of the sandbox that is gone"`
}

func viewOf(view cove.Sandbox, own string) sandboxView {
	spec := view.Spec
	return sandboxView{view.ID, spec.Image, spec.Runtime, string(view.State), spec.Workdir, string(spec.Network.Mode), view.ID == own}
}

// addLifecycle adds the tools that make and end sandboxes.
func (s *Server) addLifecycle() {
	no, yes := false, true
	sdk.AddTool(s.server, &sdk.Tool{
		Name: "create_sandbox", Title: "Make another sandbox",
		Description: "Make a sandbox beside the session's own, which needs no making, and return its id. It is removed when the session ends.",
		Annotations: &sdk.ToolAnnotations{DestructiveHint: &no, OpenWorldHint: &no},
	}, lifecycle(s, "create_sandbox", (*session).create))
	sdk.AddTool(s.server, &sdk.Tool{
		Name: "list_sandboxes", Title: "List sandboxes",
		Description: "List the sandboxes that this session can use.",
		Annotations: &sdk.ToolAnnotations{ReadOnlyHint: true, IdempotentHint: true, OpenWorldHint: &no},
	}, lifecycle(s, "list_sandboxes", (*session).list))
	sdk.AddTool(s.server, &sdk.Tool{
		Name: "kill_sandbox", Title: "Remove a sandbox",
		Description: "Remove a sandbox of this session with everything in it, and what runs there. After the session's own was removed, the next call gets a new one.",
		Annotations: &sdk.ToolAnnotations{DestructiveHint: &yes, IdempotentHint: true, OpenWorldHint: &no},
	}, lifecycle(s, "kill_sandbox", func(s *session, ctx context.Context, in sandboxInput) (killed, error) {
		asked := ""
		if in.Sandbox != nil {
			asked = *in.Sandbox
		}
		id, err := s.kill(ctx, asked)
		return killed{id}, err
	}))
}

// lifecycle makes a handler of a function of the session.
func lifecycle[In, Out any](s *Server, name string, do func(*session, context.Context, In) (Out, error)) sdk.ToolHandlerFor[In, Out] {
	return func(ctx context.Context, r *sdk.CallToolRequest, in In) (*sdk.CallToolResult, Out, error) {
		stop := progress(ctx, r, name)
		defer stop()
		session, err := s.session(ctx, r.Session)
		if err != nil {
			return nil, *new(Out), err
		}
		out, err := do(session, ctx, in)
		if err != nil {
			return nil, out, errors.New(tools.Failed(cove.Wrap(err, name, "")).Text)
		}
		return nil, out, nil
	}
}

func (s *session) create(ctx context.Context, in createInput) (sandboxView, error) {
	spec := s.given.Spec
	spec.Name = ""
	if in.Image != nil {
		// A model may name an image of a registry, but not what lies on the daemon's machine.
		for _, local := range []string{"rootfs:", "docker-archive:", "oci-archive:", "oci:", "docker-daemon:"} {
			if strings.HasPrefix(*in.Image, local) {
				return sandboxView{}, cove.Errorf(cove.Forbidden, "", "", "the image is on the daemon's machine", "name an image of a registry, as in python:3.12")
			}
		}
		spec.Image = *in.Image
	}
	if err := s.lock(ctx); err != nil {
		return sandboxView{}, err
	}
	defer s.unlock()
	view, err := s.make(ctx, spec)
	return viewOf(view, s.own), err
}

func (s *session) list(ctx context.Context, _ nothing) (sandboxList, error) {
	all, err := s.daemon.List(ctx)
	if err != nil {
		return sandboxList{}, err
	}
	if err := s.lock(ctx); err != nil {
		return sandboxList{}, err
	}
	defer s.unlock()
	list := sandboxList{Sandboxes: []sandboxView{}}
	for _, view := range all {
		if s.given.All || view.ID == s.own || slices.Contains(s.made, view.ID) {
			list.Sandboxes = append(list.Sandboxes, viewOf(view, s.own))
		}
	}
	return list, nil
}
