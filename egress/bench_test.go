package egress_test

import (
	"io"
	"net"
	"testing"

	"github.com/covehq/cove/guest/wire"
)

// BenchmarkConnect is a program's connect: the request, the decision, the dialling of a
// server on loopback, and the answer.
func BenchmarkConnect(b *testing.B) {
	w := newWorld(b, someNames)
	g, _ := open(b, w, compile(b, allow("a.example")), nil)
	for b.Loop() {
		stream := g.take()
		if reply := g.ask(stream, wire.EgressRequest{Kind: wire.EgressConnect, Name: "a.example", Port: 443}); reply.Code != wire.EgressOK {
			b.Fatal(reply)
		}
		_ = stream.Close()
	}
}

// BenchmarkExchange is a small message and its answer on a connection that is open.
func BenchmarkExchange(b *testing.B) {
	g, _ := open(b, newWorld(b, someNames), compile(b, allow("a.example")), nil)
	conn := g.must("a.example", 443)
	for b.Loop() {
		exchange(b, conn, "hello")
	}
}

// BenchmarkDownload and BenchmarkUpload are what passes between a server on loopback and
// the agent's end of a socket pair.
func BenchmarkDownload(b *testing.B) {
	w := newWorld(b, someNames)
	w.serve = func(conn net.Conn) {
		_, _ = io.Copy(struct{ io.Writer }{conn}, endless{})
		_ = conn.Close()
	}
	g, _ := open(b, w, compile(b, allow("a.example")), nil)
	conn := g.must("a.example", 443)
	buffer := make([]byte, 1<<20)
	b.SetBytes(int64(len(buffer)))
	for b.Loop() {
		if _, err := io.ReadFull(conn, buffer); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkUpload(b *testing.B) {
	w := newWorld(b, someNames)
	w.serve = func(conn net.Conn) {
		_, _ = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{conn}, make([]byte, 256<<10))
		_ = conn.Close()
	}
	g, _ := open(b, w, compile(b, allow("a.example")), nil)
	conn := g.must("a.example", 443)
	buffer := make([]byte, 1<<20)
	b.SetBytes(int64(len(buffer)))
	for b.Loop() {
		if _, err := conn.Write(buffer); err != nil {
			b.Fatal(err)
		}
	}
}
