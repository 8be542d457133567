package server

import (
	"context"
	"errors"
	"io"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/covehq/cove"
	"github.com/covehq/cove/internal/httpapi"
	"github.com/covehq/cove/sandbox"
)

func (s *Server) registerOutput() {
	op := operation("read-output", http.MethodGet, "/v1/sandboxes/{id}/processes/{pid}/output", tagCommands, "Read what a process writes",
		"From any offset that is still kept, as often as wanted; the process does not notice. "+
			"As server-sent events (the default, which a client resumes by `Last-Event-ID`), as frames (see exec), or with `?stream=` the bytes of one stream as they are.")
	op = replies(op, http.StatusOK, "What was written, and what is written while following.", map[string]*huma.MediaType{
		httpapi.TypeSSE:    {Schema: text("server-sent events; their data is an Output"), Extensions: map[string]any{"x-item": schemaOf[cove.Output](s)}},
		httpapi.TypeFrames: {Schema: binary()},
		httpapi.TypeBytes:  {Schema: binary()},
	})
	register(s, op, s.readOutput)
}

type outputInput struct {
	exchange
	ProcessTarget
	StdoutOffset string      `query:"stdout_offset" doc:"where in stdout, or the terminal, to begin: a number of bytes, or end; default 0" example:"0"`
	StderrOffset string      `query:"stderr_offset" doc:"where in stderr to begin; default 0" example:"end"`
	Follow       bool        `query:"follow" default:"true" doc:"go on until the process ends; false ends with what is there"`
	Stream       cove.Stream `query:"stream" enum:"stdout,stderr,pty" doc:"this stream alone, as bytes"`
	LastEventID  string      `header:"Last-Event-ID" doc:"id of the last event received; overrides the offsets"`
}

func (s *Server) readOutput(ctx context.Context, in *outputInput) (*huma.StreamResponse, error) {
	from, err := in.position()
	if err != nil {
		return nil, err
	}
	process, err := s.process(ctx, in.ProcessTarget)
	if err != nil {
		return nil, err
	}
	kind := httpapi.TypeBytes
	if in.Stream == "" {
		kind = negotiate(in.r.Header.Get("Accept"), httpapi.TypeSSE, httpapi.TypeFrames)
	}
	ctx, cancel := s.passive(ctx)
	output, err := process.Follow(ctx, cove.Offsets(from), !in.Follow)
	if err != nil {
		cancel()
		return nil, err
	}
	return raw(func() {
		defer cancel()
		defer output.Close()
		s.streamOutput(in.w, in.r, output, streaming{kind: kind, from: from, only: in.Stream})
	})
}

func (in *outputInput) position() (position, error) {
	if in.LastEventID != "" {
		return parsePosition(in.LastEventID)
	}
	var from position
	var err error
	if from.Stdout, err = parseOffset(in.StdoutOffset); err != nil {
		return from, err
	}
	from.Stderr, err = parseOffset(in.StderrOffset)
	return from, err
}

// streaming is how an output is to be sent.
type streaming struct {
	kind string      // content type
	from position    // where it begins
	only cove.Stream // as bytes: the stream to send
}

// streamOutput answers with an output, as it comes.
func (s *Server) streamOutput(w http.ResponseWriter, r *http.Request, output *sandbox.Output, how streaming) {
	e, appendOutput := outputEncoding(how)
	s.stream(w, r, e, func(ctx context.Context, put put) error {
		// Next does not know this context: closing is what ends it.
		stop := context.AfterFunc(ctx, func() { output.Close() })
		defer stop()
		next := cove.Output{PID: output.PID()}
		for {
			if err := put(func(b []byte) []byte { return appendOutput(b, &next) }); err != nil {
				return err
			}
			if next.Exit != nil {
				return nil
			}
			var err error
			if next, err = output.Next(); errors.Is(err, io.EOF) {
				return nil
			} else if err != nil {
				return s.shutdownOr(err)
			}
		}
	})
}

// outputEncoding returns how outputs are written. The function that appends one is to be
// called with each in turn.
func outputEncoding(how streaming) (encoding, func([]byte, *cove.Output) []byte) {
	switch how.kind {
	case httpapi.TypeFrames:
		return framesEncoding(), httpapi.AppendOutput
	case httpapi.TypeBytes:
		return bytesEncoding(), func(b []byte, o *cove.Output) []byte {
			if o.Stream != how.only {
				return b
			}
			return append(b, o.Data...)
		}
	}
	at := how.from
	return sseEncoding(), func(b []byte, o *cove.Output) []byte {
		at = at.after(o)
		return appendOutputEvent(b, o, at)
	}
}
