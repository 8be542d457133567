package e2e

import (
	"encoding/json"
	"io"
	"net"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/sandbox/conformance"
)

// What happens to sandboxes from outside: they are killed behind the daemon's back, and
// their ports are used.
func TestOutside(t *testing.T) {
	eachRuntime(t, func(t *testing.T, runtime string) {
		w := newWorld(t, runtime)
		t.Run("T88 a sandbox that is killed has failed, with the reason", func(t *testing.T) { killedBehindOurBack(t, w) })
		t.Run("an open port leads inside, also after the daemon was killed", func(t *testing.T) { openPort(t, w) })
	})
}

func killedBehindOurBack(t *testing.T, w *world) {
	id := strings.TrimSpace(w.output(t, "create", "--name", "victim"))
	if err := conformance.KillProcesses(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	var box cove.Sandbox
	eventually(t, 5*time.Second, "the sandbox has failed", func() bool {
		if err := json.Unmarshal([]byte(w.output(t, "inspect", "--json", id)), &box); err != nil {
			t.Fatal(err)
		}
		return box.State == cove.StateFailed
	})
	if box.Reason != cove.ReasonKilled || box.Message == "" {
		t.Errorf("reason %q, %q, want killed, and in words", box.Reason, box.Message)
	}
	cmd := w.command(t, "exec", id, "--", "true")
	if output, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(output), "the sandbox ended: "+box.Message) {
		t.Errorf("exec in it: %v\n%s", err, output)
	}
	if events := w.output(t, "events", "--type", "sandbox.failed", id); !strings.Contains(events, "killed") {
		t.Errorf("events: %q, want one that says killed", events)
	}
	w.output(t, "rm", id)
}

func openPort(t *testing.T, w *world) {
	if _, err := exec.LookPath("python3"); err != nil {
		t.Skip("the server is of python3, which this machine has not: ", err)
	}
	const server = `import socket
s = socket.create_server(("127.0.0.1", 8000))
while True:
    c, _ = s.accept()
    data = b""
    while piece := c.recv(65536): data += piece
    c.sendall(data[::-1])
    c.close()`
	id := strings.TrimSpace(w.output(t, "create", "-p", "8000"))
	w.output(t, "exec", "-d", id, "--", "python3", "-c", server)
	for _, when := range []string{"at first", "after the daemon was killed"} {
		var box cove.Sandbox
		if err := json.Unmarshal([]byte(w.output(t, "inspect", "--json", id)), &box); err != nil {
			t.Fatal(err)
		}
		address := "127.0.0.1:" + strconv.Itoa(box.Spec.Ports[0].HostPort)
		eventually(t, 20*time.Second, when+": the port answers", func() bool { return reversed(t, address, "half-closed") == "desolc-flah" })
		w.stop(t, syscall.SIGKILL)
	}
	w.output(t, "rm", id)
}

// reversed sends a text to the server, says that this is all, and returns the reply.
func reversed(t *testing.T, address, text string) string {
	conn, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(t.Context(), "tcp", address)
	if err != nil {
		return ""
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, text); err != nil {
		return ""
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		return ""
	}
	reply, _ := io.ReadAll(conn)
	return string(reply)
}
