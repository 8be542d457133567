package guest_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/covehq/cove/guest"
	"github.com/covehq/cove/guest/dial"
)

// runDirVariable makes this test's program the agent, with its sockets there.
const runDirVariable = "COVE_TEST_RUN_DIR"

func TestMain(m *testing.M) {
	guest.Limit()
	dir := os.Getenv(runDirVariable)
	if dir == "" {
		os.Exit(m.Run())
	}
	_ = os.Unsetenv(runDirVariable)
	var err error
	if len(os.Args) > 1 && os.Args[1] == "connect" {
		err = guest.Connect(dir, os.Stdin, os.Stdout)
	} else {
		err = guest.Boot(dir, os.Stderr)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// program is an agent in a process of its own.
type program struct {
	dir  string
	cmd  *exec.Cmd
	door *net.UnixConn // nil when it has none
}

// agentCommand returns the command that runs the agent's program.
func agentCommand(t testing.TB, dir string, args ...string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, "/proc/self/exe", args...)
	// The race detector would make every exit wait for a second.
	cmd.Env = append(os.Environ(), runDirVariable+"="+dir, "GORACE=atexit_sleep_ms=0")
	cmd.Stderr = t.Output()
	cmd.WaitDelay = time.Second
	return cmd
}

// boot starts an agent whose standard input is a door.
func boot(t testing.TB) *program {
	t.Helper()
	p := &program{dir: filepath.Join(t.TempDir(), "run")}
	p.cmd = agentCommand(t, p.dir)
	ours, theirs := socketPair(t)
	file, err := theirs.File()
	if err != nil {
		t.Fatal(err)
	}
	p.cmd.Stdin = file
	p.door = ours
	p.start(t)
	_ = file.Close()
	_ = theirs.Close()
	return p
}

func (p *program) start(t testing.TB) {
	t.Helper()
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
		if err := p.cmd.Wait(); err != nil {
			t.Errorf("the agent ended with %v", err)
		}
	})
}

// through returns a Dialer that hands connections in through a door.
func through(t testing.TB, door *net.UnixConn) dial.Dialer {
	return func(context.Context) (net.Conn, error) {
		ours, theirs := socketPair(t)
		defer theirs.Close()
		file, err := theirs.File()
		if err != nil {
			return nil, err
		}
		defer file.Close()
		_, _, err = door.WriteMsgUnix([]byte{0}, unix.UnixRights(int(file.Fd())), nil)
		return ours, err
	}
}

// client returns a client that reaches the agent through its door.
func (p *program) client(t testing.TB) *dial.Client {
	t.Helper()
	return initialized(t, through(t, p.door))
}

