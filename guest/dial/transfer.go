package dial

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/covehq/cove"
	"github.com/covehq/cove/guest/wire"
)

// ReadFile reads a file by GET /files. The range and condition headers in header are
// passed on, so that the reply is also a 206 or a 304; its body is the caller's to close.
func (c *Client) ReadFile(ctx context.Context, path, user string, header http.Header) (*http.Response, error) {
	return c.transfer(ctx, "read file", path, user, http.MethodGet, "/files", nil, nil, header)
}

// WriteFile replaces a file by what r holds, all of it or, on error, none. A nil mode
// keeps that of an existing file and gives a new one 0644.
func (c *Client) WriteFile(ctx context.Context, path, user string, r io.Reader, mode *uint32) (cove.FileInfo, error) {
	const op = "write file"
	query := url.Values{}
	if mode != nil {
		query.Set("mode", strconv.FormatUint(uint64(*mode&0o7777), 8))
	}
	header := http.Header{"Content-Type": {"application/octet-stream"}}
	response, err := c.transfer(ctx, op, path, user, http.MethodPost, "/files", query, r, header)
	if err != nil {
		return cove.FileInfo{}, err
	}
	defer response.Body.Close()
	var written []cove.FileInfo
	if err := decode(response.Body, &written); err != nil {
		return cove.FileInfo{}, fail(ctx, op, path, err)
	}
	if len(written) != 1 {
		return cove.FileInfo{}, fail(ctx, op, path, errors.New("the guest agent's reply names no file"))
	}
	return written[0], nil
}

// Archive returns a tar of a file, or of what is in a directory with names relative to it.
func (c *Client) Archive(ctx context.Context, path, user string) (io.ReadCloser, error) {
	response, err := c.transfer(ctx, "archive", path, user, http.MethodGet, "/cove/archive", nil, nil, nil)
	if err != nil {
		return nil, err
	}
	return &archiveReader{ReadCloser: response.Body, response: response, path: path}, nil
}

// archiveReader turns the result after an archive into the error of its last read.
type archiveReader struct {
	io.ReadCloser
	response *http.Response
	path     string
}

// Read reads the next piece.
func (r *archiveReader) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	if err != io.EOF {
		return n, err
	}
	// Its absence is an error too, so that no cut archive passes for a whole one.
	result := r.response.Trailer.Get(wire.ResultTrailer)
	denied, isDenied := strings.CutPrefix(result, cove.Forbidden.Error()+": ")
	switch {
	case result == wire.ResultOK:
		return n, io.EOF
	case result == "":
		err = errors.New("the guest agent broke off the archive")
	case isDenied:
		return n, &cove.Error{Code: cove.Forbidden, Op: "archive", ID: r.path, Err: errors.New(printable(denied)), Hint: "ask as a user who may read it all"}
	default:
		err = errors.New(printable(result))
	}
	return n, &cove.Error{Code: cove.Unavailable, Op: "archive", ID: r.path, Err: err, Hint: "try again"}
}

// Extract unpacks a tar into a directory, which is made where it is missing.
func (c *Client) Extract(ctx context.Context, path, user string, r io.Reader) error {
	header := http.Header{"Content-Type": {"application/x-tar"}}
	response, err := c.transfer(ctx, "extract", path, user, http.MethodPut, "/cove/archive", nil, r, header)
	if err != nil {
		return err
	}
	return response.Body.Close()
}

// transfer makes a plain HTTP call about a path. Neither direction may stall for longer
// than stallTimeout because of the guest. A reply of 400 or more is an error.
func (c *Client) transfer(ctx context.Context, op, path, user, method, endpoint string, query url.Values, r io.Reader, header http.Header) (*http.Response, error) {
	if query == nil {
		query = url.Values{}
	}
	query.Set("path", path)
	life := newLifetime(ctx)
	var body io.Reader
	if r != nil {
		body = &callerReader{r, life}
	}
	request, err := http.NewRequestWithContext(life, method, base+endpoint+"?"+query.Encode(), body)
	if err != nil {
		life.close()
		return nil, fail(ctx, op, path, err)
	}
	for key, values := range header {
		request.Header[key] = values
	}
	setUser(request.Header, user)
	request.ContentLength = lengthOf(r)
	life.await()
	response, err := c.http.Do(request)
	life.arrived()
	if err != nil {
		defer life.close()
		return nil, life.fail(op, path, cause(err))
	}
	if response.StatusCode >= http.StatusBadRequest {
		defer life.close()
		return nil, failStatus(op, path, response)
	}
	if response.StatusCode >= http.StatusMultipleChoices && response.StatusCode != http.StatusNotModified {
		_ = response.Body.Close()
		life.close()
		return nil, fail(ctx, op, path, fmt.Errorf("the guest agent answers with status %d", response.StatusCode))
	}
	response.Body = &guestReader{ReadCloser: response.Body, life: life, op: op, path: path}
	return response, nil
}

// lengthOf returns the length of a body whose reader knows it, -1 for one that streams,
// and 0 for none.
func lengthOf(r io.Reader) int64 {
	switch sized := r.(type) {
	case nil:
		return 0
	case interface{ Len() int }: // bytes.Reader, bytes.Buffer, strings.Reader
		if sized.Len() > 0 {
			return int64(sized.Len())
		}
	}
	return -1
}

// cause takes the request's line, which net/http puts before it, off an error.
func cause(err error) error {
	var of *url.Error
	if errors.As(err, &of) {
		return of.Err
	}
	return err
}
