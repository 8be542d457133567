package httpapi

import (
	"encoding/json"

	"github.com/covehq/cove"
)

// A list is an object with one member, so that more can be said beside it one day.

// Sandboxes is the reply of GET /v1/sandboxes.
type Sandboxes struct {
	Sandboxes []cove.Sandbox `json:"sandboxes"`
}

// Keys is the reply of GET /v1/keys.
type Keys struct {
	Keys []cove.Key `json:"keys"`
}

// Runtimes is the reply of GET /v1/runtimes.
type Runtimes struct {
	Runtimes []cove.Runtime `json:"runtimes"`
}

// Processes is the reply of GET …/processes.
type Processes struct {
	Processes []cove.Process `json:"processes"`
}

// Ports is the reply of GET …/ports.
type Ports struct {
	Ports []cove.ListeningPort `json:"ports"`
}

// Files is the reply of GET …/files/list.
type Files struct {
	Entries []cove.FileInfo `json:"entries"`
}

// SignalRequest is the body of POST …/signal.
type SignalRequest struct {
	Signal string `json:"signal" doc:"name or number: TERM, SIGTERM and 15 are the same" example:"TERM" minLength:"1"`
}

// MakeDirRequest is the body of POST …/files/mkdir.
type MakeDirRequest struct {
	Path string `json:"path" doc:"directory to make, with its parents" minLength:"1"`
	User string `json:"user,omitempty" doc:"who makes and owns it; default the sandbox's user"`
}

// MoveRequest is the body of POST …/files/move.
type MoveRequest struct {
	From string `json:"from" doc:"what to move" minLength:"1"`
	To   string `json:"to" doc:"its new path; missing parents are made" minLength:"1"`
	User string `json:"user,omitempty" doc:"with whose rights; default the sandbox's user"`
}

// TerminalMessage is a text message on the WebSocket of a terminal. Binary messages are
// the terminal's bytes.
type TerminalMessage struct {
	Resize *cove.TerminalSize `json:"resize,omitempty" doc:"to the server: the terminal's new size"`
	Exit   *cove.Exit         `json:"exit,omitempty" doc:"from the server: how the process ended; the last message"`
	Error  *ErrorBody         `json:"error,omitempty" doc:"from the server: what broke; the last message"`
}

// Images is the reply of GET /v1/images and POST /v1/images/prune.
type Images struct {
	Images []cove.Image `json:"images"`
}

// NetworkEvents is the reply of GET …/network/log.
type NetworkEvents struct {
	Events []cove.NetworkEvent `json:"events"`
	Lost   bool                `json:"lost,omitempty" doc:"earlier ones were not kept"`
}

// NetworkPresets is the reply of GET /v1/network/presets.
type NetworkPresets struct {
	Presets []cove.NetworkPreset `json:"presets"`
}

// Secrets is the reply of GET /v1/secrets.
type Secrets struct {
	Secrets []cove.Secret `json:"secrets"`
}

// Tools is the reply of GET /v1/tools.
type Tools struct {
	Tools []json.RawMessage `json:"tools"`
}

// ToolResult is the reply of POST /v1/sandboxes/{id}/tools/{tool}.
type ToolResult struct {
	Text    string          `json:"text" doc:"for the model; bounded"`
	IsError bool            `json:"is_error" doc:"the tool could not do what it was asked, or ran out of time"`
	Data    json.RawMessage `json:"data" doc:"the same in fields: as the tool's result schema says, or the error's code, message and hint"`
}
