package client

import (
	"context"
	"io"
	"io/fs"
	"strings"

	"github.com/covehq/cove"
)

// Toolbox is a sandbox as package tools wants it, so that a model's calls can be carried
// out in it.
type Toolbox struct{ sandbox *Sandbox }

// Toolbox returns the sandbox as package tools wants it.
func (s *Sandbox) Toolbox() Toolbox { return Toolbox{s} }

// Exec runs a command and waits for it. What it wrote is text, in which bytes that are not
// UTF-8 are replaced.
func (t Toolbox) Exec(ctx context.Context, r cove.ExecRequest) (cove.ExecResult, error) {
	result, err := t.sandbox.Exec(ctx, r)
	if err != nil {
		return cove.ExecResult{}, err
	}
	return cove.ExecResult{
		PID: result.PID, ExitCode: result.ExitCode, Signal: result.Signal, Truncated: result.Truncated, TimedOut: result.TimedOut,
		DurationMS: float64(result.Duration.Microseconds()) / 1000, Encoding: cove.EncodingUTF8,
		Stdout: strings.ToValidUTF8(string(result.Stdout), "\uFFFD"), Stderr: strings.ToValidUTF8(string(result.Stderr), "\uFFFD"),
	}, nil
}

// List returns what one directory holds.
func (t Toolbox) List(ctx context.Context, path string) ([]cove.FileInfo, error) {
	return t.sandbox.Files().List(ctx, path, 1)
}

// Open returns the content of a file.
func (t Toolbox) Open(ctx context.Context, path string) (io.ReadCloser, error) {
	return t.sandbox.Files().OpenFile(ctx, path)
}

// Write replaces a file. A mode of 0 keeps that of a file that is there.
func (t Toolbox) Write(ctx context.Context, path string, r io.Reader, mode fs.FileMode) error {
	_, err := t.sandbox.Files().WriteFile(ctx, path, r, mode)
	return err
}

// Remove removes a file.
func (t Toolbox) Remove(ctx context.Context, path string) error {
	return t.sandbox.Files().Remove(ctx, path)
}
