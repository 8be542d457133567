// Package tools provides what an agent does in a sandbox as functions that a model can
// call: run a shell line or Python, read, write, patch and edit files, list and search
// them. Each is defined once, here: its name, its text for the model, the JSON schemas of
// its parameters and of its result, and what it does.
package tools

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"

	"github.com/google/jsonschema-go/jsonschema"

	"github.com/covehq/cove"
)

//go:generate go run ./generate ../api/tools.json

// Sandbox is what tools work on.
type Sandbox interface {
	Files
	// Exec runs a command and waits for it. A command that fails is no error. When ctx
	// ends, the command is killed with everything that it started.
	Exec(ctx context.Context, r cove.ExecRequest) (cove.ExecResult, error)
}

// Files are the files of a sandbox. A relative path is below its working directory.
type Files interface {
	// List returns what one directory holds.
	List(ctx context.Context, path string) ([]cove.FileInfo, error)
	// Open returns the content of a file.
	Open(ctx context.Context, path string) (io.ReadCloser, error)
	// Write replaces a file, or on error leaves it as it was, and makes its parents. A
	// mode of 0 keeps that of a file that is there, and is 0644 for a new one.
	Write(ctx context.Context, path string, r io.Reader, mode fs.FileMode) error
	// Remove removes a file; it succeeds where there is none.
	Remove(ctx context.Context, path string) error
}

// Tool is one function for a model.
type Tool struct {
	Name        string
	Title       string // for people
	Description string // for the model
	// Parameters is the schema of the arguments, an object without further properties.
	// What may be left out may be null too.
	Parameters *jsonschema.Schema
	// Result is the schema of Result.Data where the call did not fail.
	Result *jsonschema.Schema
	// ReadOnly tools change nothing.
	ReadOnly bool
	// Idempotent tools do nothing more when they are called with the same arguments again.
	Idempotent bool

	call func(ctx context.Context, sandbox Sandbox, arguments json.RawMessage) (outcome, error)
}

// Result is what came of a call. A call that fails has a result too, for the model to
// learn from.
type Result struct {
	Text    string `json:"text"`     // for the model; bounded
	IsError bool   `json:"is_error"` // the tool could not do what it was asked, or ran out of time
	Data    any    `json:"data"`     // the same in fields: as Tool.Result says, or a Failure
}

// Failure is the data of a call that did nothing.
type Failure struct {
	Code    cove.Code `json:"code"`
	Message string    `json:"message"`
	Hint    string    `json:"hint,omitempty"` // what to do about it
}

// outcome is the data of a result, which knows its own text.
type outcome interface {
	text() string
}

// failing is an outcome that may be an error.
type failing interface{ failed() bool }

// Call runs the tool. The arguments are a JSON object; what is wrong with them is told
// in the result.
func (t Tool) Call(ctx context.Context, sandbox Sandbox, arguments json.RawMessage) Result {
	done, err := t.call(ctx, sandbox, arguments)
	if err != nil {
		return Failed(cove.Wrap(err, t.Name, ""))
	}
	failing, ok := done.(failing)
	return Result{Text: done.text(), IsError: ok && failing.failed(), Data: done}
}

// Failed returns the result of a call that failed with err.
func Failed(err error) Result {
	f := Failure{Code: cove.CodeOf(err), Message: cut(err.Error(), maxMessage), Hint: cut(cove.HintOf(err), maxMessage)}
	text := "error: " + f.Message
	if f.Hint != "" {
		text += "\nhint: " + f.Hint
	}
	return Result{Text: text, IsError: true, Data: f}
}

// maxMessage bounds the text of an error, which may quote what came from inside.
const maxMessage = 4000

// All returns the tools, in the order in which they are shown.
func All() []Tool {
	return []Tool{
		shellTool(), runPythonTool(),
		readFileTool(), writeFileTool(), listFilesTool(),
		patchFileTool(), editFileTool(),
		grepTool(), globTool(),
	}
}

// define makes a tool of a function. The schemas are those of its types, whose optional
// fields are pointers with omitempty.
func define[In any, Out outcome](t Tool, do func(ctx context.Context, sandbox Sandbox, in In) (Out, error)) Tool {
	t.Parameters, t.Result = schemaOf[In](), schemaOf[Out]()
	t.call = func(ctx context.Context, sandbox Sandbox, arguments json.RawMessage) (outcome, error) {
		var in In
		if err := decode(arguments, &in, t.Parameters); err != nil {
			return nil, err
		}
		out, err := do(ctx, sandbox, in)
		if err != nil {
			return nil, err
		}
		return out, nil
	}
	return t
}

// schemaOf returns the schema of a type of this package.
func schemaOf[T any]() *jsonschema.Schema {
	schema, err := jsonschema.For[T](nil)
	if err != nil {
		panic(fmt.Sprintf("tools: no schema of %T: %v", *new(T), err)) // a mistake in this package
	}
	plain(schema)
	return schema
}

// plain makes of types that may be null those that may be left out, all the way down.
func plain(schema *jsonschema.Schema) {
	if len(schema.Types) == 2 && schema.Types[0] == "null" {
		schema.Type, schema.Types = schema.Types[1], nil
	}
	for _, property := range schema.Properties {
		plain(property)
	}
	if schema.Items != nil {
		plain(schema.Items)
	}
}
