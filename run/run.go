// Package run provides one-shot runs: a sandbox of their own, an archive in, commands one
// after another, and what all of them changed out. Nothing of the sandbox is left.
package run

import (
	"cmp"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/patch"
	"github.com/covehq/cove/sandbox"
)

const op = "run"

const (
	defaultMost = 64
	maxCommands = 100
	maxAttempts = 10
	// unused is how long the sandbox of a run may stay unused, unless its spec says. It is
	// for the daemon that finds it after another died, and longer than a pause.
	unused         = 5 * time.Minute
	defaultBackoff = time.Second
	maxBackoff     = time.Minute
	removal        = time.Minute
	// MaxArchive bounds an archive as it is sent, maxPlain one that is unpacked.
	MaxArchive = 512 << 20
	maxPlain   = 1 << 30
)

// Options configures a Runner. Everything but Host may be left out.
type Options struct {
	Host *sandbox.Host
	// Spool is a directory for what runs move, in files without names. Default: that of
	// the system for temporary files.
	Spool string
	// Most is how many runs may be in progress, their replies included. Default 64.
	Most int64
	// Logger is told of what can't be told to a caller. Default: nothing is logged.
	Logger *slog.Logger
}

// Runner runs. Its methods may be called concurrently.
type Runner struct {
	host   *sandbox.Host
	spool  string
	most   int64
	log    *slog.Logger
	active atomic.Int64
}

// New returns a Runner.
func New(o Options) *Runner {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Runner{host: o.Host, spool: o.Spool, most: cmp.Or(o.Most, defaultMost), log: o.Logger}
}

// Begin reserves what a run takes on this machine, from before its archive is received.
// The error is cove.Exhausted when there are as many runs as there may be. The caller
// closes the Run.
func (r *Runner) Begin() (*Run, error) {
	if r.active.Add(1) > r.most {
		r.active.Add(-1)
		return nil, cove.Errorf(cove.Exhausted, op, "", "as many runs are in progress as this host may have", "try again in a moment")
	}
	return &Run{runner: r}, nil
}

// Run is one run. It is for one goroutine.
type Run struct {
	runner *Runner
	files  []*os.File
	closed bool

	// Limit is the longest time that all commands may take together; 0 is none. The one
	// that runs then times out, and no other is run.
	Limit time.Duration

	// Results has one result for each command that was run.
	Results []cove.CommandResult
	// Changes is what the commands changed; nil where that was not asked for.
	Changes *patch.Changes
}

// Close gives back what the run took. A second call does nothing.
func (r *Run) Close() error {
	if r.closed {
		return nil
	}
	r.closed = true
	r.runner.active.Add(-1)
	var err error
	for _, file := range r.files {
		err = errors.Join(err, file.Close())
	}
	return err
}

// File returns an empty file without a name, which is gone with the run.
func (r *Run) File() (*os.File, error) {
	file, err := os.CreateTemp(r.runner.spool, "cove-run-")
	if err != nil {
		return nil, err
	}
	r.files = append(r.files, file)
	return file, os.Remove(file.Name())
}

// Do makes a sandbox, unpacks the archive in it, which may be nil, and runs the commands.
// That of the request is not looked at. A command that fails is a result and no error. On
// error, and when ctx ends, nothing of the sandbox is left either.
func (r *Run) Do(ctx context.Context, request cove.RunRequest, archive io.Reader) error {
	if err := check(&request); err != nil {
		return err
	}
	plain, err := unpacked(archive)
	if err != nil {
		return cove.Wrap(err, op, "")
	}
	defer plain.Close()
	if request.Spec.Idle == 0 {
		request.Spec.Idle = cove.Duration(unused)
	}
	box, err := r.runner.host.Create(ctx, request.Spec, sandbox.CreateOptions{})
	if err != nil {
		return err
	}
	defer r.remove(ctx, box)
	if archive != nil {
		if err := plain.cause(box.Files().Extract(ctx, box.View().Spec.Workdir, "", plain)); err != nil {
			return err
		}
	}
	return r.work(ctx, box, request)
}

// remove removes the sandbox, whatever has become of ctx. The host goes on trying when it
// can't be done now.
func (r *Run) remove(ctx context.Context, box *sandbox.Sandbox) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removal)
	defer cancel()
	if err := box.Destroy(ctx); err != nil {
		r.runner.log.ErrorContext(ctx, "the sandbox of a run is not removed yet", "id", box.ID(), "error", err.Error())
	}
}

// work runs the commands and compares the files before and after.
func (r *Run) work(ctx context.Context, box *sandbox.Sandbox, request cove.RunRequest) error {
	if request.Return == cove.ReturnNone {
		return r.commands(ctx, box, request)
	}
	before, err := r.snapshot(ctx, box)
	if err != nil {
		return err
	}
	if err := r.commands(ctx, box, request); err != nil {
		return err
	}
	after, err := r.snapshot(ctx, box)
	if err != nil {
		return err
	}
	r.Changes = patch.Compare(before, after)
	if request.Return == cove.ReturnPatch || request.Return == cove.ReturnBoth {
		return cove.Wrap(r.Changes.CheckPatch(), op, "")
	}
	return nil
}

