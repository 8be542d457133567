package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"os"
	"slices"

	"github.com/danielgtaylor/huma/v2"

	"github.com/covehq/cove"
	"github.com/covehq/cove/internal/httpapi"
	"github.com/covehq/cove/run"
)

func (s *Server) registerRun() {
	op := operation("run", http.MethodPost, "/v1/run", tagCommands, "Run commands in a sandbox of their own",
		"Files in, commands one after another, results and what all of them changed out; nothing of the sandbox is left. "+
			"A command that fails is not an error: see `exit_code`. When the request is cut off, what runs is killed.\n\n"+
			"The request is JSON with a small archive in base64, or `multipart/form-data` with the JSON as `request` and the archive, "+
			"of up to 512 MiB, as `archive`: `curl -F request='{\"commands\": [\"make\"]}' -F archive=@src.tar.gz …/v1/run`.")
	body := &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{
		httpapi.TypeJSON: {Schema: schemaOf[cove.RunRequest](s)},
		httpapi.TypeForm: {
			Schema: &huma.Schema{
				Type: huma.TypeObject, Required: []string{"request"},
				Properties: map[string]*huma.Schema{"request": schemaOf[cove.RunRequest](s), "archive": binary()},
			},
			Encoding: map[string]*huma.Encoding{"request": {ContentType: httpapi.TypeJSON}, "archive": {ContentType: httpapi.TypeBytes}},
		},
	}}
	op = replies(op, http.StatusOK, "What the commands said and changed.", content(httpapi.TypeJSON, schemaOf[cove.RunResult](s)))
	register(s, op, s.run)
	// Not before: huma would read a body of JSON itself.
	s.api.OpenAPI().Paths[op.Path].Post.RequestBody = body
}

// runInput is read by the handler: it may be of any length.
type runInput struct {
	exchange
	op *huma.Operation
}

// Resolve lets huma fill the input in.
func (in *runInput) Resolve(ctx huma.Context) []error {
	in.op = ctx.Operation()
	return in.exchange.Resolve(ctx)
}

func (s *Server) run(ctx context.Context, in *runInput) (*huma.StreamResponse, error) {
	running, err := s.runs.Begin()
	if err != nil {
		return nil, err
	}
	reply, err := s.runAll(ctx, in, running)
	if err != nil {
		_ = running.Close() // files without names
		return nil, err
	}
	return reply, nil
}

func (s *Server) runAll(ctx context.Context, in *runInput, running *run.Run) (*huma.StreamResponse, error) {
	request, archive, err := in.read(running)
	if err != nil {
		return nil, err
	}
	if err := running.Do(ctx, request, archive); err != nil {
		return nil, err
	}
	return raw(func() {
		defer running.Close()
		in.w.Header().Set("Content-Type", httpapi.TypeJSON)
		in.w.Header().Set("X-Content-Type-Options", "nosniff")
		if err := running.WriteJSON(in.w, request.Return); err != nil {
			describe(ctx, err)          // logs what is ours to know
			panic(http.ErrAbortHandler) // so that nobody takes a part for the whole
		}
	})
}

// read reads the request and its archive, nil where there is none.
func (in *runInput) read(running *run.Run) (cove.RunRequest, io.Reader, error) {
	kind, _, err := mime.ParseMediaType(in.r.Header.Get("Content-Type"))
	switch {
	case err == nil && kind == httpapi.TypeForm:
		return in.readForm(running)
	case err == nil && kind == httpapi.TypeJSON:
	default:
		return cove.RunRequest{}, nil, cove.Errorf(cove.Invalid, "run", "", "the body is declared neither as JSON nor as a form",
			"send Content-Type: application/json or multipart/form-data")
	}
	request, err := in.decode(in.r.Body, maxExecBody)
	if err != nil || len(request.Archive) == 0 {
		return request, nil, err
	}
	return request, running.Archive(request.Archive), nil
}

// readForm reads the parts of a form, in any order. The archive is received whole before
// there is a sandbox, which needn't wait for a slow sender.
func (in *runInput) readForm(running *run.Run) (request cove.RunRequest, archive io.Reader, err error) {
	parts, err := in.r.MultipartReader()
	if err != nil {
		return request, nil, badForm(err)
	}
	var spool *os.File
	seen := map[string]bool{}
	for {
		part, err := parts.NextPart()
		if err == io.EOF {
			break
		}
		if err != nil {
			return request, nil, badForm(err)
		}
		name := part.FormName()
		if seen[name] || name != "request" && name != "archive" {
			return request, nil, badForm(fmt.Errorf("the part %.40q is twice, or none of request and archive", name))
		}
		seen[name] = true
		if name == "request" {
			request, err = in.decode(part, maxBody)
		} else if spool, err = running.File(); err == nil {
			err = receive(spool, part)
		}
		if err != nil {
			return request, nil, err
		}
	}
	switch {
	case !seen["request"]:
		return request, nil, badForm(errors.New("there is no part request"))
	case len(request.Archive) > 0 && spool != nil:
		return request, nil, badForm(errors.New("there are two archives, one of them in the part request"))
	case len(request.Archive) > 0:
		return request, running.Archive(request.Archive), nil
	case spool == nil:
		return request, nil, nil
	}
	_, err = spool.Seek(0, io.SeekStart)
	return request, spool, err
}

func receive(spool *os.File, part *multipart.Part) error {
	n, err := io.Copy(spool, &io.LimitedReader{R: part, N: run.MaxArchive + 1})
	switch {
	case n > run.MaxArchive:
		return cove.Errorf(cove.TooLarge, "run", "", "the archive is larger than 512MiB", "compress it, or create a sandbox and move files one by one")
	case errors.Is(err, io.ErrUnexpectedEOF):
		return badForm(err)
	}
	return err
}

// decode reads a JSON request and checks it against the schema.
func (in *runInput) decode(r io.Reader, most int64) (request cove.RunRequest, err error) {
	data, err := io.ReadAll(io.LimitReader(r, most+1))
	if err != nil {
		return request, badForm(err)
	}
	if int64(len(data)) > most {
		return request, cove.Errorf(cove.TooLarge, "run", "", fmt.Sprintf("the JSON is larger than %v", cove.Bytes(most)), "send the archive as a part of multipart/form-data")
	}
	var value any
	if err := json.Unmarshal(data, &value); err != nil {
		return request, cove.Errorf(cove.Invalid, "run", "", "the request is not JSON", "see /docs for what this request takes")
	}
	schemas, _ := in.op.Metadata[metadataSchemas].(huma.Registry)
	var found huma.ValidateResult
	huma.Validate(schemas, in.op.RequestBody.Content[httpapi.TypeJSON].Schema, huma.NewPathBuffer([]byte("body"), 4), huma.ModeWriteToServer, value, &found)
	var problems cove.Problems
	for _, err := range found.Errors {
		text := err.Error()
		if detail, ok := err.(*huma.ErrorDetail); ok {
			text = explain(in.op, detail)
		}
		if !slices.Contains(problems, text) {
			problems.Add(text)
		}
	}
	const hint = "see /docs for what this request takes"
	if err := problems.Err(cove.Invalid, "run", hint); err != nil {
		return request, err
	}
	if err := json.Unmarshal(data, &request); err != nil {
		return request, &cove.Error{Code: cove.Invalid, Op: "run", Err: err, Hint: hint}
	}
	return request, nil
}

func badForm(err error) error {
	return &cove.Error{
		Code: cove.Invalid, Op: "run", Err: fmt.Errorf("the body can't be read: %w", err),
		Hint: "send a form of the parts request, which is JSON, and archive",
	}
}
