package egress_test

import (
	"context"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/egress"
	"github.com/covehq/cove/guest/wire"
)

// early asks for a connection and says text without waiting for the answer, in pieces of a
// size.
func (g *guest) early(name string, port int, text string, piece int) (net.Conn, wire.EgressReply) {
	g.t.Helper()
	message, err := wire.AppendFrame(nil, wire.EgressRequest{Kind: wire.EgressConnect, Name: name, Port: port, Early: true})
	if err != nil {
		g.t.Fatal(err)
	}
	stream := g.take()
	g.t.Cleanup(func() { stream.Close() })
	_ = stream.SetDeadline(time.Now().Add(patience))
	for message = append(message, text...); len(message) > 0; message = message[min(piece, len(message)):] {
		if _, err := stream.Write(message[:min(piece, len(message))]); err != nil {
			g.t.Fatal(err)
		}
	}
	var reply wire.EgressReply
	if err := wire.ReadFrame(stream, &reply); err != nil {
		g.t.Fatal(err)
	}
	return stream, reply
}

func TestWhatIsSaidEarlyArrivesFirst(t *testing.T) {
	g, s := open(t, newWorld(t, someNames), compile(t, allow("a.example")), nil)
	for _, size := range []int{1, 100, 5000, 100_000} {
		for _, piece := range []int{1, 70, 1 << 20} {
			if size/piece > 5000 {
				continue
			}
			text := strings.Repeat("0123456789", size/10+1)[:size]
			stream, reply := g.early("a.example", 443, text, piece)
			if reply.Code != wire.EgressOK {
				t.Fatalf("%d bytes: %+v", size, reply)
			}
			got := make([]byte, size)
			if _, err := io.ReadFull(stream, got); err != nil || string(got) != text {
				t.Errorf("%d bytes in pieces of %d: they came back otherwise, %v", size, piece, err)
			}
			exchange(t, stream, "and more")
			sent := s.Status().Sent
			_ = stream.(*net.UnixConn).CloseWrite()
			ended(t, stream)
			if want := cove.Bytes(size + len("and more")); sent < want {
				t.Errorf("counted: %d bytes, want %d at least", sent, want)
			}
		}
	}
}

func TestT66WhatIsSaidEarlyIsNoRequest(t *testing.T) {
	w := newWorld(t, someNames)
	g, s := open(t, w, compile(t, allow("a.example")), nil)
	smuggled, err := wire.AppendFrame(nil, wire.EgressRequest{Kind: wire.EgressConnect, Name: "a.example", Port: 443})
	if err != nil {
		t.Fatal(err)
	}
	for _, to := range []struct {
		name string
		port int
	}{{"b.example", 443}, {"a.example", 22}, {"not a name", 443}, {"a.example", -1}} {
		stream, reply := g.early(to.name, to.port, string(smuggled), 1<<20)
		if reply.Code != wire.EgressForbidden {
			t.Errorf("%s:%d: %+v", to.name, to.port, reply)
		}
		if got := ended(t, stream); len(got) > 0 {
			t.Errorf("%s:%d: after the refusal: %q", to.name, to.port, got)
		}
	}
	if queries, dialled := w.seen(); len(queries)+len(dialled) != 0 {
		t.Errorf("the outside saw %v and %v", queries, dialled)
	}
	if got := s.Status(); got.Total != 0 {
		t.Errorf("status: %+v", got)
	}
}

// listener is an Opener that reads so much and tells what it was.
type listener struct {
	size  int
	heard chan string
}

func (l *listener) Serve(_ context.Context, guest net.Conn, _ egress.Opened) error {
	got := make([]byte, l.size)
	_, err := io.ReadFull(guest, got)
	l.heard <- string(got)
	return err
}

func TestWhatIsSaidEarlyIsReadByWhoServes(t *testing.T) {
	const text = "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"
	opener := &listener{len(text), make(chan string, 1)}
	n := allow()
	n.Requests = []cove.RequestRule{{Host: "a.example"}}
	g, _ := open(t, newWorld(t, someNames), compile(t, n), func(_ *egress.Options, so *egress.SessionOptions) { so.Opener = opener })
	if _, reply := g.early("a.example", 443, text, 1<<20); reply.Code != wire.EgressOK {
		t.Fatalf("%+v", reply)
	}
	if got := <-opener.heard; got != text {
		t.Errorf("an opener read %q", got)
	}
	stream, reply := g.early("evil.example", 80, text, 1<<20)
	if reply.Code != wire.EgressOK {
		t.Fatalf("%+v", reply)
	}
	if got := ended(t, stream); !strings.Contains(string(got), "403 Forbidden") {
		t.Errorf("instead of the page: %q", got)
	}
}
