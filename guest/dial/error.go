package dial

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"unicode/utf8"

	"connectrpc.com/connect"

	"github.com/covehq/cove"
	"github.com/covehq/cove/guest/wire"
)

// own maps a code of the agent's to the caller's point of view: the only thing that an
// agent authenticates is the user to act as, so that is a request that named an unknown
// one.
func own(code cove.Code) cove.Code {
	if code == cove.Unauthenticated {
		return cove.Invalid
	}
	return code
}

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
	var answer *connect.Error
	switch isWire := errors.As(err, &answer) && connect.IsWireError(err); {
	case ctx.Err() != nil:
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			failed.Code = cove.Timeout
		}
		failed.Err = ctx.Err()
		return failed
	case isWire:
		failed.Code = own(wire.OfConnect(answer.Meta().Get(wire.CodeHeader), answer.Code()))
		failed.Err = errors.New(printable(answer.Message()))
		failed.Hint = printable(answer.Meta().Get(wire.HintHeader))
		failed.Exit = startStatus(answer.Meta().Get(wire.ExitHeader))
	case errors.As(err, &answer) && answer.Code() == connect.CodeResourceExhausted:
		failed.Code = cove.TooLarge
		failed.Err = errors.New("the reply is larger than an agent may send")
	case errors.As(err, &answer):
		failed.Err = errors.New("the guest agent does not answer: " + printable(cause(answer.Unwrap()).Error()))
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		failed.Err = errors.New("the guest agent broke off the stream")
	}
	if failed.Hint == "" {
		failed.Hint = hints[failed.Code]
	}
	return failed
}

// startStatus reads the status of a command that could not be started: a guest may say
// either of two.
func startStatus(header string) int {
	switch header {
	case "126":
		return 126
	case "127":
		return 127
	}
	return 0
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
	code := own(wire.OfStatus(response.Header.Get(wire.CodeHeader), response.StatusCode))
	failed := &cove.Error{Code: code, Op: op, ID: id, Err: errors.New(message), Hint: hints[code]}
	if hint := printable(response.Header.Get(wire.HintHeader)); hint != "" {
		failed.Hint = hint
	}
	return failed
}

// checkText refuses what the wire's text can't hold: it is UTF-8, and names of files and
// arguments of programs may be any bytes.
func checkText(op, id string, texts ...string) error {
	for _, text := range texts {
		if !utf8.ValidString(text) {
			return cove.Errorf(cove.Invalid, op, printable(id), fmt.Sprintf("%q is not UTF-8", text), "move files with such names by archive")
		}
	}
	return nil
}

// maxText is how much of a guest's words is shown.
const maxText = 1 << 10

// printable makes them fit for a terminal and a log.
func printable(s string) string { return wire.Printable(s, maxText) }
