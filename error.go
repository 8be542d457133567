package cove

import (
	"context"
	"errors"
	"strings"
)

// Code is the kind of an error. The list is short and append-only. A Code is itself
// an error, so that errors.Is(err, cove.NotFound) holds for an Error of that kind,
// and a driver may return a bare one.
type Code string

// The codes; docs/architecture.md and the server's table give their HTTP statuses.
const (
	Invalid         Code = "invalid"
	Unauthenticated Code = "unauthenticated"
	Forbidden       Code = "forbidden"
	NotFound        Code = "not_found"
	Conflict        Code = "conflict"
	Gone            Code = "gone"
	TooLarge        Code = "too_large"
	NotSupported    Code = "unsupported"
	Exhausted       Code = "exhausted"
	Internal        Code = "internal"
	Unavailable     Code = "unavailable"
	Timeout         Code = "timeout"
	NoSpace         Code = "no_space"
)

// Error returns the code in words.
func (c Code) Error() string { return strings.ReplaceAll(string(c), "_", " ") }

// Error is the error of every layer. The portable types of package sandbox build it
// once, around what a driver or the guest returned.
type Error struct {
	Code Code   // what kind; never empty
	Op   string // what was being done: "create", "exec", "read file"
	ID   string // of what: a sandbox id, a path, a runtime; may be empty
	Err  error  // what went wrong, in lower case and without a period
	Hint string // what to do about it; may be empty

	// Exit is the status that a shell gives a command of which no program ran: 127 where
	// there is none, 126 where there is one that can't be executed, else 0.
	Exit int
}

// Errorf makes an Error of code around a message. It is a shorthand for validation
// code, which has no cause to wrap.
func Errorf(code Code, op, id, message, hint string) *Error {
	return &Error{Code: code, Op: op, ID: id, Err: errors.New(message), Hint: hint}
}

// Error returns "op id: message".
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Op)
	if e.ID != "" {
		if b.Len() > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(e.ID)
	}
	if b.Len() > 0 {
		b.WriteString(": ")
	}
	if e.Err != nil {
		b.WriteString(e.Err.Error())
	} else {
		b.WriteString(e.Code.Error())
	}
	return b.String()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Is reports whether target is e's code.
func (e *Error) Is(target error) bool {
	code, ok := target.(Code)
	return ok && code == e.Code
}

// CodeOf returns the kind of err: that of the first Error or Code in its chain, Timeout
// for an expired context, Unavailable for a cancelled one, else Internal. It returns "" for nil.
func CodeOf(err error) Code {
	if err == nil {
		return ""
	}
	var e *Error
	if errors.As(err, &e) && e.Code != "" {
		return e.Code
	}
	var code Code
	if errors.As(err, &code) {
		return code
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return Timeout
	}
	if errors.Is(err, context.Canceled) {
		return Unavailable // whoever asked has left, or what was asked is leaving
	}
	return Internal
}

// HintOf returns the hint nearest to the surface of err, or "".
func HintOf(err error) string {
	for err != nil {
		var e *Error
		if !errors.As(err, &e) {
			return ""
		}
		if e.Hint != "" {
			return e.Hint
		}
		err = e.Err
	}
	return ""
}

// ExitOf returns the Exit nearest to the surface of err, or 0.
func ExitOf(err error) int {
	var e *Error
	for errors.As(err, &e) {
		if e.Exit != 0 {
			return e.Exit
		}
		err = e.Err
	}
	return 0
}

// Wrap gives err an operation and an id, keeping its code, hint and exit. It returns nil for
// nil, and err itself where it already is an Error of the same operation.
func Wrap(err error, op, id string) error {
	if err == nil {
		return nil
	}
	if e, ok := err.(*Error); ok && (e.Op == op || e.Op == "") {
		if e.ID == "" || e.Op == "" {
			filled := *e
			filled.Op = op
			if filled.ID == "" {
				filled.ID = id
			}
			return &filled
		}
		return err
	}
	return &Error{Code: CodeOf(err), Op: op, ID: id, Err: err, Hint: HintOf(err), Exit: ExitOf(err)}
}

// Problems collects what is wrong with a request, so that a caller hears all of it at once.
type Problems []string

// Add notes one problem.
func (p *Problems) Add(problem string) { *p = append(*p, problem) }

// Err returns nil without problems, else one Error of code that lists them all.
func (p Problems) Err(code Code, op, hint string) error {
	if len(p) == 0 {
		return nil
	}
	return &Error{Code: code, Op: op, Err: errors.New(strings.Join(p, "; ")), Hint: hint}
}
