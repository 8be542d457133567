package tools

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"time"

	"github.com/covehq/cove"
)

const (
	// defaultTimeout is longer than a model waits for most commands. It is a guard
	// against those that never end: a command is killed then.
	defaultTimeout = 120.0
	maxTimeout     = 24 * 60 * 60.0
	// maxOutput bounds each stream. A model reads about a token for each four bytes.
	maxOutput = 32 * cove.KiB
)

type shellInput struct {
	Command string   `json:"command" jsonschema:"The line for sh, with pipes, redirections and several commands as you like."`
	Timeout *float64 `json:"timeout,omitempty" jsonschema:"Seconds after which the command and everything that it started is killed. Default 120."`
	Cwd     *string  `json:"cwd,omitempty" jsonschema:"Directory to run in; a relative one is below the working directory. Default the working directory."`
	Stdin   *string  `json:"stdin,omitempty" jsonschema:"Text for its standard input. Default none."`
}

type runPythonInput struct {
	Code    string   `json:"code" jsonschema:"A whole Python program. Only what it prints is returned."`
	Cwd     *string  `json:"cwd,omitempty" jsonschema:"Directory to run in; a relative one is below the working directory. Default the working directory."`
	Timeout *float64 `json:"timeout,omitempty" jsonschema:"Seconds after which the program and everything that it started is killed. Default 120."`
	Stdin   *string  `json:"stdin,omitempty" jsonschema:"Text for its standard input. Default none."`
}

// commandResult is how a command ended and what it wrote.
type commandResult struct {
	Stdout     string  `json:"stdout" jsonschema:"what it wrote to standard output; bytes that are not UTF-8 are replaced"`
	Stderr     string  `json:"stderr" jsonschema:"what it wrote to standard error"`
	ExitCode   int     `json:"exit_code" jsonschema:"0 when it succeeded, -1 when a signal ended it"`
	Signal     string  `json:"signal,omitempty" jsonschema:"the signal that ended it, as in SIGKILL"`
	TimedOut   bool    `json:"timed_out" jsonschema:"it was killed because its time was over"`
	Truncated  bool    `json:"truncated" jsonschema:"the middle of a stream that was too long was left out"`
	DurationMS float64 `json:"duration_ms" jsonschema:"how long it took, in milliseconds"`

	timeout float64
}

func shellTool() Tool {
	return define(Tool{
		Name: "shell", Title: "Run a shell command",
		Description: "Run a command with sh in the sandbox and return its stdout, stderr and exit code. Each call is a shell of its own: " +
			"directories and variables are not kept from one to the next, files are. Output longer than 32 KiB loses its middle.",
	}, func(ctx context.Context, sandbox Sandbox, in shellInput) (*commandResult, error) {
		if strings.TrimSpace(in.Command) == "" {
			return nil, invalid("the command is empty", "give a line for sh, as in ls -l")
		}
		return run(ctx, sandbox, cove.Command{Line: in.Command}, in.Cwd, in.Timeout, in.Stdin)
	})
}

func runPythonTool() Tool {
	return define(Tool{
		Name: "run_python", Title: "Run Python",
		Description: "Run a Python program with python3 in the sandbox and return its stdout, stderr and exit code. " +
			"Each call is a process of its own: print what you want to know. Output longer than 32 KiB loses its middle.",
	}, runPython)
}

// startPython lets a program import what lies in its directory, although its own file does
// not.
const startPython = `PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" exec python3 "$0"`

// runPython runs the code from a file, so that there is no limit on its size, tracebacks
// quote it, and standard input is the program's own.
func runPython(ctx context.Context, sandbox Sandbox, in runPythonInput) (*commandResult, error) {
	path := "/tmp/cove-" + strings.ToLower(rand.Text()) + ".py"
	if err := sandbox.Write(ctx, path, strings.NewReader(in.Code), 0o600); err != nil {
		return nil, err
	}
	defer func() {
		// Also after a cancellation. What stays behind is a file of a sandbox.
		const patience = 5 * time.Second
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
		defer cancel()
		_ = sandbox.Remove(ctx, path)
	}()
	return run(ctx, sandbox, cove.Command{Argv: []string{"/bin/sh", "-c", startPython, path}}, in.Cwd, in.Timeout, in.Stdin)
}

func run(ctx context.Context, sandbox Sandbox, command cove.Command, cwd *string, timeout *float64, stdin *string) (*commandResult, error) {
	seconds := or(timeout, defaultTimeout)
	if !(seconds > 0 && seconds <= maxTimeout) {
		return nil, invalid(fmt.Sprintf("timeout is %g", seconds), fmt.Sprintf("give seconds, more than 0 and at most %g", maxTimeout))
	}
	result, err := sandbox.Exec(ctx, cove.ExecRequest{
		Command: command, Cwd: or(cwd, ""), Stdin: or(stdin, ""), MaxOutput: maxOutput,
		Timeout: cove.Duration(seconds * float64(time.Second)),
	})
	if err != nil {
		return nil, err
	}
	return &commandResult{
		Stdout: valid(result.Stdout), Stderr: valid(result.Stderr), ExitCode: result.ExitCode, Signal: result.Signal,
		TimedOut: result.TimedOut, Truncated: result.Truncated, DurationMS: result.DurationMS, timeout: seconds,
	}, nil
}

// valid replaces what is not UTF-8, which no JSON can carry.
func valid(text string) string { return strings.ToValidUTF8(text, "\uFFFD") }

func (r *commandResult) failed() bool { return r.TimedOut }

// text is the streams with what is worth knowing about them. It is for reading: a program
// that prints such lines fools nobody who looks at the fields.
func (r *commandResult) text() string {
	var parts []string
	if r.Stdout != "" {
		parts = append(parts, strings.TrimSuffix(r.Stdout, "\n"))
	}
	if r.Stderr != "" {
		parts = append(parts, "[stderr]\n"+strings.TrimSuffix(r.Stderr, "\n"))
	}
	if r.Truncated {
		parts = append(parts, "[the middle of the output was left out; write it to a file to see all of it]")
	}
	switch {
	case r.TimedOut:
		parts = append(parts, fmt.Sprintf("[killed after %g s; give a longer timeout if it needs more]", r.timeout))
	case r.Signal != "":
		parts = append(parts, "[ended by "+r.Signal+"]")
	case r.ExitCode != 0:
		parts = append(parts, fmt.Sprintf("[exit code: %d]", r.ExitCode))
	}
	if len(parts) == 0 {
		return "(no output)"
	}
	return strings.Join(parts, "\n")
}
