package client

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"strconv"

	"github.com/covehq/cove"
	"github.com/covehq/cove/internal/httpapi"
)

// Files reads and writes the files of a sandbox. A relative path is below the sandbox's
// working directory. Its methods may be called concurrently.
type Files struct {
	// User is with whose rights; "" is the sandbox's user.
	User    string
	sandbox *Sandbox
}

// Files returns access to the sandbox's files, with the rights of its user.
func (s *Sandbox) Files() *Files { return &Files{sandbox: s} }

// OpenFile returns the content of a file, to be read as it arrives.
func (f *Files) OpenFile(ctx context.Context, path string) (io.ReadCloser, error) {
	call := f.request("read file", http.MethodGet, "", path)
	call.accept = "*/*"
	return f.body(ctx, call)
}

// ReadFile returns the content of a file.
func (f *Files) ReadFile(ctx context.Context, path string) ([]byte, error) {
	file, err := f.OpenFile(ctx, path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var data bytes.Buffer
	if c, ok := file.(*content); ok && c.length > 0 {
		const most = 64 << 20 // a length is only what somebody says
		data.Grow(int(min(c.length, most)) + bytes.MinRead)
	}
	_, err = data.ReadFrom(file)
	return data.Bytes(), err
}

// WriteFile writes a file, making its parents where they are missing. Permission bits of
// 0 mean 0644.
func (f *Files) WriteFile(ctx context.Context, path string, r io.Reader, mode fs.FileMode) (cove.FileInfo, error) {
	call := f.request("write file", http.MethodPut, "", path)
	call.body = r
	if mode != 0 {
		call.query.Set("mode", fmt.Sprintf("%04o", mode.Perm()))
	}
	return f.info(ctx, call)
}

// Stat describes what a path leads to; it does not follow a symlink.
func (f *Files) Stat(ctx context.Context, path string) (cove.FileInfo, error) {
	return f.info(ctx, f.request("stat", http.MethodGet, "/stat", path))
}

// List returns what a directory holds, as many levels deep as asked for; 0 means 1.
func (f *Files) List(ctx context.Context, path string, depth int) ([]cove.FileInfo, error) {
	call := f.request("list directory", http.MethodGet, "/list", path)
	if depth != 0 {
		call.query.Set("depth", strconv.Itoa(depth))
	}
	var reply httpapi.Files
	err := f.sandbox.client.call(ctx, call, &reply)
	return reply.Entries, err
}

// MakeDir makes a directory and its parents. One that exists is an error that is
// cove.Conflict.
func (f *Files) MakeDir(ctx context.Context, path string) (cove.FileInfo, error) {
	call := f.sandbox.request("make directory", http.MethodPost, "/files/mkdir")
	call.in = httpapi.MakeDirRequest{Path: path, User: f.User}
	return f.info(ctx, call)
}

// Move renames a file or directory, making the parents of its new path.
func (f *Files) Move(ctx context.Context, from, to string) (cove.FileInfo, error) {
	call := f.sandbox.request("move", http.MethodPost, "/files/move")
	call.in = httpapi.MoveRequest{From: from, To: to, User: f.User}
	return f.info(ctx, call)
}

// Remove removes a file, or a directory with everything in it. It succeeds when there is
// nothing.
func (f *Files) Remove(ctx context.Context, path string) error {
	return f.sandbox.client.call(ctx, f.request("remove file", http.MethodDelete, "", path), nil)
}

// Watch reports what happens in a directory from now on, and with recursive in those
// below it.
func (f *Files) Watch(ctx context.Context, path string, recursive bool) (*Watch, error) {
	call := f.request("watch", http.MethodGet, "/watch", path)
	call.query.Set("recursive", strconv.FormatBool(recursive))
	events, err := f.sandbox.client.subscribe(ctx, call)
	if err != nil {
		return nil, err
	}
	return &Watch{events: events}, nil
}

// Archive returns a tar of a file under its own name, or of what is in a directory with
// names relative to it.
func (f *Files) Archive(ctx context.Context, path string) (io.ReadCloser, error) {
	call := f.request("archive", http.MethodGet, "/archive", path)
	call.accept = httpapi.TypeTar
	return f.body(ctx, call)
}

// Extract unpacks a tar below a directory, which is made where it is missing.
func (f *Files) Extract(ctx context.Context, path string, r io.Reader) error {
	call := f.request("extract", http.MethodPut, "/archive", path)
	call.body, call.header = r, http.Header{"Content-Type": {httpapi.TypeTar}}
	return f.sandbox.client.call(ctx, call, nil)
}

func (f *Files) body(ctx context.Context, call request) (io.ReadCloser, error) {
	response, err := f.sandbox.client.send(ctx, call)
	if err != nil {
		return nil, err
	}
	return &content{ctx: ctx, op: call.op, ReadCloser: response.Body, length: response.ContentLength}, nil
}

func (f *Files) info(ctx context.Context, call request) (cove.FileInfo, error) {
	var info cove.FileInfo
	err := f.sandbox.client.call(ctx, call, &info)
	return info, err
}

func (f *Files) request(op, method, route, path string) request {
	call := f.sandbox.request(op, method, "/files"+route)
	call.query = url.Values{"path": {path}}
	if f.User != "" {
		call.query.Set("user", f.User)
	}
	return call
}

// content is the body of a reply, with errors of ours.
type content struct {
	io.ReadCloser
	ctx    context.Context
	op     string
	length int64 // or -1
}

// Read reads; a body that breaks off is an error that is cove.Unavailable.
func (c *content) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		err = broken(c.ctx, c.op, err)
	}
	return n, err
}

// WriteTo copies with a large buffer; io.Copy uses it.
func (c *content) WriteTo(w io.Writer) (int64, error) {
	n, err := io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{c}, make([]byte, 256<<10))
	return n, err
}
