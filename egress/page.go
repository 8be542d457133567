package egress

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/covehq/cove"
)

// Bounds of an exchange with a program that is told why it was refused.
const (
	pageTimeout  = 10 * time.Second
	maxRequest   = 64 << 10
	drainTimeout = time.Second
	maxDrained   = 1 << 20
)

// servePage answers one HTTP request with a 403 that says why, and ends the connection.
// The request is read only for that: one that is no HTTP gets no answer.
func servePage(conn net.Conn, reason string) {
	_ = conn.SetDeadline(time.Now().Add(pageTimeout))
	request, err := http.ReadRequest(bufio.NewReader(io.LimitReader(conn, maxRequest)))
	if err != nil {
		return
	}
	text := fmt.Sprintf("cove: refused: %s\n", reason)
	reply := &http.Response{
		StatusCode: http.StatusForbidden, ProtoMajor: 1, ProtoMinor: 1, Request: request, Close: true,
		Header: http.Header{
			"Content-Type":           {"text/plain; charset=utf-8"},
			"Cache-Control":          {"no-store"},
			"X-Content-Type-Options": {"nosniff"},
			"Cove-Error":             {string(cove.Forbidden)},
		},
		ContentLength: int64(len(text)), Body: io.NopCloser(strings.NewReader(text)),
	}
	if err := reply.Write(conn); err != nil {
		return
	}
	// A close while the program still sends would reset the connection, and the reply with
	// it.
	_ = closeWrite(conn)
	_ = conn.SetDeadline(time.Now().Add(drainTimeout))
	_, _ = io.CopyN(io.Discard, conn, maxDrained)
}
