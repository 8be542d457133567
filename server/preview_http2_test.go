package server

import (
	"bytes"
	"io"
	"net"
	"strings"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/covehq/cove/internal/httpapi"
)

// rawHTTP2 sends a request whose authority and host a client would not let differ, and
// returns the status of the reply.
func rawHTTP2(t *testing.T, at, authority, host, token string) (conn net.Conn, status string) {
	t.Helper()
	conn, err := net.Dial("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	framer := http2.NewFramer(conn, conn)
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	fields := []hpack.HeaderField{
		{Name: ":method", Value: "GET"}, {Name: ":scheme", Value: "http"}, {Name: ":path", Value: "/"}, {Name: ":authority", Value: authority},
		{Name: strings.ToLower(httpapi.HeaderPreviewToken), Value: token},
	}
	if host != "" {
		fields = append(fields, hpack.HeaderField{Name: "host", Value: host})
	}
	for _, field := range fields {
		if err := encoder.WriteField(field); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	if err := framer.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	if err := framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true}); err != nil {
		t.Fatal(err)
	}
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			t.Fatalf("reading the reply: %v", err)
		}
		if headers, ok := frame.(*http2.MetaHeadersFrame); ok {
			return conn, headers.PseudoValue("status")
		}
	}
}
