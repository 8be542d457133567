package guest_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/guest/dial"
)

// echo serves a listener: it answers with what it got, once the client is done.
func echo(t *testing.T, l net.Listener) {
	t.Helper()
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				data, _ := io.ReadAll(c)
				_, _ = c.Write(append([]byte("echo "), data...))
			}()
		}
	}()
}

func listen(t *testing.T, network, address string) net.Listener {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestDialing(t *testing.T) {
	c := newClient(t)
	four := listen(t, "tcp", "127.0.0.1:0")
	path := filepath.Join(t.TempDir(), "s")
	for _, l := range []net.Listener{four, listen(t, "unix", path)} {
		echo(t, l)
	}
	big := bytes.Repeat([]byte("0123456789"), 400_000)
	cases := map[string]func() (net.Conn, error){
		"a port of IPv4":     func() (net.Conn, error) { return c.DialPort(t.Context(), four.Addr().(*net.TCPAddr).Port) },
		"a socket's path":    func() (net.Conn, error) { return c.DialSocket(t.Context(), path) },
		"once more, by IPv4": func() (net.Conn, error) { return c.DialPort(t.Context(), four.Addr().(*net.TCPAddr).Port) },
	}
	if six, err := net.Listen("tcp", "[::1]:0"); err == nil { // a machine may be without IPv6
		echo(t, six)
		t.Cleanup(func() { _ = six.Close() })
		cases["a port of IPv6"] = func() (net.Conn, error) { return c.DialPort(t.Context(), six.Addr().(*net.TCPAddr).Port) }
	}
	for name, open := range cases {
		t.Run(name, func(t *testing.T) {
			conn, err := open()
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
				t.Fatal(err)
			}
			go func() {
				_, _ = conn.Write(big)
				_ = conn.(interface{ CloseWrite() error }).CloseWrite() // without it the answer never comes
			}()
			got, err := io.ReadAll(conn)
			if err != nil || !bytes.Equal(got, append([]byte("echo "), big...)) {
				t.Errorf("got %d bytes, %v; want the echo of %d", len(got), err, len(big))
			}
		})
	}
}

func TestDialingThatFails(t *testing.T) {
	c := newClient(t)
	closed := listen(t, "tcp", "127.0.0.1:0")
	port := closed.Addr().(*net.TCPAddr).Port
	_ = closed.Close()
	dialPort := func(port int) func() (net.Conn, error) {
		return func() (net.Conn, error) { return c.DialPort(t.Context(), port) }
	}
	dialSocket := func(path string) func() (net.Conn, error) {
		return func() (net.Conn, error) { return c.DialSocket(t.Context(), path) }
	}
	for _, test := range []struct {
		name string
		dial func() (net.Conn, error)
		code cove.Code
	}{
		{"a port on which nothing listens", dialPort(port), cove.Unavailable},
		{"port 0", dialPort(0), cove.Invalid},
		{"port 70000", dialPort(70000), cove.Invalid},
		{"a missing socket", dialSocket("/no/such"), cove.NotFound},
		{"a file that is no socket", dialSocket("/etc/passwd"), cove.Unavailable},
		{"a path that is too long", dialSocket("/" + strings.Repeat("x", 200)), cove.Invalid},
		{"no path", dialSocket(""), cove.Invalid},
	} {
		t.Run(test.name, func(t *testing.T) {
			conn, err := test.dial()
			if err == nil {
				_ = conn.Close()
			}
			if !errors.Is(err, test.code) || cove.HintOf(err) == "" {
				t.Errorf("got %v (%s, hint %q), want %s with a hint", err, cove.CodeOf(err), cove.HintOf(err), test.code)
			}
		})
	}
}

func TestDialPassesTheServersEndOn(t *testing.T) {
	c := newClient(t)
	l := listen(t, "tcp", "127.0.0.1:0")
	defer l.Close()
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		_, _ = io.WriteString(conn, "bye")
		_ = conn.(*net.TCPConn).CloseWrite()
		_, _ = io.Copy(io.Discard, conn)
		_ = conn.Close()
	}()
	conn, err := c.DialPort(t.Context(), l.Addr().(*net.TCPAddr).Port)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if got, err := io.ReadAll(conn); err != nil || string(got) != "bye" {
		t.Errorf("got %q, %v", got, err)
	}
}

