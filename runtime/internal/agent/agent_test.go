package agent

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/runtime/internal/process"
)

// pipeTo returns a dialer whose every connection is answered with text.
func pipeTo(text string) func(context.Context) (net.Conn, error) {
	return func(context.Context) (net.Conn, error) {
		ours, theirs := net.Pipe()
		go func() {
			defer theirs.Close()
			if _, err := http.ReadRequest(bufio.NewReader(theirs)); err == nil {
				fmt.Fprint(theirs, text)
			}
		}()
		return ours, nil
	}
}

func TestReadyTellsAnAnswerFromNoise(t *testing.T) {
	closed := make(chan struct{})
	close(closed)
	for name, test := range map[string]struct {
		reply string
		gone  chan struct{}
		want  string
	}{
		"an agent":            {"HTTP/1.1 204 No Content\r\n\r\n", nil, ""},
		"an agent that fails": {"HTTP/1.1 500 Oops\r\n\r\n", nil, "guest agent: health is 500 Oops"},
		"an endless header":   {"HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 64<<10), nil, "guest agent: the reply is too long"},
		"a hang-up":           {"", nil, "guest agent: unexpected EOF"},
		"the sandbox is dead": {"", closed, ErrGone.Error()},
	} {
		t.Run(name, func(t *testing.T) {
			err := Ready(t.Context(), pipeTo(test.reply), test.gone)
			if got := text(err); got != test.want {
				t.Errorf("got %.200q, want %q", got, test.want)
			}
		})
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// TestT53AnAgentsSocketIsNothingElse lets a process with a root directory of its own stand
// for a sandbox.
func TestT53AnAgentsSocketIsNothingElse(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("changes the root directory of a process: run as root")
	}
	for name, test := range map[string]struct {
		put  func(t *testing.T, path string)
		want error // nil: a connection
		text string
	}{
		"a socket": {put: func(t *testing.T, path string) {
			l, err := net.Listen("unix", path)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { l.Close() })
		}},
		"a file": {
			put:  func(t *testing.T, path string) { must(t, os.WriteFile(path, nil, 0o600)) },
			text: "the guest has put something else in place of the agent's socket",
		},
		"a link to a socket of the host's": {
			put: func(t *testing.T, path string) {
				outside := t.TempDir() + "/host.sock"
				l, err := net.Listen("unix", outside)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { l.Close() })
				must(t, os.Symlink(outside, path))
			},
			text: "the guest has put something else in place of the agent's socket",
		},
		"nothing, until the caller gives up": {put: func(*testing.T, string) {}, want: context.DeadlineExceeded},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			must(t, os.MkdirAll(root+"/.cove/run", 0o700))
			test.put(t, root+"/"+socketPath)
			first := inRoot(t, root)
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			conn, err := (Socket{First: first}).Dial(ctx)
			if conn != nil {
				conn.Close()
			}
			switch {
			case test.text != "" && text(err) != test.text:
				t.Errorf("got %v, want %s", err, test.text)
			case test.text == "" && !errors.Is(err, test.want):
				t.Errorf("got %v, want %v", err, test.want)
			}
		})
	}
}

func TestTheSocketOfADeadProcessIsGone(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "sleep", "60")
	must(t, cmd.Start())
	first, err := process.Open(cmd.Process.Pid, 0)
	must(t, err)
	defer first.Close()
	must(t, cmd.Process.Kill())
	_ = cmd.Wait()
	if _, err := (Socket{First: first}).Dial(t.Context()); !errors.Is(err, cove.Gone) {
		t.Errorf("got %v, want gone", err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
