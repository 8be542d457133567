package client

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"

	"github.com/covehq/cove"
	"github.com/covehq/cove/internal/httpapi"
)

// ToolResult is what came of a call of a tool.
type ToolResult struct {
	Text    string // for the model; bounded
	IsError bool   // the tool could not do what it was asked, or ran out of time
	// Data is the same in fields, a JSON object: as the tool's result schema says, or where
	// it did nothing a code, a message and a hint.
	Data json.RawMessage
}

// CallTool has the daemon call a tool of package tools, with a JSON object or what becomes
// one. What a model did wrong is in the result; an unknown tool is an error, cove.NotFound.
func (s *Sandbox) CallTool(ctx context.Context, name string, arguments any) (ToolResult, error) {
	call := s.request("call tool", http.MethodPost, "/tools/"+url.PathEscape(name))
	data, err := json.Marshal(arguments)
	if err != nil {
		return ToolResult{}, cove.Errorf(cove.Invalid, "call tool", name, err.Error(), "give a JSON object")
	}
	call.in = json.RawMessage(data)
	var reply httpapi.ToolResult
	if err := s.client.call(ctx, call, &reply); err != nil {
		return ToolResult{}, err
	}
	return ToolResult(reply), nil
}
