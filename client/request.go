package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"

	"github.com/covehq/cove"
	"github.com/covehq/cove/internal/httpapi"
)

// maxReply bounds a JSON reply: the largest is a command's output, kept up to what the
// caller asked for, base64.
const maxReply = 1 << 30

// request is one call of the API. The path is escaped already.
type request struct {
	op     string
	method string
	path   string
	query  url.Values
	accept string
	header http.Header
	in     any       // sent as JSON
	body   io.Reader // or sent as it is
	status *int      // gets the reply's status, unless nil
}

// call sends a request and decodes its JSON reply into out, which may be nil.
func (c *Client) call(ctx context.Context, r request, out any) error {
	response, err := c.send(ctx, r)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body := io.LimitReader(response.Body, maxReply)
	if out == nil {
		_, err = io.Copy(io.Discard, body)
	} else {
		var data []byte
		if data, err = io.ReadAll(body); err == nil {
			err = json.Unmarshal(data, out)
		}
	}
	if err != nil {
		return broken(ctx, r.op, err)
	}
	return nil
}

// send sends a request and returns its reply, whose body the caller closes. A status of
// 400 and above is an error.
func (c *Client) send(ctx context.Context, r request) (*http.Response, error) {
	request, err := c.prepare(ctx, r)
	if err != nil {
		return nil, err
	}
	response, err := c.http.Do(request)
	if err != nil {
		return nil, c.fail(ctx, r.op, err)
	}
	if r.status != nil {
		*r.status = response.StatusCode
	}
	if response.StatusCode < 300 || response.StatusCode == http.StatusSwitchingProtocols {
		return response, nil
	}
	defer response.Body.Close()
	return nil, httpapi.ReadError(response)
}

func (c *Client) prepare(ctx context.Context, r request) (*http.Request, error) {
	body := r.body
	if r.in != nil {
		data, err := json.Marshal(r.in)
		if err != nil {
			return nil, &cove.Error{Code: cove.Invalid, Op: r.op, Err: err, Hint: "pass values that can be written as JSON"}
		}
		body = bytes.NewReader(data)
	}
	target := c.URL(r.path)
	if len(r.query) > 0 {
		target += "?" + r.query.Encode()
	}
	request, err := http.NewRequestWithContext(ctx, r.method, target, body)
	if err != nil {
		return nil, &cove.Error{Code: cove.Invalid, Op: r.op, Err: err}
	}
	for name, values := range r.header {
		request.Header[name] = values
	}
	switch {
	case r.in != nil:
		request.Header.Set("Content-Type", httpapi.TypeJSON)
	case r.body != nil:
		if request.Header.Get("Content-Type") == "" {
			request.Header.Set("Content-Type", httpapi.TypeBytes)
		}
		// So that a refusal arrives before the bytes are sent for nothing.
		request.Header.Set("Expect", "100-continue")
	}
	if r.accept == "" {
		r.accept = httpapi.TypeJSON
	}
	request.Header.Set("Accept", r.accept)
	c.authorize(request.Header)
	return request, nil
}

func (c *Client) authorize(header http.Header) {
	if c.key != "" {
		header.Set("Authorization", "Bearer "+c.key)
	}
}

// broken returns the error of a reply that ended too early or makes no sense.
func broken(ctx context.Context, op string, err error) error {
	if ctx.Err() != nil {
		return cove.Wrap(ctx.Err(), op, "")
	}
	var ours *cove.Error
	if errors.As(err, &ours) {
		return err // the server's words, which say what was being done
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return &cove.Error{
		Code: cove.Unavailable, Op: op, Err: err,
		Hint: "the daemon went away in the middle of a reply; check its log and try again",
	}
}
