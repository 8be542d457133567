package dial

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"unicode"

	"connectrpc.com/connect"

	"github.com/covehq/cove"
)

// kind is one row of the table between the wire's codes and ours.
type kind struct {
	connect connect.Code
	status  int
	code    cove.Code
}

// kinds maps Connect codes and HTTP statuses. The only thing that an agent authenticates
// is the user to act as, so an unauthenticated call is one that named an unknown user.
var kinds = []kind{
	{connect.CodeInvalidArgument, http.StatusBadRequest, cove.Invalid},
	{connect.CodeUnauthenticated, http.StatusUnauthorized, cove.Invalid},
	{connect.CodePermissionDenied, http.StatusForbidden, cove.Forbidden},
	{connect.CodeNotFound, http.StatusNotFound, cove.NotFound},
	{connect.CodeAlreadyExists, http.StatusConflict, cove.Conflict},
	{connect.CodeFailedPrecondition, http.StatusPreconditionFailed, cove.Conflict},
	{connect.CodeAborted, 0, cove.Conflict},
	{connect.CodeOutOfRange, http.StatusRequestedRangeNotSatisfiable, cove.Invalid},
	{connect.CodeUnimplemented, http.StatusNotImplemented, cove.NotSupported},
	{0, http.StatusNotAcceptable, cove.NotSupported},
	{0, http.StatusUnsupportedMediaType, cove.NotSupported},
	{0, http.StatusRequestEntityTooLarge, cove.TooLarge},
	{connect.CodeResourceExhausted, http.StatusTooManyRequests, cove.Exhausted},
	{connect.CodeUnavailable, http.StatusServiceUnavailable, cove.Unavailable},
	{connect.CodeCanceled, http.StatusBadGateway, cove.Unavailable},
	{connect.CodeDeadlineExceeded, http.StatusGatewayTimeout, cove.Timeout},
	{0, http.StatusInsufficientStorage, cove.NoSpace},
}

func ofConnect(code connect.Code) cove.Code {
	for _, k := range kinds {
		if k.connect == code {
			return k.code
		}
	}
	return cove.Internal
}

func ofStatus(status int) cove.Code {
	for _, k := range kinds {
		if k.status == status {
			return k.code
		}
	}
	return cove.Internal
}

// codeHeader names the cove.Code of an error where the wire's own code is too coarse.
const codeHeader = "Cove-Code"

// hints say what to do about an error of a kind, where the text does not.
var hints = map[cove.Code]string{
	cove.Unavailable: "look whether the sandbox still runs",
	cove.NoSpace:     "remove files or create the sandbox with a larger disk limit",
	cove.Forbidden:   "choose a path that the sandbox's user may use",
}

// fail makes the *cove.Error for what went wrong with a call. The end of ctx is the cause
// of whatever happened after it. A broken stream is Unavailable.
func fail(ctx context.Context, op, id string, err error) error {
	if err == nil {
		return nil
	}
	var ready *cove.Error
	if errors.As(err, &ready) {
		return cove.Wrap(err, op, id)
	}
	failed := &cove.Error{Code: cove.Unavailable, Op: op, ID: id, Err: err}
	var wire *connect.Error
	switch isWire := errors.As(err, &wire) && connect.IsWireError(err); {
	case ctx.Err() != nil:
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			failed.Code = cove.Timeout
		}
		failed.Err = ctx.Err()
		return failed
	case isWire:
		failed.Code = ofConnect(wire.Code())
		if wire.Meta().Get(codeHeader) == string(cove.NoSpace) {
			failed.Code = cove.NoSpace
		}
		failed.Err = errors.New(printable(wire.Message()))
	case errors.As(err, &wire) && wire.Code() == connect.CodeResourceExhausted:
		failed.Code = cove.TooLarge
		failed.Err = errors.New("the reply is larger than an agent may send")
	case errors.As(err, &wire):
		failed.Err = errors.New("the guest agent does not answer: " + printable(wire.Message()))
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		failed.Err = errors.New("the guest agent broke off the stream")
	}
	failed.Hint = hints[failed.Code]
	return failed
}

// failStatus makes the *cove.Error for an HTTP reply that is an error, and reads of its
// body what fits a message. It closes the body.
func failStatus(op, id string, response *http.Response) error {
	defer response.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(response.Body, 4<<10))
	message := string(body)
	var reply struct{ Message string }
	if json.Unmarshal(body, &reply) == nil && reply.Message != "" {
		message = reply.Message
	}
	if message = printable(message); message == "" {
		message = strings.ToLower(http.StatusText(response.StatusCode))
	}
	code := ofStatus(response.StatusCode)
	return &cove.Error{Code: code, Op: op, ID: id, Err: errors.New(message), Hint: hints[code]}
}

// printable makes a guest's words fit for a terminal and a log: one line, bounded,
// without control characters.
func printable(s string) string {
	const longest = 1 << 10
	if len(s) > longest {
		s = s[:longest] + "…"
	}
	s = strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' {
			return ' '
		}
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	return strings.TrimSpace(s)
}