// snapshot reads the files in the sandbox's workdir: as its user, and where a file is not
// for that user's eyes, as root.
func (r *Run) snapshot(ctx context.Context, box *sandbox.Sandbox) (*patch.Tree, error) {
	tree, err := r.snapshotAs(ctx, box, "")
	if errors.Is(err, cove.Forbidden) {
		return r.snapshotAs(ctx, box, "root")
	}
	return tree, err
}

func (r *Run) snapshotAs(ctx context.Context, box *sandbox.Sandbox, user string) (*patch.Tree, error) {
	file, err := r.File()
	if err != nil {
		return nil, cove.Wrap(err, op, box.ID())
	}
	archive, err := box.Files().Archive(ctx, box.View().Spec.Workdir, user)
	if err != nil {
		return nil, err
	}
	defer archive.Close()
	tree, err := patch.Read(ctx, archive, file)
	return tree, cove.Wrap(err, op, box.ID())
}

// commands runs the commands, one after another.
func (r *Run) commands(ctx context.Context, box *sandbox.Sandbox, request cove.RunRequest) error {
	cwd := path.Join(box.View().Spec.Workdir, request.Cwd)
	began := time.Now()
	r.Results = make([]cove.CommandResult, 0, len(request.Commands))
	for _, command := range request.Commands {
		if r.Limit > 0 {
			left := r.Limit - time.Since(began)
			if left <= 0 {
				return nil
			}
			request.Timeout = cove.Duration(left)
		}
		result, err := try(ctx, box, request, cwd, command)
		if err != nil {
			return err
		}
		r.Results = append(r.Results, result)
		if request.FailFast && result.ExitCode != 0 {
			return nil
		}
	}
	return nil
}

// try runs a command, and again where it fails and the request says so.
func try(ctx context.Context, box *sandbox.Sandbox, request cove.RunRequest, cwd string, command cove.Command) (cove.CommandResult, error) {
	pause := time.Duration(request.Retry.Backoff)
	for attempt := 1; ; attempt++ {
		result, err := exec(ctx, box, cove.ExecRequest{
			Command: command, Cwd: cwd, Timeout: request.Timeout, MaxOutput: request.MaxOutput, Encoding: request.Encoding,
		})
		if err != nil || attempt >= request.Retry.Attempts || !again(request.Retry, result) {
			return cove.CommandResult{Command: command, Attempts: attempt, ExecResult: result}, err
		}
		select {
		case <-time.After(min(pause, maxBackoff)):
		case <-ctx.Done():
			return cove.CommandResult{}, cove.Wrap(context.Cause(ctx), op, box.ID())
		}
		pause *= 2
	}
}

func again(retry cove.Retry, result cove.ExecResult) bool {
	if len(retry.ExitCodes) > 0 {
		return slices.Contains(retry.ExitCodes, result.ExitCode) && !result.TimedOut
	}
	return result.ExitCode != 0 && !result.TimedOut
}

// exec runs a command once. One that can't be started failed as it does in a shell.
func exec(ctx context.Context, box *sandbox.Sandbox, request cove.ExecRequest) (cove.ExecResult, error) {
	result, err := box.Exec(ctx, request)
	if code := cove.ExitOf(err); code != 0 {
		return cove.ExecResult{ExitCode: code, Stderr: err.Error() + "\n", Encoding: cove.EncodingUTF8}, nil
	}
	return result, err
}

// check completes a request and reports all that is wrong with it, but for its spec.
func check(request *cove.RunRequest) error {
	var problems cove.Problems
	if len(request.Commands) == 0 || len(request.Commands) > maxCommands {
		problems.Add("commands are not 1 to 100")
	}
	if slices.ContainsFunc(request.Commands, cove.Command.IsZero) {
		problems.Add("a command is empty")
	}
	if request.Cwd != "" && (!filepath.IsLocal(request.Cwd) || strings.ContainsRune(request.Cwd, 0)) {
		problems.Add("cwd is not below the workdir")
	}
	if request.Retry.Attempts < 0 || request.Retry.Attempts > maxAttempts {
		problems.Add("retry.attempts is not 1 to 10")
	}
	switch request.Retry.Backoff {
	case 0:
		request.Retry.Backoff = cove.Duration(defaultBackoff)
	case cove.Never:
		problems.Add("retry.backoff is not a time")
	}
	switch request.Return {
	case "":
		request.Return = cove.ReturnArchive
	case cove.ReturnArchive, cove.ReturnPatch, cove.ReturnBoth, cove.ReturnNone:
	default:
		problems.Add("return is none of archive, patch, both and none")
	}
	return problems.Err(cove.Invalid, op, "see docs/run.md for what a run takes")
}
