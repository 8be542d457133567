package sandbox

import (
	"context"
	"encoding/base64"
	"io"
	"strings"
	"time"

	"github.com/covehq/cove"
)

// maxCapture bounds what a caller may have kept of each stream: as much as a guest
// retains.
const maxCapture = 64 * cove.MiB

// Exec runs a command and returns how it ended and what it wrote, the beginning and the
// end of what is longer than the request allows. A command that fails, is killed by a
// signal or runs out of time is a result and no error. When ctx ends, the command is
// killed with everything that it started.
func (s *Sandbox) Exec(ctx context.Context, r cove.ExecRequest) (cove.ExecResult, error) {
	const op = "exec"
	stdin, err := prepare(&r)
	if err != nil {
		return cove.ExecResult{}, cove.Wrap(err, op, s.id)
	}
	started := time.Now()
	output, err := s.run(ctx, op, cove.ProcessRequest{
		Command: r.Command, Cwd: r.Cwd, Env: r.Env, User: r.User, Timeout: r.Timeout,
	}, stdin)
	if err != nil {
		return cove.ExecResult{}, err
	}
	defer output.Close()

	stdout, stderr := capture{limit: int(r.MaxOutput)}, capture{limit: int(r.MaxOutput)}
	exit, err := collect(output, &stdout, &stderr)
	if err != nil {
		return cove.ExecResult{}, err
	}
	result := cove.ExecResult{
		PID:        output.PID(),
		ExitCode:   exit.Code,
		Stdout:     stdout.text(r.Encoding),
		Stderr:     stderr.text(r.Encoding),
		Encoding:   r.Encoding,
		Truncated:  stdout.lost || stderr.lost,
		TimedOut:   exit.TimedOut,
		Signal:     exit.Signal,
		DurationMS: exit.DurationMS,
	}
	if exit.TimedOut {
		result.ExitCode = -1
	}
	if result.DurationMS == 0 {
		result.DurationMS = float64(time.Since(started).Microseconds()) / 1000
	}
	return result, nil
}

// prepare fills in what the request leaves out, and returns its standard input, nil for
// none. What is wrong with the command itself is found when it is started.
func prepare(r *cove.ExecRequest) (io.Reader, error) {
	var p problems
	if r.MaxOutput == 0 {
		r.MaxOutput = cove.DefaultCapacity
	}
	if r.MaxOutput < 0 || r.MaxOutput > maxCapture {
		p.invalid("start a process and read its output by offset to get all of it",
			"max_output %v is not between 1 and %v", r.MaxOutput, maxCapture)
	}
	switch r.Encoding {
	case "":
		r.Encoding = cove.EncodingUTF8
	case cove.EncodingUTF8, cove.EncodingBase64:
	default:
		p.invalid("use utf-8 or base64", "encoding %s is unknown", quote(string(r.Encoding)))
	}
	var stdin io.Reader
	if r.Stdin != "" {
		stdin = strings.NewReader(r.Stdin)
	}
	if stdin != nil && r.Encoding == cove.EncodingBase64 {
		if _, err := io.Copy(io.Discard, base64.NewDecoder(base64.StdEncoding, stdin)); err != nil {
			p.invalid("encode stdin as standard base64, or leave the encoding out", "stdin is not base64: %v", err)
		}
		stdin = base64.NewDecoder(base64.StdEncoding, strings.NewReader(r.Stdin))
	}
	return stdin, p.err("exec")
}

// collect reads an output to its end.
func collect(output *Output, stdout, stderr *capture) (exit cove.Exit, err error) {
	for {
		next, err := output.Next()
		switch {
		case err == io.EOF:
			return exit, nil
		case err != nil:
			return exit, err
		case next.Exit != nil:
			exit = *next.Exit
		case next.Stream == cove.Stderr:
			stderr.write(next.Offset, next.Data)
		default:
			stdout.write(next.Offset, next.Data)
		}
	}
}
