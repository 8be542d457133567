package client

import (
	"context"
	"encoding/base64"
	"net/http"
	"time"

	"github.com/covehq/cove"
)

// Result is how a command ended and what it wrote.
type Result struct {
	PID       int
	ExitCode  int    // -1 when a signal ended it
	Signal    string // the signal that ended it, as in "SIGKILL"
	Stdout    []byte
	Stderr    []byte
	Truncated bool // bytes between head and tail of a stream were left out
	TimedOut  bool
	Duration  time.Duration
}

// Exec runs a command and waits for it, in one request. A command that fails is not an
// error: look at ExitCode. When ctx ends, the command and everything it started is
// killed. The request's Stdin is sent as it is, whatever bytes it has.
func (s *Sandbox) Exec(ctx context.Context, r cove.ExecRequest) (*Result, error) {
	if r.Encoding != cove.EncodingBase64 {
		// JSON text would garble what is not UTF-8.
		r.Stdin = base64.StdEncoding.EncodeToString([]byte(r.Stdin))
		r.Encoding = cove.EncodingBase64
	}
	call := s.request("exec", http.MethodPost, "/exec")
	call.in = r
	var reply cove.ExecResult
	if err := s.client.call(ctx, call, &reply); err != nil {
		return nil, err
	}
	result := &Result{
		PID:       reply.PID,
		ExitCode:  reply.ExitCode,
		Signal:    reply.Signal,
		Truncated: reply.Truncated,
		TimedOut:  reply.TimedOut,
		Duration:  time.Duration(reply.DurationMS * float64(time.Millisecond)),
	}
	var err error
	if result.Stdout, err = decode(reply.Stdout, reply.Encoding); err != nil {
		return nil, broken(ctx, "exec", err)
	}
	if result.Stderr, err = decode(reply.Stderr, reply.Encoding); err != nil {
		return nil, broken(ctx, "exec", err)
	}
	return result, nil
}

func decode(text string, encoding cove.Encoding) ([]byte, error) {
	if encoding == cove.EncodingBase64 {
		return base64.StdEncoding.DecodeString(text)
	}
	return []byte(text), nil
}
