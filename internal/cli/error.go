package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/covehq/cove"
)

// The statuses that are not the command's own. 124 and 125 are those of timeout(1) and
// of env(1) and its kin.
const (
	exitError   = 1
	exitUsage   = 2
	exitTimeout = 124
	exitFailed  = 125
	exitSignal  = 128 // plus the signal's number, as shells have it
)

// statusError ends the program with a status. The error in it, if any, is reported.
type statusError struct {
	status int
	err    error
}

func (e *statusError) Error() string {
	if e.err != nil {
		return e.err.Error()
	}
	return fmt.Sprintf("exit status %d", e.status)
}

func (e *statusError) Unwrap() error { return e.err }

// usage makes an error about the command line itself.
func usage(message, hint string) error {
	return &statusError{status: exitUsage, err: &cove.Error{Code: cove.Invalid, Err: errors.New(message), Hint: hint}}
}

// flagError says what is wrong with a flag in the words of this program.
func flagError(cmd *cobra.Command, err error) error {
	hint := "run " + cmd.CommandPath() + " --help for its flags"
	var (
		unknown *pflag.NotExistError
		missing *pflag.ValueRequiredError
		invalid *pflag.InvalidValueError
	)
	switch {
	case errors.Is(err, pflag.ErrHelp):
		return err
	case errors.As(err, &unknown):
		name := "--" + unknown.GetSpecifiedName()
		if unknown.GetSpecifiedShortnames() != "" {
			name = "-" + unknown.GetSpecifiedName()
		}
		return usage("unknown flag "+quote(name), hint)
	case errors.As(err, &missing):
		return usage("--"+missing.GetFlag().Name+" needs a value", hint)
	case errors.As(err, &invalid):
		return usage("--"+invalid.GetFlag().Name+": "+invalid.Unwrap().Error(), hint)
	}
	return usage(err.Error(), hint)
}

// report writes err for people, or as the API writes errors, and returns the status
// to exit with.
func (p *program) report(err error) int {
	if err == nil {
		return 0
	}
	status := exitError
	var exit *statusError
	if errors.As(err, &exit) {
		status = exit.status
		if exit.err == nil {
			return status
		}
	}
	if p.json {
		p.reportJSON(err)
		return status
	}
	var b strings.Builder
	fmt.Fprintf(&b, "cove: %s\n", clean(err.Error(), "\n"))
	if hint := cove.HintOf(err); hint != "" {
		fmt.Fprintf(&b, "hint: %s\n", clean(hint, "\n"))
	}
	io.WriteString(p.Stderr, b.String())
	return status
}

func (p *program) reportJSON(err error) {
	type body struct {
		Code    cove.Code `json:"code"`
		Message string    `json:"message"`
		Hint    string    `json:"hint,omitempty"`
	}
	encoder := json.NewEncoder(p.Stderr)
	encoder.SetEscapeHTML(false)
	encoder.Encode(map[string]body{"error": {Code: cove.CodeOf(err), Message: err.Error(), Hint: cove.HintOf(err)}})
}

// failed marks err as Cove's own failure to run a command, unless it is the command's: its
// program is not there, or can't be executed.
func failed(err error) error {
	var exit *statusError
	if err == nil || errors.As(err, &exit) {
		return err
	}
	if status := cove.ExitOf(err); status != 0 {
		return &statusError{status: status, err: err}
	}
	return &statusError{status: exitFailed, err: err}
}
