package client

import (
	"archive/tar"
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"mime/multipart"
	"net/http"
	"os"
	"path"
	"slices"
	"syscall"

	"github.com/covehq/cove"
)

// Run runs commands in a sandbox of their own, which is gone when Run returns. archive, if
// it is not nil, is a tar, plain or compressed by gzip, bzip2 or zstd, that is unpacked
// into the sandbox's workdir first. A command that fails is a result and no error.
func (c *Client) Run(ctx context.Context, request cove.RunRequest, archive io.Reader) (result cove.RunResult, err error) {
	call := c.runCall(request)
	if archive == nil {
		err = c.call(ctx, call, &result)
		return result, err
	}
	call.in = nil
	pr, pw := io.Pipe()
	form := multipart.NewWriter(pw)
	call.body, call.header = pr, http.Header{"Content-Type": {form.FormDataContentType()}}
	sent := make(chan error, 1)
	go func() {
		err := sendForm(form, request, archive)
		pw.CloseWithError(err)
		sent <- err
	}()
	err = c.call(ctx, call, &result)
	pr.Close()
	if sendErr := <-sent; err != nil && sendErr != nil && !errors.Is(sendErr, io.ErrClosedPipe) {
		return result, cove.Wrap(sendErr, call.op, "") // the cause of whatever the server says
	}
	return result, err
}

func (c *Client) runCall(in cove.RunRequest) request {
	return request{op: "run", method: http.MethodPost, path: "/v1/run", in: in}
}

func sendForm(form *multipart.Writer, request cove.RunRequest, archive io.Reader) error {
	field, err := form.CreateFormField("request")
	if err != nil {
		return err
	}
	if err := json.NewEncoder(field).Encode(request); err != nil {
		return err
	}
	file, err := form.CreateFormFile("archive", "archive")
	if err != nil {
		return err
	}
	if _, err := io.CopyBuffer(struct{ io.Writer }{file}, struct{ io.Reader }{archive}, make([]byte, 256<<10)); err != nil {
		return err
	}
	return form.Close()
}

// RunFiles is Run with the files of this machine: what is in the directory in goes into
// the sandbox, and what the commands changed is changed in the directory out, which is
// made and may be the same one. Either may be "". What was deleted is removed from out
// where it is there, and a directory only when it is empty. As with CopyOut, nothing is
// written outside of out, and what can't be carried is listed in the error, after all else
// is done; the result is valid then.
func (c *Client) RunFiles(ctx context.Context, request cove.RunRequest, in, out string) (result cove.RunResult, err error) {
	if in == "" {
		result, err = c.Run(ctx, request, nil)
	} else {
		result, err = c.runDir(ctx, request, in)
	}
	var left *cove.Error
	if err != nil && (!errors.As(err, &left) || left.Op != packing) || out == "" {
		return result, err
	}
	return result, errors.Join(err, Apply(result, out))
}

// packing is the operation of an error about files that could not be sent.
const packing = "pack"

func (c *Client) runDir(ctx context.Context, request cove.RunRequest, dir string) (cove.RunResult, error) {
	info, err := os.Stat(dir)
	if err == nil && !info.IsDir() {
		err = &fs.PathError{Op: "open", Path: dir, Err: errors.New("not a directory")}
	}
	if err != nil {
		return cove.RunResult{}, hostError("run", dir, err)
	}
	pr, pw := io.Pipe()
	p := &packer{op: "run", tar: tar.NewWriter(pw), buf: make([]byte, 256<<10)}
	packed := make(chan error, 1)
	go func() {
		err := p.pack(ctx, dir, ".", info)
		pw.CloseWithError(err)
		packed <- err
	}()
	result, err := c.Run(ctx, request, pr)
	pr.Close()
	if packErr := <-packed; packErr != nil && !errors.Is(packErr, io.ErrClosedPipe) {
		return result, packErr
	}
	if err != nil {
		return result, err
	}
	return result, p.left.err(packing, dir)
}

// Apply changes a directory of this machine, which is made where it is missing, as the
// commands of a run changed theirs. The result has the archive of what is new. See
// RunFiles.
func Apply(result cove.RunResult, dir string) error {
	const op = "apply"
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return hostError(op, dir, err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return hostError(op, dir, err)
	}
	defer root.Close()
	if err := clearWay(root, result.Changes); err != nil {
		return hostError(op, dir, err)
	}
	if len(result.Archive) == 0 {
		return nil
	}
	plain, err := gzip.NewReader(bytes.NewReader(result.Archive))
	if err != nil {
		return cove.Errorf(cove.Unavailable, op, dir, "the reply has an archive that is broken", "try again")
	}
	return unpack(op, plain, dir, "")
}

// clearWay removes what was deleted, and what has become something else than a directory,
// or one; the deepest first.
func clearWay(root *os.Root, changes []cove.Change) error {
	changes = slices.Clone(changes)
	slices.SortStableFunc(changes, func(a, b cove.Change) int { return cmp.Compare(before(b), before(a)) })
	for _, change := range changes {
		name := path.Clean(before(change))
		if change.Kind == cove.ChangeAdded || name == "." {
			continue
		}
		info, err := root.Lstat(name)
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
			continue
		case err != nil:
			return err
		case change.Kind == cove.ChangeModified && info.IsDir() == (change.Type == cove.TypeDirectory):
			continue
		}
		// A directory in which there is more than the run knew of stays.
		if err := root.Remove(name); err != nil && !info.IsDir() && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// before returns the path that a change's file had before it.
func before(change cove.Change) string {
	if change.Kind == cove.ChangeRenamed {
		return change.From
	}
	return change.Path
}
