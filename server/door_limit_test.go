package server

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/covehq/cove"
	"github.com/covehq/cove/client"
	"github.com/covehq/cove/internal/httpapi"
)

func TestARevokedKeyEndsWhatIsOpenT81(t *testing.T) {
	h := newHouse(t, DoorOptions{})
	secret, other := h.key(cove.KeyInput{Name: "ci"}), h.key(cove.KeyInput{Name: "other"})
	mine, theirs := h.caller(secret), h.caller(other)
	box := h.sandboxOf(mine)
	ended := map[string]chan error{}
	open := func(what string, run func() error) {
		done := make(chan error, 1)
		ended[what] = done
		go func() { done <- run() }()
	}
	follow := func(c *client.Client) (begun chan struct{}, run func() error) {
		begun = make(chan struct{})
		return begun, func() error {
			first := true
			for _, err := range c.Events(t.Context(), 0) {
				if err != nil {
					return err
				}
				if first {
					close(begun)
				}
				first = false
			}
			return nil
		}
	}
	begun, run := follow(mine)
	open("events", run)
	<-begun
	h.sandboxOf(theirs)
	begun, run = follow(theirs)
	open("another's events", run)
	<-begun

	terminal, err := box.Start(t.Context(), cove.ProcessRequest{Command: cove.Command{Line: "cat"}, TTY: &cove.TerminalSize{Cols: 80, Rows: 24}})
	if err != nil {
		t.Fatal(err)
	}
	tty, err := terminal.Terminal(t.Context(), client.TerminalOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer tty.Close()
	open("a terminal", func() error { _, err := io.Copy(io.Discard, tty); return err })

	inside, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer inside.Close()
	tunnel, err := box.DialPort(t.Context(), inside.Addr().(*net.TCPAddr).Port)
	if err != nil {
		t.Fatal(err)
	}
	defer tunnel.Close()
	open("a tunnel", func() error { _, err := io.Copy(io.Discard, tunnel); return errors.Join(err, io.EOF) })

	pipe, feed := io.Pipe()
	defer feed.Close()
	open("an upload", func() error { _, err := box.Files().WriteFile(t.Context(), "upload", pipe, 0o644); return err })
	go func() { // as slowly as it may, and for ever
		for _, err := feed.Write([]byte("x")); err == nil; _, err = feed.Write([]byte("x")) {
			time.Sleep(time.Millisecond)
		}
	}()
	open("a command", func() error {
		_, err := box.Exec(t.Context(), cove.ExecRequest{Command: cove.Command{Line: "sleep 300"}})
		return err
	})
	eventually(t, "six are in progress", func() bool { return h.server.doored.count() == 6 })
	if err := h.client.RemoveKey(t.Context(), "ci"); err != nil {
		t.Fatal(err)
	}
	for what, done := range ended {
		if what == "another's events" {
			continue
		}
		select {
		case err := <-done:
			if err == nil {
				t.Errorf("%s ended as if it was complete", what)
			}
		case <-time.After(10 * time.Second):
			t.Errorf("%s goes on with a revoked key", what)
		}
	}
	select {
	case err := <-ended["another's events"]:
		t.Errorf("the stream of another key ended: %v", err)
	default:
	}
	if _, err := mine.Version(t.Context()); !errors.Is(err, cove.Unauthenticated) {
		t.Errorf("the next request with a revoked key: %v", err)
	}
	if _, err := h.client.Get(t.Context(), box.ID); err != nil {
		t.Errorf("what was made with the key is gone: %v", err)
	}
}

func TestAKeyHasARateT38(t *testing.T) {
	h := newHouse(t, DoorOptions{KeyRate: 0.001})
	h.server.door.rates.burst = 3
	one, other := h.key(cove.KeyInput{Name: "one"}), h.key(cove.KeyInput{Name: "other"})
	for i := range 3 {
		if reply, text := h.knock(http.MethodGet, "/v1/version", bearer(one), nil); reply.StatusCode != http.StatusOK {
			t.Fatalf("request %d: %d %s", i, reply.StatusCode, text)
		}
	}
	if reply, text := h.knock(http.MethodGet, "/v1/version", bearer(one), nil); reply.StatusCode != http.StatusTooManyRequests || reply.Header.Get("Retry-After") == "" {
		t.Errorf("one more: %d %s, Retry-After %q", reply.StatusCode, text, reply.Header.Get("Retry-After"))
	}
	if reply, _ := h.knock(http.MethodGet, "/v1/version", bearer(other), nil); reply.StatusCode != http.StatusOK {
		t.Errorf("another key pays for it: %d", reply.StatusCode)
	}
	if _, err := h.client.Version(t.Context()); err != nil {
		t.Errorf("who has the socket pays for it: %v", err)
	}
}

func TestFailuresAreLimitedByAddressT81(t *testing.T) {
	h := newHouse(t, DoorOptions{})
	h.server.door.failures = newLimiters(0.001, 3, 10)
	good := h.key(cove.KeyInput{Name: "good"})
	for i := range 3 {
		if reply, _ := h.knock(http.MethodGet, "/v1/version", bearer("wrong"), nil); reply.StatusCode != http.StatusUnauthorized {
			t.Fatalf("failure %d: %d", i, reply.StatusCode)
		}
	}
	reply, text := h.knock(http.MethodGet, "/v1/version", bearer("wrong"), nil)
	if reply.StatusCode != http.StatusTooManyRequests || reply.Header.Get("Retry-After") == "" || !reply.Close {
		t.Errorf("one more: %d %s, closed %v", reply.StatusCode, text, reply.Close)
	}
	if reply, _ := h.knock(http.MethodGet, "/v1/version", bearer(good), nil); reply.StatusCode != http.StatusOK {
		t.Errorf("who has a key and shares the address: %d", reply.StatusCode)
	}
}

func TestOneKeyCanNotTakeAllRequestsT38(t *testing.T) {
	h := newHouse(t, DoorOptions{})
	h.server.door.inUse.most = 2
	greedy, other := h.key(cove.KeyInput{Name: "greedy", Scope: cove.ScopeAdmin}), h.holder("other", cove.ScopeRead)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	h.sandbox()
	for range 2 {
		next, end := iter.Pull2(h.caller(greedy).Events(ctx, 0))
		defer end()
		if _, err, ok := next(); err != nil || !ok {
			t.Fatal(err)
		}
	}
	if reply, text := h.knock(http.MethodGet, "/v1/version", bearer(greedy), nil); reply.StatusCode != http.StatusTooManyRequests {
		t.Errorf("a third one: %d %s", reply.StatusCode, text)
	}
	if _, err := other.Version(t.Context()); err != nil {
		t.Errorf("another key pays for it: %v", err)
	}
	stop()
	eventually(t, "what has ended is not counted", func() bool {
		reply, _ := h.knock(http.MethodGet, "/v1/version", bearer(greedy), nil)
		return reply.StatusCode == http.StatusOK
	})
}

// dial opens a connection to the door and sends text.
func (h *house) dial(text string) net.Conn {
	h.t.Helper()
	conn, err := net.Dial("tcp", h.at)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { conn.Close() })
	if _, err := io.WriteString(conn, text); err != nil {
		h.t.Fatal(err)
	}
	return conn
}

