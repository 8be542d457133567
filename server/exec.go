package server

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/covehq/cove"
	"github.com/covehq/cove/internal/httpapi"
	"github.com/covehq/cove/sandbox"
)

func (s *Server) registerExec() {
	op := operation("exec", http.MethodPost, "/v1/sandboxes/{id}/exec", tagCommands, "Run a command and wait for it",
		"A command that fails is not an error: see `exit_code`. When the request is cut off, the command and everything that it started is killed.\n\n"+
			"With `Accept: text/event-stream` the output is streamed: events `start`, `stdout`, `stderr`, `exit` with an Output as JSON, "+
			"or `error` as the last one. `application/vnd.cove.stream` is the same in frames: 1 byte kind (1 stdout, 2 stderr, 3 pty, 16 start, 17 exit, 18 error, 0 nothing), "+
			"8 bytes offset, 4 bytes length, both big-endian, and the payload: bytes for 1 to 3, JSON for 16 to 18.")
	op.MaxBodyBytes = maxExecBody
	op = replies(op, http.StatusOK, "How it ended and what it wrote, or a stream of that.", map[string]*huma.MediaType{
		httpapi.TypeJSON:   {Schema: schemaOf[cove.ExecResult](s)},
		httpapi.TypeSSE:    {Schema: text("server-sent events; their data is an Output"), Extensions: map[string]any{"x-item": schemaOf[cove.Output](s)}},
		httpapi.TypeFrames: {Schema: binary()},
	})
	register(s, op, s.exec)
}

type execInput struct {
	exchange
	Target
	Stdin bool `query:"stdin" doc:"streaming only: keep standard input open, for POST …/processes/{pid}/stdin"`
	Body  cove.ExecRequest
}

func (s *Server) exec(ctx context.Context, in *execInput) (*huma.StreamResponse, error) {
	box, err := s.host.Sandbox(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	kind := negotiate(in.r.Header.Get("Accept"), httpapi.TypeJSON, httpapi.TypeSSE, httpapi.TypeFrames)
	if kind != httpapi.TypeJSON {
		return s.execStream(ctx, box, in, kind)
	}
	if in.Stdin {
		return nil, cove.Errorf(cove.Invalid, "exec", in.ID, "stdin can be kept open for a stream only",
			"send the input in the body, or ask for a stream with Accept: text/event-stream")
	}
	result, err := box.Exec(ctx, in.Body)
	if err != nil {
		return nil, err
	}
	return raw(func() {
		in.w.Header().Set("Content-Type", httpapi.TypeJSON)
		encoder := json.NewEncoder(in.w)
		encoder.SetEscapeHTML(false)
		_ = encoder.Encode(result) // fails when the client is gone
	})
}

// execStream runs the command attached to the reply.
func (s *Server) execStream(ctx context.Context, box *sandbox.Sandbox, in *execInput, kind string) (*huma.StreamResponse, error) {
	input, err := stdinOf(in)
	if err != nil {
		return nil, err
	}
	output, err := box.Run(ctx, cove.ProcessRequest{
		Command: in.Body.Command, Cwd: in.Body.Cwd, Env: in.Body.Env, User: in.Body.User,
		Timeout: in.Body.Timeout, Stdin: in.Stdin,
	}, input)
	if err != nil {
		return nil, err
	}
	return raw(func() {
		defer output.Close()
		s.streamOutput(in.w, in.r, output, streaming{kind: kind, from: position(cove.FromStart())})
	})
}

// stdinOf returns the input that a request carries, or nil.
func stdinOf(in *execInput) (io.Reader, error) {
	text := in.Body.Stdin
	switch {
	case text == "":
		return nil, nil
	case in.Stdin:
		return nil, cove.Errorf(cove.Invalid, "exec", in.ID, "stdin is both in the body and to be kept open", "use one of the two")
	case in.Body.Encoding == cove.EncodingBase64:
		data, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			return nil, cove.Errorf(cove.Invalid, "exec", in.ID, "stdin is not base64", "encode it, or leave out the encoding")
		}
		text = string(data)
	}
	return strings.NewReader(text), nil
}
