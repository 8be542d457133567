package server

import (
	"context"
	"io"
	"mime"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/covehq/cove"
	"github.com/covehq/cove/internal/httpapi"
)

const (
	// maxBody bounds a JSON body; maxExecBody one that may carry a command's input.
	maxBody     = 1 << 20
	maxExecBody = 16 << 20
)

// register adds an operation. Its JSON input is checked against the schema of I before
// handle is called; what handle returns is sent, an error in the envelope.
func register[I, O any](s *Server, op huma.Operation, handle func(context.Context, *I) (*O, error)) {
	if op.MaxBodyBytes == 0 {
		op.MaxBodyBytes = maxBody
	}
	op.MaxBodyBytes++ // huma takes a body of exactly the limit for one too many
	// The deadline of reading is the adapted context's; huma's would go on to run after
	// the body was read, and then cancel the request.
	op.BodyReadTimeout = -1
	if op.Responses == nil {
		op.Responses = map[string]*huma.Response{}
	}
	op.Metadata = map[string]any{metadataSchemas: s.api.OpenAPI().Components.Schemas}
	op.Responses["default"] = &huma.Response{
		Description: "An error. The status follows from its code.",
		Content:     content(httpapi.TypeJSON, schemaOf[httpapi.ErrorReply](s)),
	}
	huma.Register(s.api, op, func(ctx context.Context, in *I) (*O, error) {
		out, err := handle(ctx, in)
		if err != nil {
			return nil, newProblem(ctx, err)
		}
		return out, nil
	})
}

// exchange is embedded by the inputs of operations that read or write raw bytes.
type exchange struct {
	w http.ResponseWriter
	r *http.Request
}

// Resolve lets huma fill the exchange in.
func (e *exchange) Resolve(ctx huma.Context) []error {
	e.r, e.w = humago.Unwrap(ctx)
	return nil
}

// raw is the output of an operation that writes its reply itself.
func raw(write func()) (*huma.StreamResponse, error) {
	return &huma.StreamResponse{Body: func(huma.Context) { write() }}, nil
}

// adapted is a huma.Context that gives huma's own errors our statuses, and a body its
// deadline.
type adapted struct {
	inner
	bodyTimeout time.Duration
	problem     *problem // what transformError made of an error of huma's
}

// inner is huma.Context under a name that does not hide its method Context.
type inner huma.Context

// Unwrap is for humago.Unwrap.
func (a *adapted) Unwrap() huma.Context { return a.inner }

// SetStatus sends the status.
func (a *adapted) SetStatus(status int) {
	if a.problem != nil {
		status = a.problem.status
		a.SetHeader("Content-Type", httpapi.TypeJSON)
	}
	if status >= http.StatusBadRequest {
		a.SetHeader("X-Content-Type-Options", "nosniff")
	}
	a.inner.SetStatus(status)
}

// SetReadDeadline does nothing: see BodyReader.
func (a *adapted) SetReadDeadline(time.Time) error { return nil }

// BodyReader returns the body, which has to arrive in time.
func (a *adapted) BodyReader() io.Reader {
	r, w := humago.Unwrap(a)
	controller := http.NewResponseController(w)
	_ = controller.SetReadDeadline(time.Now().Add(a.bodyTimeout)) // a test's writer may have none
	from := r.Body
	if p, ok := from.(*paced); ok { // whose pace is the one of streams
		p.ended = true
		from = p.ReadCloser
	}
	return &body{ReadCloser: from, controller: controller}
}

// body is a request body whose sender may not dawdle.
type body struct {
	io.ReadCloser
	controller *http.ResponseController
}

// Read reads a piece. At the end the deadline is taken back, since it would also end the
// server's watch for a client that goes away. After an error it stays: net/http reads what
// is left of a body before it answers.
func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		_ = b.controller.SetReadDeadline(time.Time{})
	}
	return n, err
}

// adapt is the huma middleware around every operation.
func (s *Server) adapt(ctx huma.Context, next func(huma.Context)) {
	r, w := humago.Unwrap(ctx)
	if takesJSON(ctx.Operation()) && len(ctx.Operation().RequestBody.Content) == 1 && r.ContentLength != 0 {
		kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
		if err != nil || kind != httpapi.TypeJSON {
			s.failStatus(w, r, http.StatusUnsupportedMediaType, cove.Errorf(cove.Invalid, "", "",
				"the body is not declared as JSON", "send the header Content-Type: application/json"))
			return
		}
	}
	next(&adapted{inner: ctx, bodyTimeout: s.options.BodyTimeout})
}

func takesJSON(op *huma.Operation) bool {
	return op.RequestBody != nil && op.RequestBody.Content[httpapi.TypeJSON] != nil
}
