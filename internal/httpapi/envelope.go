package httpapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/covehq/cove"
)

// ErrorReply is the body of every reply that is an error.
type ErrorReply struct {
	Error ErrorBody `json:"error"`
}

// ErrorBody is an error as the API shows it.
type ErrorBody struct {
	Code    cove.Code `json:"code" doc:"what kind of error; the list is append-only" enum:"invalid,unauthenticated,forbidden,not_found,conflict,gone,too_large,unsupported,exhausted,internal,unavailable,timeout,no_space"`
	Message string    `json:"message" doc:"what went wrong, with every problem that was found"`
	Cause   string    `json:"cause,omitempty" doc:"the innermost error, where the message says more than that"`
	Hint    string    `json:"hint,omitempty" doc:"what to do about it"`
	Exit    int       `json:"exit_code,omitempty" doc:"of a command that could not be started, as shells have it: 127 where there is no such program, 126 where it can't be executed"`
}

// maxText bounds a message: it may quote what a guest said.
const maxText = 8 << 10

// Describe returns err as the API shows it.
func Describe(err error) ErrorBody {
	body := ErrorBody{
		Code:    cove.CodeOf(err),
		Message: printable(err.Error()),
		Hint:    printable(cove.HintOf(err)),
		Exit:    cove.ExitOf(err),
	}
	if cause := printable(innermost(err).Error()); cause != body.Message {
		body.Cause = cause
	}
	return body
}

// Err returns the error that b describes.
func (b ErrorBody) Err() *cove.Error {
	code := b.Code
	if code == "" {
		code = cove.Internal
	}
	message := b.Message
	if message == "" {
		message = code.Error()
	}
	return &cove.Error{Code: code, Err: errors.New(message), Hint: b.Hint, Exit: b.Exit}
}

// ReadError returns the error that a reply of status 400 and above carries. It reads the
// body, up to a limit, and does not close it.
func ReadError(r *http.Response) *cove.Error {
	data, err := io.ReadAll(io.LimitReader(r.Body, MaxError))
	var reply ErrorReply
	if err == nil && json.Unmarshal(data, &reply) == nil && reply.Error.Code != "" {
		return reply.Error.Err()
	}
	// Not ours: something between client and server answered.
	text, _, _ := bytes.Cut(bytes.TrimSpace(data), []byte("\n"))
	message := "the server answered " + r.Status
	if len(text) > 0 && len(text) < 200 {
		message += ": " + printable(string(text))
	}
	return &cove.Error{
		Code: CodeOf(r.StatusCode),
		Err:  errors.New(message),
		Hint: "check that the URL leads to a cove daemon",
	}
}

func innermost(err error) error {
	for {
		next := errors.Unwrap(err)
		if next == nil {
			return err
		}
		err = next
	}
}

// printable returns text without control characters, which a hostile guest could use to
// rewrite the terminal that shows it, and cut to maxText.
func printable(text string) string {
	if len(text) > maxText {
		cut := maxText
		for cut > 0 && !utf8.RuneStart(text[cut]) {
			cut--
		}
		text = text[:cut] + "…"
	}
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' {
			return r
		}
		if unicode.IsControl(r) || r == utf8.RuneError {
			return '?'
		}
		return r
	}, text)
}
