package intercept

import (
	"compress/gzip"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"

	"github.com/covehq/cove"
)

// errEncoded says that a reply can't be looked into.
var errEncoded = errors.New("its reply is encoded although it was asked not to, so that it can't be searched for secrets")

// reply looks at what the server answered, before the guest sees it.
func (c *connection) reply(res *http.Response) error {
	x := exchangeOf(res.Request.Context())
	c.secrets.takeOut(res.Header)
	if res.StatusCode == http.StatusSwitchingProtocols {
		x.tell(true, res.StatusCode, x.note)
		if conn, ok := res.Body.(io.ReadWriteCloser); ok {
			res.Body = c.upgraded(conn)
		}
		return nil
	}
	if c.secrets.back != nil && x.hasBody(res) {
		if err := decode(res); err != nil {
			return err
		}
	}
	if x.in.ProtoMajor == 1 && len(res.Trailer) > 0 {
		res.Header.Del("Content-Length") // HTTP/1 has no trailer after a body of known length
	}
	x.tell(true, res.StatusCode, x.note)
	body := &replyBody{x: x, res: res, src: res.Body, reader: res.Body}
	if c.secrets.back != nil {
		body.reader = c.taking(res.Body)
	}
	res.Body = body
	return nil
}

// taking replaces the values in what a server sends.
func (c *connection) taking(src io.Reader) io.Reader {
	return &stream{src: src, finder: c.secrets.back, spawn: c.spawn}
}

func (x *exchange) hasBody(res *http.Response) bool {
	return x.in.Method != http.MethodHead && res.ContentLength != 0 &&
		res.StatusCode != http.StatusNoContent && res.StatusCode != http.StatusNotModified
}

// decode takes the encoding off a reply that has one nevertheless.
func decode(res *http.Response) error {
	encoding := strings.ToLower(strings.TrimSpace(strings.Join(res.Header.Values("Content-Encoding"), ",")))
	switch {
	case encoding == "" || encoding == "identity":
		return nil
	case (encoding == "gzip" || encoding == "x-gzip") && res.StatusCode != http.StatusPartialContent:
		res.Body = &gzipBody{src: res.Body}
		res.Header.Del("Content-Encoding")
		res.Header.Del("Content-Length")
		res.ContentLength = -1
		return nil
	}
	return errEncoded
}

// gzipBody decodes a body as it is read.
type gzipBody struct {
	src    io.ReadCloser
	reader *gzip.Reader
}

// Read implements io.Reader.
func (b *gzipBody) Read(p []byte) (int, error) {
	if b.reader == nil {
		reader, err := gzip.NewReader(b.src)
		if err != nil {
			return 0, err
		}
		b.reader = reader
	}
	return b.reader.Read(p)
}

// Close implements io.Closer.
func (b *gzipBody) Close() error { return b.src.Close() }

// replyBody tells of a reply that breaks off, and looks at its trailer.
type replyBody struct {
	x      *exchange
	res    *http.Response
	src    io.Closer
	reader io.Reader
	passed int64
}

// Read implements io.Reader.
func (b *replyBody) Read(p []byte) (int, error) {
	n, err := b.reader.Read(p)
	b.passed += int64(n)
	switch {
	case errors.Is(err, io.EOF):
		b.x.c.secrets.takeOut(b.res.Trailer)
	case err != nil && b.x.in.Context().Err() == nil:
		b.x.tell(true, b.res.StatusCode, fmt.Sprintf("the reply broke off after %d bytes: %v", b.passed, err))
	}
	return n, err
}

// Close implements io.Closer.
func (b *replyBody) Close() error { return b.src.Close() }

// upgraded is the server's side of a connection that has left HTTP.
func (c *connection) upgraded(conn io.ReadWriteCloser) io.ReadCloser {
	if c.secrets.back == nil {
		return conn
	}
	return &tunnel{Reader: c.taking(conn), conn: conn}
}

type tunnel struct {
	io.Reader
	conn io.ReadWriteCloser
}

// Write implements io.Writer.
func (t *tunnel) Write(p []byte) (int, error) { return t.conn.Write(p) }

// Close implements io.Closer.
func (t *tunnel) Close() error { return t.conn.Close() }

// CloseWrite passes the end of what the guest sends on.
func (t *tunnel) CloseWrite() error {
	if half, ok := t.conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

// replyWriter is the guest's side of a reply.
type replyWriter struct {
	http.ResponseWriter
	c *connection
}

// WriteHeader implements http.ResponseWriter.
func (w *replyWriter) WriteHeader(status int) {
	if status == http.StatusContinue {
		return // it goes to the guest when its body is read, which this makes the transport do
	}
	if status < 200 { // of which the proxy does not ask
		w.c.secrets.takeOut(w.Header())
	} else if _, ok := w.Header()["Content-Type"]; !ok {
		w.Header()["Content-Type"] = nil // so that none is guessed
	}
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap lets an http.ResponseController find the rest.
func (w *replyWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// unanswered tells the guest why there is no reply of the server's.
func (c *connection) unanswered(w http.ResponseWriter, out *http.Request, err error) {
	x := exchangeOf(out.Context())
	x.mu.Lock()
	refused, broken := x.refused, x.broken
	x.mu.Unlock()
	switch {
	case refused != nil:
		x.refuse(w, http.StatusForbidden, refused.why)
	case x.in.Context().Err() != nil:
		x.tell(true, 0, "the program left before there was a reply")
		panic(http.ErrAbortHandler)
	case broken != nil:
		reason := fmt.Sprintf("the request broke off: %v", broken)
		x.tell(true, http.StatusBadRequest, reason)
		x.write(w, http.StatusBadRequest, reason)
	default:
		status, reason := c.explain(err)
		x.tell(true, status, reason)
		x.write(w, status, reason)
	}
}

// explain returns the status and the words for an error of the server's side.
func (c *connection) explain(err error) (int, string) {
	var (
		timeout     net.Error
		certificate *tls.CertificateVerificationError
		failure     *cove.Error
		operation   *net.OpError
	)
	if errors.As(err, &operation) && operation.Err != nil && !operation.Timeout() {
		err = operation.Err // the rest of it are addresses, this machine's among them
	}
	switch {
	case errors.As(err, &certificate):
		return http.StatusBadGateway, fmt.Sprintf("%s has a certificate that is not trusted here: %v", c.address(), certificate.Err)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return http.StatusGatewayTimeout, fmt.Sprintf("%s did not answer in time: %v", c.address(), err)
	case errors.Is(err, cove.Forbidden): // where the name led to is not for the sandbox
		return http.StatusForbidden, fmt.Sprintf("%s was not reached: %v", c.address(), err)
	case errors.As(err, &failure):
		return http.StatusBadGateway, fmt.Sprintf("%s was not reached: %v", c.address(), err)
	case strings.Contains(err.Error(), "response headers exceeded"), strings.Contains(err.Error(), "header list larger"):
		return http.StatusBadGateway, fmt.Sprintf("%s answered with a header of more than %s", c.address(), cove.Bytes(maxHead))
	}
	return http.StatusBadGateway, fmt.Sprintf("%s did not answer as it should: %v", c.address(), err)
}