func initialized(t testing.TB, d dial.Dialer) *dial.Client {
	t.Helper()
	c := dial.New(d)
	t.Cleanup(func() { _ = c.Close() })
	if err := c.Init(t.Context(), dial.Init{User: strconv.Itoa(os.Geteuid()), Workdir: "/tmp"}); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestDoor(t *testing.T) {
	p := boot(t)
	for range 3 {
		c := p.client(t)
		if got := run(t, c, shell("echo inside")).stdout; got != "inside\n" {
			t.Errorf("got %q", got)
		}
	}
}

func TestDoorSurvivesMessagesWithoutConnections(t *testing.T) {
	p := boot(t)
	if _, err := p.door.Write([]byte("no rights")); err != nil {
		t.Fatal(err)
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	if _, _, err := p.door.WriteMsgUnix([]byte{0}, unix.UnixRights(int(null.Fd()), int(null.Fd())), nil); err != nil {
		t.Fatal(err)
	}
	if err := p.client(t).Health(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestNewDoorAfterTheOldOneBroke(t *testing.T) {
	p := boot(t)
	stream, err := p.client(t).Start(t.Context(), shell("sleep 300"))
	if err != nil {
		t.Fatal(err)
	}
	pid := stream.PID
	_ = stream.Close()
	_ = p.door.Close()

	ours, theirs := socketPair(t)
	file, err := theirs.File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	connect := agentCommand(t, p.dir, "connect")
	connect.Stdin = file
	if err := connect.Run(); err != nil {
		t.Fatalf("connect: %v", err)
	}
	c := initialized(t, through(t, ours))
	list, err := c.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(list) != 1 || list[0].PID != pid || !list[0].Running {
		t.Errorf("got processes %+v, want the one from before, %d", list, pid)
	}
}

func TestConnectBridgesPipes(t *testing.T) {
	p := boot(t)
	if err := p.client(t).Health(t.Context()); err != nil { // its socket is there now
		t.Fatal(err)
	}
	connect := agentCommand(t, p.dir, "connect")
	connect.Stdin = strings.NewReader("GET /health HTTP/1.1\r\nHost: guest\r\nConnection: close\r\n\r\n")
	out, err := connect.Output()
	if err != nil || !strings.HasPrefix(string(out), "HTTP/1.1 204") {
		t.Errorf("got %q, %v; want a reply", out, err)
	}
}

func TestStandardInputAndOutputAsFirstConnection(t *testing.T) {
	p := &program{dir: filepath.Join(t.TempDir(), "run")}
	p.cmd = agentCommand(t, p.dir)
	in, err := p.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.start(t)
	if _, err := io.WriteString(in, "GET /health HTTP/1.1\r\nHost: guest\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, len("HTTP/1.1 204"))
	if _, err := io.ReadFull(out, answer); err != nil || string(answer) != "HTTP/1.1 204" {
		t.Errorf("got %q, %v; want a reply", answer, err)
	}
}

func TestSocketsAreRootsAlone(t *testing.T) {
	p := boot(t)
	if err := p.client(t).Health(t.Context()); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(p.dir)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Fatalf("got %v, %v; want a directory of mode 0700", info, err)
	}
	if os.Geteuid() != 0 {
		return // there is no other user to try it as
	}
	if err := errors.Join(os.Chmod(p.dir, 0o755), os.Chmod(filepath.Join(p.dir, "agent.sock"), 0o777)); err != nil {
		t.Fatal(err)
	}
	for dir := filepath.Dir(p.dir); dir != "/tmp" && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	connect := agentCommand(t, p.dir, "connect")
	connect.Path, connect.Args = "/usr/bin/env", []string{"env", "python3", "-c", `
import socket, sys
s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])
s.sendall(b"GET /health HTTP/1.1\r\nHost: guest\r\n\r\n"); print(s.recv(100))`, filepath.Join(p.dir, "agent.sock")}
	connect.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out, _ := connect.Output(); strings.Contains(string(out), "204") {
		t.Errorf("another user got a reply: %s", out)
	}
}

func TestCommandsInheritNothingUnusual(t *testing.T) {
	// A parent that ignores and blocks signals, as some runtimes do.
	signal.Ignore(syscall.SIGHUP)
	defer signal.Reset(syscall.SIGHUP)
	p := boot(t)
	c := p.client(t)
	for _, test := range []struct{ name, line, want string }{
		{"descriptors", "ls /proc/self/fd | grep -vx 3 | tr -d '\\n'", "012"},
		// Without 32 and 33, which C libraries keep for themselves and hand down as they got them.
		{"ignored signals", "printf %x $((0x$(grep SigIgn /proc/self/status | cut -f2) & ~0x180000000))", "0"},
		{"blocked signals", "grep SigBlk /proc/self/status | cut -f2 | tr -d '\\n'", "0000000000000000"},
		{"the file mode mask", "umask | tr -d '\\n'", "0022"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := run(t, c, shell(test.line)).stdout; got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestOrphansAreCollected(t *testing.T) {
	p := boot(t)
	c := p.client(t)
	// Each of these leaves an orphan that ends a moment later.
	for range 20 {
		run(t, c, shell("(sleep 0.05 &) ; exit 0"))
	}
	eventually(t, "all children of the agent are collected", func() bool {
		children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", p.cmd.Process.Pid, p.cmd.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		if len(children) > 0 {
			return false
		}
		out, _ := exec.CommandContext(t.Context(), "pgrep", "-P", strconv.Itoa(p.cmd.Process.Pid)).Output()
		return len(out) == 0
	})
}

func TestExitCodesAreNotLostToTheReaper(t *testing.T) {
	p := boot(t)
	c := p.client(t)
	const parallel, each = 8, 40
	failures := make(chan error, parallel)
	for worker := range parallel {
		go func() {
			for i := range each {
				want := (worker*each + i) % 200
				stream, err := c.Start(t.Context(), shell(fmt.Sprintf("(true &); exit %d", want)))
				if err != nil {
					failures <- err
					return
				}
				for {
					output, err := stream.Next()
					if err != nil {
						failures <- err
						return
					}
					if output.Exit == nil {
						continue
					}
					if output.Exit.Code != want {
						failures <- fmt.Errorf("got exit code %d, want %d", output.Exit.Code, want)
						return
					}
					break
				}
				_ = stream.Close()
			}
			failures <- nil
		}()
	}
	for range parallel {
		if err := <-failures; err != nil {
			t.Error(err)
		}
	}
}

func TestAgentSurvivesABrokenStandardError(t *testing.T) {
	p := &program{dir: filepath.Join(t.TempDir(), "run")}
	p.cmd = agentCommand(t, p.dir)
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p.cmd.Stderr = write
	ours, theirs := socketPair(t)
	file, err := theirs.File()
	if err != nil {
		t.Fatal(err)
	}
	p.cmd.Stdin, p.door = file, ours
	p.start(t)
	_ = errors.Join(read.Close(), write.Close(), file.Close(), theirs.Close())
	d := through(t, p.door)
	conn, err := d(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// This makes the server log a line.
	if _, err := io.WriteString(conn, "POST /cove/dial?port=1 HTTP/1.1\r\nHost: guest\r\nContent-Length: -1\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	_, _ = io.ReadAll(conn)
	if err := p.client(t).Health(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestHTTP2ThroughTheDoor(t *testing.T) {
	p := boot(t)
	response, err := httpClient(through(t, p.door), true).Get("http://guest/health")
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	if response.ProtoMajor != 2 || response.StatusCode != http.StatusNoContent {
		t.Errorf("got %s %s, want HTTP/2 204", response.Proto, response.Status)
	}
}