// TestHostileAgents has agents that answer with anything but what they should. Each call
// must end, and in an error.
func TestHostileAgents(t *testing.T) {
	for name, answer := range map[string]string{
		"silence, and the end":        "",
		"no HTTP":                     "SSH-2.0-OpenSSH\r\n",
		"endless headers":             "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 1<<20),
		"an endless body":             "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n" + strings.Repeat("[", 4<<20),
		"a redirect":                  "HTTP/1.1 302 Found\r\nLocation: http://elsewhere/\r\nContent-Length: 0\r\n\r\n",
		"an upgrade nobody asked for": "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",
		"an error beyond all bounds":  "HTTP/1.1 500 X\r\nContent-Type: application/json\r\n\r\n" + `{"message":"` + strings.Repeat("\\u001b[31m", 200_000),
		"a frame beyond all bounds":   "HTTP/1.1 200 OK\r\nContent-Type: application/connect+proto\r\n\r\n\x00\xff\xff\xff\xff",
		"a frame of garbage":          "HTTP/1.1 200 OK\r\nContent-Type: application/connect+proto\r\n\r\n\x00\x00\x00\x00\x04\xff\xff\xff\xff",
		"a stream without a start":    "HTTP/1.1 200 OK\r\nContent-Type: application/connect+proto\r\n\r\n\x02\x00\x00\x00\x02{}",
	} {
		t.Run(name, func(t *testing.T) {
			c := dial.New(func(context.Context) (net.Conn, error) {
				ours, theirs := socketPair(t)
				go func() {
					defer theirs.Close()
					_, _ = theirs.Read(make([]byte, 1<<16))
					_, _ = io.WriteString(theirs, answer)
				}()
				return ours, nil
			})
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			for call, err := range map[string]error{
				"list":    second(c.List(ctx)),
				"metrics": second(c.Metrics(ctx)),
				"start":   second(c.Start(ctx, dial.Start{Argv: []string{"true"}})),
				"follow":  second(c.Follow(ctx, 1, cove.FromStart(), false)),
				"stat":    second(c.Stat(ctx, "/", "")),
				"watch":   second(c.Watch(ctx, "/", false, "")),
				"write":   second(c.WriteFile(ctx, "/x", "", strings.NewReader("x"), nil)),
				"input":   c.Write(ctx, 1, strings.NewReader("x")),
				"dial":    dialError(c.DialPort(ctx, 80)),
				"archive": readAll(c.Archive(ctx, "/", "")),
			} {
				var failed *cove.Error
				if !errors.As(err, &failed) {
					if call == "dial" && strings.Contains(name, "upgrade") {
						continue // this is what it asks for
					}
					t.Errorf("%s: got %v, want an error", call, err)
					continue
				}
				if text := err.Error(); len(text) > 2000 || strings.ContainsAny(text, "\x1b\n") {
					t.Errorf("%s: got an error of %d bytes, or one that is not printable", call, len(text))
				}
			}
			if ctx.Err() != nil {
				t.Error("a call did not end by itself")
			}
		})
	}
}

func dialError(c net.Conn, err error) error {
	if err == nil {
		_ = c.Close()
	}
	return err
}

func readAll(r io.ReadCloser, err error) error {
	if err != nil {
		return err
	}
	defer r.Close()
	_, err = io.Copy(io.Discard, r)
	return err
}

func TestSandboxThatCannotBeReached(t *testing.T) {
	c := dial.New(func(context.Context) (net.Conn, error) { return nil, errors.New("the socket is gone") })
	for call, err := range map[string]error{
		"health": c.Health(t.Context()), "list": second(c.List(t.Context())), "start": second(c.Start(t.Context(), dial.Start{Argv: []string{"x"}})),
		"read": second(c.ReadFile(t.Context(), "/x", "", nil)), "dial": second(c.DialPort(t.Context(), 80)),
	} {
		if !errors.Is(err, cove.Unavailable) || !strings.Contains(err.Error(), "the socket is gone") {
			t.Errorf("%s: got %v (%s), want unavailable and why", call, err, cove.CodeOf(err))
		}
	}
}

func TestCallsEndWithTheirContext(t *testing.T) {
	ours := make(chan net.Conn, 100)
	c := dial.New(func(context.Context) (net.Conn, error) { // an agent that never answers
		a, b := socketPair(t)
		ours <- b
		return a, nil
	})
	defer func() {
		close(ours)
		for conn := range ours {
			_ = conn.Close()
		}
	}()
	for call, do := range map[string]func(context.Context) error{
		"list":  func(ctx context.Context) error { return second(c.List(ctx)) },
		"start": func(ctx context.Context) error { return second(c.Start(ctx, dial.Start{Argv: []string{"x"}})) },
		"watch": func(ctx context.Context) error { return second(c.Watch(ctx, "/", false, "")) },
		"read":  func(ctx context.Context) error { return second(c.ReadFile(ctx, "/x", "", nil)) },
		"write": func(ctx context.Context) error { return second(c.WriteFile(ctx, "/x", "", zeros{}, nil)) },
		"input": func(ctx context.Context) error { return c.Write(ctx, 1, zeros{}) },
		"dial":  func(ctx context.Context) error { return second(c.DialPort(ctx, 80)) },
	} {
		t.Run(call, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			if err := do(ctx); !errors.Is(err, cove.Timeout) || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v (%s), want a time-out that wraps the context's end", err, cove.CodeOf(err))
			}
			ctx, cancel = context.WithCancel(t.Context())
			time.AfterFunc(20*time.Millisecond, cancel)
			if err := do(ctx); !errors.Is(err, context.Canceled) {
				t.Errorf("got %v, want an error that wraps the context's end", err)
			}
		})
	}
}
