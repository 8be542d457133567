package server

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"github.com/covehq/cove"
	"github.com/covehq/cove/client"
)

// shell starts an interactive shell on a terminal.
func shell(t *testing.T, box *client.Sandbox) *client.Process {
	t.Helper()
	process, err := box.Start(t.Context(), cove.ProcessRequest{
		Command: cove.Command{Argv: []string{"sh"}}, TTY: &cove.TerminalSize{Cols: 80, Rows: 24}, Env: map[string]string{"PS1": "> "},
	})
	if err != nil {
		t.Fatal(err)
	}
	return process
}

// readUntil reads until a text was shown.
func readUntil(t *testing.T, r io.Reader, text string) string {
	t.Helper()
	var all bytes.Buffer
	buf := make([]byte, 4096)
	for !strings.Contains(all.String(), text) {
		n, err := r.Read(buf)
		all.Write(buf[:n])
		if err != nil {
			t.Fatalf("%q was not shown, but %q and then %v", text, all.String(), err)
		}
	}
	return all.String()
}

func TestTerminal(t *testing.T) {
	w, ctx := newWorld(t, Options{}), t.Context()
	box := w.sandbox()
	process := shell(t, box)
	terminal, err := process.Terminal(ctx, client.TerminalOptions{From: new(uint64)})
	if err != nil {
		t.Fatal(err)
	}
	defer terminal.Close()
	if _, err := io.WriteString(terminal, "echo $((6*7))\n"); err != nil {
		t.Fatal(err)
	}
	readUntil(t, terminal, "42\r\n")
	if err := terminal.Resize(cove.TerminalSize{Cols: 101, Rows: 31}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the terminal has its new size", func() bool {
		if _, err := io.WriteString(terminal, "stty size; echo si''zed\n"); err != nil {
			t.Fatal(err)
		}
		return strings.Contains(readUntil(t, terminal, "sized\r\n"), "31 101")
	})
	// Leave, come back, and see it all again.
	terminal.Close()
	again, err := process.Terminal(ctx, client.TerminalOptions{From: new(uint64), Size: cove.TerminalSize{Cols: 70, Rows: 20}})
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	readUntil(t, again, "42\r\n")
	if _, err := io.WriteString(again, "stty size; exit 6\n"); err != nil {
		t.Fatal(err)
	}
	readUntil(t, again, "20 70")
	if _, err := io.Copy(io.Discard, again); err != nil {
		t.Errorf("reading to the end: %v", err)
	}
	if exit := again.Exit(); exit == nil || exit.Code != 6 {
		t.Errorf("it ended with %+v", exit)
	}
	if err := again.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
}

func TestATerminalThatIsLeftCanKill(t *testing.T) {
	w, ctx := newWorld(t, Options{}), t.Context()
	process := shell(t, w.sandbox())
	terminal, err := process.Terminal(ctx, client.TerminalOptions{Kill: true})
	if err != nil {
		t.Fatal(err)
	}
	terminal.Close()
	eventually(t, "the shell is dead", func() bool {
		info, err := process.Info(ctx)
		return err == nil && !info.Running
	})
}

func TestNoTerminal(t *testing.T) {
	w, ctx := newWorld(t, Options{}), t.Context()
	box := w.sandbox()
	process, err := box.Start(ctx, cove.ProcessRequest{Command: cove.Command{Argv: []string{"sleep", "300"}}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := process.Terminal(ctx, client.TerminalOptions{}); !errors.Is(err, cove.Invalid) || cove.HintOf(err) != "start it with tty" {
		t.Errorf("a process without terminal: %v, hint %q", err, cove.HintOf(err))
	}
	if _, err := box.Process(999999).Terminal(ctx, client.TerminalOptions{}); !errors.Is(err, cove.NotFound) {
		t.Errorf("an unknown process: %v", err)
	}
}

func TestForeignPagesGetNoTerminal(t *testing.T) {
	w, ctx := newWorld(t, Options{}), t.Context()
	box := w.sandbox()
	process := shell(t, box)
	at := "http://cove/v1/sandboxes/" + box.ID + "/processes/" + strconv.Itoa(process.PID) + "/tty"
	for origin, allowed := range map[string]bool{"http://cove": true, "http://evil.example": false, "null": false, "http://cove.evil.example": false} {
		conn, reply, err := websocket.Dial(ctx, at, &websocket.DialOptions{
			HTTPClient: w.client.HTTP(), HTTPHeader: http.Header{"Origin": {origin}},
		})
		if (err == nil) != allowed {
			t.Errorf("a page of %s: %v, want it allowed: %v", origin, err, allowed)
		}
		if err == nil {
			conn.CloseNow()
		} else if reply == nil || reply.StatusCode != http.StatusForbidden {
			t.Errorf("a page of %s gets %v, want 403", origin, reply)
		}
	}
}

func TestMessagesThatMakeNoSense(t *testing.T) {
	w, ctx := newWorld(t, Options{}), t.Context()
	box := w.sandbox()
	process := shell(t, box)
	at := "http://cove/v1/sandboxes/" + box.ID + "/processes/" + strconv.Itoa(process.PID) + "/tty"
	for name, message := range map[string]string{"no JSON": "resize", "nothing": "{}", "too much": strings.Repeat("x", maxTyped+1)} {
		conn, _, err := websocket.Dial(ctx, at, &websocket.DialOptions{HTTPClient: w.client.HTTP()})
		if err != nil {
			t.Fatal(err)
		}
		if err := conn.Write(ctx, websocket.MessageText, []byte(message)); err != nil {
			t.Fatal(err)
		}
		for err == nil {
			_, _, err = conn.Read(ctx)
		}
		want := websocket.StatusUnsupportedData
		if name == "too much" {
			want = websocket.StatusMessageTooBig
		}
		if got := websocket.CloseStatus(err); got != want {
			t.Errorf("%s ends the connection with %v (%v), want %v", name, got, err, want)
		}
		conn.CloseNow()
	}
	if info, err := process.Info(ctx); err != nil || !info.Running {
		t.Errorf("the shell: %+v, %v", info, err)
	}
}

func TestATerminalEndsWithItsContext(t *testing.T) {
	w := newWorld(t, Options{})
	process := shell(t, w.sandbox())
	ctx, cancel := context.WithCancel(t.Context())
	terminal, err := process.Terminal(ctx, client.TerminalOptions{})
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := io.Copy(io.Discard, terminal); !errors.Is(err, context.Canceled) {
		t.Errorf("reading: %v, want the context's error", err)
	}
	terminal.Close()
}