func TestWhoHasNoKeyIsNotWaitedForT38(t *testing.T) {
	h := newHouse(t, DoorOptions{})
	// It says that a body comes, which does not.
	conn := h.dial("POST /v1/sandboxes HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{")
	if err := conn.SetReadDeadline(time.Now().Add(leaveTime + 20*time.Second)); err != nil {
		t.Fatal(err)
	}
	reply, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil || reply.StatusCode != http.StatusUnauthorized {
		t.Fatalf("%v, %v", reply, err)
	}
	if _, err := io.Copy(io.Discard, conn); err != nil {
		t.Errorf("the connection stays open: %v", err)
	}
}

func TestASlowBodyIsCutT38(t *testing.T) {
	h := newHouse(t, DoorOptions{BodyPatience: 50 * time.Millisecond})
	secret := h.key(cove.KeyInput{Name: "ci"})
	box := h.sandboxOf(h.caller(secret))
	slow := h.dial(fmt.Sprintf("PUT /v1/sandboxes/%s/files?path=y HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\nContent-Length: 1000\r\n\r\n{", box.ID, secret))
	reply, err := http.ReadResponse(bufio.NewReader(slow), nil)
	if err != nil || reply.StatusCode != http.StatusGatewayTimeout {
		t.Fatalf("%v, %v", reply, err)
	}
	if _, err := box.Files().Stat(t.Context(), "y"); !errors.Is(err, cove.NotFound) {
		t.Errorf("what came of it is there: %v", err)
	}
}

func TestConnectionsAreBoundedT38(t *testing.T) {
	h := newHouse(t, DoorOptions{MaxConnections: 2})
	held := []net.Conn{h.dial(""), h.dial("")}
	eventually(t, "both are counted", func() bool { return h.server.door.connections.Load() == 2 })
	third := h.dial("")
	if _, err := third.Read(make([]byte, 1)); err == nil {
		t.Error("a third connection is answered")
	}
	if _, err := h.client.Version(t.Context()); err != nil {
		t.Errorf("who has the socket pays for it: %v", err)
	}
	held[0].Close()
	eventually(t, "there is room again", func() bool {
		conn := h.dial("GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
		reply, err := http.ReadResponse(bufio.NewReader(conn), nil)
		return err == nil && reply.StatusCode == http.StatusOK
	})
	eventually(t, "one is counted", func() bool { return h.server.door.connections.Load() == 1 })
}

func TestServeTakesNothingButASocketT74(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := New(Options{}).Serve(t.Context(), listener); err == nil || !strings.Contains(err.Error(), "no Unix socket") {
		t.Errorf("served without keys: %v", err)
	}
	if listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	if err := New(Options{}).ServeDoor(t.Context(), listener); !errors.Is(err, cove.Invalid) {
		t.Errorf("a door without keys: %v", err)
	}
}

func TestATerminalOpensWithEitherHeader(t *testing.T) {
	h := newHouse(t, DoorOptions{})
	secret := h.key(cove.KeyInput{Name: "ci"})
	box := h.sandboxOf(h.caller(secret))
	process, err := box.Start(t.Context(), cove.ProcessRequest{Command: cove.Command{Line: "cat"}, TTY: &cove.TerminalSize{Cols: 80, Rows: 24}})
	if err != nil {
		t.Fatal(err)
	}
	for _, header := range []http.Header{bearer(secret), {httpapi.HeaderAPIKey: {secret}}} {
		at := fmt.Sprintf("ws://%s/v1/sandboxes/%s/processes/%d/tty", h.at, box.ID, process.PID)
		conn, _, err := websocket.Dial(t.Context(), at, &websocket.DialOptions{HTTPHeader: header})
		if err != nil {
			t.Fatal(err)
		}
		conn.CloseNow()
	}
}
