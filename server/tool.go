package server

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/covehq/cove"
	"github.com/covehq/cove/internal/httpapi"
	"github.com/covehq/cove/tools"
)

func (s *Server) registerTools() {
	register(s, operation("list-tools", http.MethodGet, "/v1/tools", tagTools, "List the tools for models",
		"What each is called, what a model reads of it, and the JSON schemas of its parameters and of its result."), s.listTools)
	call := operation("call-tool", http.MethodPost, "/v1/sandboxes/{id}/tools/{tool}", tagTools, "Call a tool",
		"The body is the tool's arguments, as a model gives them. A call that could not do what it was asked has a result as well, "+
			"with `is_error`, a text that tells the model why, and the error as `data`. When the request is cut off, what the tool runs is killed.")
	call.MaxBodyBytes = maxExecBody
	register(s, replies(call, http.StatusOK, "What came of it.", content(httpapi.TypeJSON, schemaOf[httpapi.ToolResult](s))), s.callTool)
}

type listToolsInput struct {
	Format string `query:"format" enum:"cove,openai,openai-responses,anthropic,mcp" default:"cove" doc:"all that there is to say of each, or the form that a model's API wants"`
}

func (s *Server) listTools(_ context.Context, in *listToolsInput) (*struct{ Body httpapi.Tools }, error) {
	data, err := tools.Export(tools.Format(in.Format), tools.All())
	if err != nil {
		return nil, err
	}
	out := &struct{ Body httpapi.Tools }{}
	return out, json.Unmarshal(data, &out.Body.Tools)
}

type callToolInput struct {
	exchange
	Target
	Tool string          `path:"tool" doc:"name of the tool" example:"shell"`
	Body json.RawMessage `doc:"arguments, an object" example:"{\"command\": \"ls\"}"`
}

func (s *Server) callTool(ctx context.Context, in *callToolInput) (*huma.StreamResponse, error) {
	box, err := s.host.Sandbox(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	all := tools.All()
	i := slices.IndexFunc(all, func(tool tools.Tool) bool { return tool.Name == in.Tool })
	if i < 0 {
		var names []string
		for _, tool := range all {
			names = append(names, tool.Name)
		}
		return nil, cove.Errorf(cove.NotFound, "call tool", in.Tool, "there is no such tool", "use one of "+strings.Join(names, ", "))
	}
	result := all[i].Call(ctx, toolbox{box}, in.Body)
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return raw(func() {
		in.w.Header().Set("Content-Type", httpapi.TypeJSON)
		encoder := json.NewEncoder(in.w)
		encoder.SetEscapeHTML(false)
		_ = encoder.Encode(result) // fails when the client is gone
	})
}
