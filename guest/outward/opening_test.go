package outward

import (
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/covehq/cove/guest/pair"
	"github.com/covehq/cove/guest/wire"
)

// handSpare gives the agent a stream, and returns the host's end of it.
func handSpare(t *testing.T, way *Way) *net.UnixConn {
	t.Helper()
	ours, theirs, err := pair.New()
	if err != nil {
		t.Fatal(err)
	}
	if !way.Put(theirs) {
		t.Fatal("a spare was not taken")
	}
	t.Cleanup(func() { ours.Close() })
	if err := ours.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return ours
}

// hear reads a request, and what the program says behind it.
func hear(t *testing.T, stream net.Conn, want string) {
	t.Helper()
	var request wire.EgressRequest
	if err := wire.ReadFrame(stream, &request); err != nil {
		t.Fatal(err)
	}
	if !request.Early {
		t.Errorf("request: got %+v, want an early one", request)
	}
	said := make([]byte, len(want))
	if _, err := io.ReadFull(stream, said); err != nil || string(said) != want {
		t.Fatalf("behind the request: got %q, %v, want %q", said, err, want)
	}
}

// say sends text as a program.
func say(t *testing.T, c net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
}

func TestWhatAProgramSaysFirst(t *testing.T) {
	if !inside(t) {
		return
	}
	h := newHost(t, installLegacy, 0, allowed)
	connect := func(t *testing.T) *net.TCPConn {
		t.Helper()
		c, err := dial(t.Context(), "203.0.113.7:443")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	t.Run("does not wait for the answer, and the rest comes after it", func(t *testing.T) {
		stream, c := handSpare(t, h.way), connect(t)
		say(t, c, "first")
		hear(t, stream, "first")
		if err := wire.WriteFrame(stream, wire.EgressReply{Code: wire.EgressOK}); err != nil {
			t.Fatal(err)
		}
		say(t, c, "second")
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(stream); err != nil || string(got) != "second" {
			t.Errorf("after the answer: got %q, %v", got, err)
		}
	})
	t.Run("goes to the next stream where one is dead", func(t *testing.T) {
		dead := handSpare(t, h.way)
		c := connect(t)
		say(t, c, "hello")
		hear(t, dead, "hello")
		next := handSpare(t, h.way)
		dead.Close()
		hear(t, next, "hello")
		if err := wire.WriteFrame(next, wire.EgressReply{Code: wire.EgressOK}); err != nil {
			t.Fatal(err)
		}
		say(t, next, "bye")
		next.Close()
		if got, err := io.ReadAll(c); err != nil || string(got) != "bye" {
			t.Errorf("got %q, %v, want bye", got, err)
		}
	})
	t.Run("may be nothing", func(t *testing.T) {
		stream, c := handSpare(t, h.way), connect(t)
		hear(t, stream, "")
		if err := wire.WriteFrame(stream, wire.EgressReply{Code: wire.EgressOK}); err != nil {
			t.Fatal(err)
		}
		say(t, stream, "220 hello")
		greeting := make([]byte, 9)
		if _, err := io.ReadFull(c, greeting); err != nil || string(greeting) != "220 hello" {
			t.Errorf("got %q, %v", greeting, err)
		}
		say(t, c, "QUIT")
		c.Close()
		if got, err := io.ReadAll(stream); err != nil || string(got) != "QUIT" {
			t.Errorf("after the greeting: got %q, %v", got, err)
		}
	})
	t.Run("is lost where it is refused, and the stream is not used again", func(t *testing.T) {
		stream, c := handSpare(t, h.way), connect(t)
		say(t, c, "hello")
		hear(t, stream, "hello")
		if err := wire.WriteFrame(stream, wire.EgressReply{Code: wire.EgressForbidden}); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(stream); err != nil || len(got) > 0 {
			t.Errorf("after the refusal: got %q, %v, want its end", got, err)
		}
		if _, err := io.ReadAll(c); err == nil {
			t.Error("the program's connection ended well, want a reset")
		}
	})
}

func TestHammerOfWhatProgramsSayFirst(t *testing.T) {
	if !inside(t) {
		return
	}
	h := newHost(t, installLegacy, 0, allowed)
	many := 300
	if testing.Short() {
		many = 50
	}
	var hosts, programs sync.WaitGroup
	for i := range many {
		ours, theirs, err := pair.New()
		if err != nil {
			t.Fatal(err)
		}
		h.way.Put(theirs)
		hosts.Go(func() { // a host of which every third stream is dead, sooner or later
			defer ours.Close()
			_ = ours.SetDeadline(time.Now().Add(20 * time.Second))
			if i%3 == 0 && i%2 == 0 {
				return
			}
			var request wire.EgressRequest
			if wire.ReadFrame(ours, &request) != nil || i%3 == 0 {
				return
			}
			if wire.WriteFrame(ours, wire.EgressReply{Code: wire.EgressOK}) == nil {
				echo(ours)
			}
		})
	}
	for range many / 4 {
		programs.Go(func() {
			c, err := dial(t.Context(), "203.0.113.7:443")
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			if _, err := io.WriteString(c, "hello"); err != nil {
				return // three dead ones in a row
			}
			if got, err := io.ReadAll(io.LimitReader(c, 5)); err == nil && string(got) != "hello" {
				t.Errorf("got %q, want the echo", got)
			}
		})
	}
	programs.Wait()
	if err := h.way.Close(); err != nil { // and the spares that nobody took with it
		t.Error(err)
	}
	hosts.Wait()
}
