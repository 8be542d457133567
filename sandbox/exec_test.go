package sandbox

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	stdruntime "runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/sandbox/driver"
)

func TestExec(t *testing.T) {
	r := newRig(t, Options{})
	s := r.create(cove.Spec{Workdir: "/work", Env: map[string]string{"A": "1"}})
	lines := func(first, last int) string {
		var text strings.Builder
		for n := first; n <= last; n++ {
			text.WriteString(strings.Repeat("0", 7-len(strconv.Itoa(n))) + strconv.Itoa(n) + "\n")
		}
		return text.String()
	}
	tests := []struct {
		name string
		ask  cove.ExecRequest
		want cove.ExecResult
	}{
		{"output is returned", exec("echo", "a", "b"), cove.ExecResult{Stdout: "a b"}},
		{"errors and the code too", exec("complain", "no"), cove.ExecResult{Stderr: "no", ExitCode: 1}},
		{"a failure is a result", exec("exit", "7"), cove.ExecResult{ExitCode: 7}},
		{
			"environment and directory reach the command",
			cove.ExecRequest{Command: cove.Command{Argv: []string{"context"}}, Cwd: "/x", Env: map[string]string{"B": "2"}},
			cove.ExecResult{Stdout: "/x B=2"},
		},
		{
			"a relative directory is below the workdir",
			cove.ExecRequest{Command: cove.Command{Argv: []string{"context"}}, Cwd: "src"},
			cove.ExecResult{Stdout: "/work/src "},
		},
		{
			"stdin is read",
			cove.ExecRequest{Command: cove.Command{Argv: []string{"cat"}}, Stdin: "hello"},
			cove.ExecResult{Stdout: "hello"},
		},
		{
			"stdin is empty otherwise",
			exec("cat"), cove.ExecResult{},
		},
		{
			"stdin need not be read",
			cove.ExecRequest{Command: cove.Command{Argv: []string{"head", "3"}}, Stdin: strings.Repeat("x", 5<<20)},
			cove.ExecResult{Stdout: "3"},
		},
		{
			"bytes travel as base64",
			cove.ExecRequest{Command: cove.Command{Argv: []string{"cat"}}, Stdin: base64.StdEncoding.EncodeToString([]byte("\x00\xff")), Encoding: cove.EncodingBase64},
			cove.ExecResult{Stdout: "AP8=", Encoding: cove.EncodingBase64},
		},
		{
			"long output keeps head and tail",
			cove.ExecRequest{Command: cove.Command{Argv: []string{"count", "1048576"}}, MaxOutput: 32},
			cove.ExecResult{Stdout: lines(0, 1) + lines(131070, 131071), Truncated: true},
		},
		{
			"output as long as the limit is whole",
			cove.ExecRequest{Command: cove.Command{Argv: []string{"count", "32"}}, MaxOutput: 32},
			cove.ExecResult{Stdout: lines(0, 3)},
		},
		{
			"a time-out keeps the output so far",
			cove.ExecRequest{Command: cove.Command{Argv: []string{"sleep"}}, Timeout: cove.Duration(20 * time.Millisecond)},
			cove.ExecResult{Stdout: "asleep", ExitCode: -1, TimedOut: true, Signal: "SIGKILL"},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := s.Exec(t.Context(), test.ask)
			if err != nil {
				t.Fatalf("Exec: %v", err)
			}
			if got.PID == 0 || got.DurationMS != 1.5 {
				t.Errorf("pid %d after %v ms, want what the guest said", got.PID, got.DurationMS)
			}
			if test.want.Encoding == "" {
				test.want.Encoding = cove.EncodingUTF8
			}
			got.PID, got.DurationMS = 0, 0
			if got != test.want {
				t.Errorf("result = %+v\nwant %+v", got, test.want)
			}
		})
	}
	eventually(t, "nothing runs any more", func() bool { return len(r.world.find(s.ID()).agent.running()) == 0 })
	eventually(t, "no use is left", func() bool { return s.inUse() == 0 })
}

func (s *Sandbox) inUse() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.uses
}

func TestExecMovesAGigabyteEachWayInBoundedMemory(t *testing.T) {
	size := cove.GiB
	if raceEnabled {
		size = 32 * cove.MiB // the detector makes it thirty times slower
	}
	r := newRig(t, Options{})
	s := r.create(cove.Spec{})
	var before, after stdruntime.MemStats
	stdruntime.ReadMemStats(&before)
	got, err := s.Exec(t.Context(), exec("flood", fmt.Sprint(int64(size/cove.MiB))))
	if err != nil || len(got.Stdout) != int(cove.DefaultCapacity) || !got.Truncated || !strings.HasSuffix(got.Stdout, "f") {
		t.Errorf("output = %d bytes, truncated %v, %v, want 1 MiB of it", len(got.Stdout), got.Truncated, err)
	}
	total := fmt.Sprint(int64(size))
	output, err := s.Run(t.Context(), cove.ProcessRequest{Command: cove.Command{Argv: []string{"head", total}}}, io.LimitReader(zeros{}, int64(size)))
	if err != nil {
		t.Fatalf("Run: %v", err)
	}
	defer output.Close()
	stdout, stderr := capture{limit: 100}, capture{}
	if _, err := collect(output, &stdout, &stderr); err != nil || stdout.text(cove.EncodingUTF8) != total {
		t.Errorf("bytes read = %q, %v, want all %s", stdout.text(cove.EncodingUTF8), err, total)
	}
	stdruntime.ReadMemStats(&after)
	if grown := cove.Bytes(after.Sys) - cove.Bytes(before.Sys); grown > 256*cove.MiB {
		t.Errorf("the process grew by %d MiB, want a bounded part of what was moved", grown/cove.MiB)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

func TestBadRequestsAreRefusedBeforeTheyReachTheGuest(t *testing.T) {
	w := newWorld()
	w.info.Isolation = cove.IsolationSharedKernel
	r := openRig(t, w, t.TempDir(), Options{})
	s := r.create(cove.Spec{})
	argv := func(args ...string) cove.Command { return cove.Command{Argv: args} }
	tests := []struct {
		name string
		ask  cove.ExecRequest
		code cove.Code
		text string
	}{
		{"no command", cove.ExecRequest{}, cove.Invalid, "command is empty"},
		{"an empty array", cove.ExecRequest{Command: argv()}, cove.Invalid, "command is empty"},
		{"an empty program", cove.ExecRequest{Command: argv("", "x")}, cove.Invalid, "program's name is empty"},
		{"NUL in an argument", cove.ExecRequest{Command: argv("echo", "a\x00")}, cove.Invalid, "NUL"},
		{"NUL in the line", cove.ExecRequest{Command: cove.Command{Line: "echo a\x00"}}, cove.Invalid, "NUL"},
		{"endless arguments", cove.ExecRequest{Command: argv("echo", strings.Repeat("x", 3<<20))}, cove.TooLarge, "3145734 bytes"},
		{"NUL in the directory", cove.ExecRequest{Command: argv("true"), Cwd: "/a\x00"}, cove.Invalid, "cwd"},
		{"a bad variable", cove.ExecRequest{Command: argv("true"), Env: map[string]string{"A=": ""}}, cove.Invalid, "variable"},
		{"a bad user", cove.ExecRequest{Command: argv("true"), User: "a b"}, cove.Invalid, "user"},
		{"root on the host's kernel", cove.ExecRequest{Command: argv("true"), User: "0"}, cove.NotSupported, "root"},
		{"a negative time-out", cove.ExecRequest{Command: argv("true"), Timeout: -1}, cove.Invalid, "timeout"},
		{"negative output", cove.ExecRequest{Command: argv("true"), MaxOutput: -1}, cove.Invalid, "max_output"},
		{"endless output", cove.ExecRequest{Command: argv("true"), MaxOutput: cove.GiB}, cove.Invalid, "max_output"},
		{"an unknown encoding", cove.ExecRequest{Command: argv("true"), Encoding: "latin1"}, cove.Invalid, `encoding "latin1"`},
		{"stdin that is not base64", cove.ExecRequest{Command: argv("true"), Stdin: "?", Encoding: cove.EncodingBase64}, cove.Invalid, "base64"},
		{"a program that is not there", cove.ExecRequest{Command: argv("nothing")}, cove.NotFound, "command not found"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := s.Exec(t.Context(), test.ask)
			if test.code == cove.NotFound {
				if !errors.Is(err, cove.NotFound) || !strings.Contains(err.Error(), test.text) {
					t.Errorf("Exec = %v, want not found", err)
				}
				return
			}
			wantError(t, err, test.code, test.text)
		})
	}
	if _, err := s.Start(t.Context(), cove.ProcessRequest{Command: argv("true"), TTY: &cove.TerminalSize{}}, StartOptions{}); !errors.Is(err, cove.Invalid) {
		t.Errorf("Start with a terminal without size = %v, want invalid", err)
	}
	if _, err := s.Start(t.Context(), cove.ProcessRequest{Command: argv("true"), Tag: "a\nb"}, StartOptions{}); !errors.Is(err, cove.Invalid) {
		t.Errorf("Start with a line break in the tag = %v, want invalid", err)
	}
	if n := s.inUse(); n != 0 {
		t.Errorf("%d uses left, want none", n)
	}
}

func TestExecOfACallerThatLeavesIsKilled(t *testing.T) {
	r := newRig(t, Options{})
	s := r.create(cove.Spec{})
	agent := r.world.find(s.ID()).agent
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := s.Exec(ctx, exec("sleep"))
		ended <- err
	}()
	eventually(t, "the command runs", func() bool { return len(agent.running()) == 1 })
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("Exec = %v, want canceled", err)
	}
	// Exec asked for the kill before it returned.
	eventually(t, "the command is dead", func() bool { return len(agent.running()) == 0 })

	ctx, cancel = context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	_, err := s.Exec(ctx, exec("sleep"))
	if !errors.Is(err, cove.Timeout) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Exec with a deadline = %v (%s), want a timeout", err, cove.CodeOf(err))
	}
}

func TestHostEnforcesTheTimeoutOfAHostileGuest(t *testing.T) {
	r := newRig(t, Options{})
	r.overdue = 20 * time.Millisecond
	s := r.create(cove.Spec{Timeout: cove.Duration(10 * time.Millisecond)})
	got, err := s.Exec(t.Context(), exec("stuck"))
	if err != nil {
		t.Fatalf("Exec: %v", err)
	}
	if !got.TimedOut || got.ExitCode != -1 || got.Stdout != "stuck" {
		t.Errorf("result = %+v, want timed out with the output so far", got)
	}
	if n := s.inUse(); n != 0 {
		t.Errorf("%d uses left, want none", n)
	}
}

func TestBrokenStdinDoesNotPassForAWholeOne(t *testing.T) {
	r := newRig(t, Options{})
	s := r.create(cove.Spec{})
	torn := io.MultiReader(strings.NewReader("half"), iotest.ErrReader(errors.New("the caller's line broke")))
	output, err := s.Run(t.Context(), cove.ProcessRequest{Command: cove.Command{Argv: []string{"cat"}}}, torn)
	if err != nil {
		t.Fatalf("Run: %v", err)
	}
	var stdout, stderr capture
	_, err = collect(output, &stdout, &stderr)
	wantError(t, err, cove.Invalid, "standard input broke off", "the caller's line broke")
	if err := output.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	eventually(t, "the command is dead", func() bool { return len(r.world.find(s.ID()).agent.running()) == 0 })
}

func TestProcesses(t *testing.T) {
	r := newRig(t, Options{})
	s := r.create(cove.Spec{})
	agent := r.world.find(s.ID()).agent
	ctx, cancel := context.WithCancel(t.Context())
	start := func(o StartOptions, tag string, argv ...string) (*Process, error) {
		return s.Start(ctx, cove.ProcessRequest{Command: cove.Command{Argv: argv}, Tag: tag, Stdin: true}, o)
	}
	sleeper, err := start(StartOptions{}, "web", "sleep")
	if err != nil {
		t.Fatalf("Start: %v", err)
	}
	_, err = start(StartOptions{Unique: true}, "web", "sleep")
	wantError(t, err, cove.Conflict, `the tag "web"`)
	reader, err := start(StartOptions{Unique: true}, "reader", "head", "9")
	if err != nil {
		t.Fatalf("Start: %v", err)
	}
	cancel() // a background process outlives the context that started it

	if info, err := sleeper.Info(t.Context()); err != nil || !info.Running || info.Tag != "web" || !slices.Equal(info.Command, []string{"sleep"}) {
		t.Errorf("Info = %+v, %v, want the sleeper", info, err)
	}
	if list, err := s.Processes(t.Context()); err != nil || len(list) != 2 {
		t.Errorf("Processes = %+v, %v, want 2", list, err)
	}
	if err := reader.Write(t.Context(), strings.NewReader("abc")); err != nil {
		t.Errorf("Write: %v", err)
	}
	if err := reader.CloseStdin(t.Context()); err != nil {
		t.Errorf("CloseStdin: %v", err)
	}
	exitOf := func(p *Process) *cove.Exit {
		output, err := p.Follow(t.Context(), cove.FromStart(), false)
		if err != nil {
			t.Fatalf("Follow: %v", err)
		}
		defer output.Close()
		exit, err := collect(output, &capture{}, &capture{})
		if err != nil {
			t.Errorf("following: %v", err)
		}
		return &exit
	}
	if exit := exitOf(reader); exit.Code != 0 {
		t.Errorf("exit of the reader = %+v, want 0", exit)
	}
	wantError(t, sleeper.Signal(t.Context(), "FOO"), cove.Invalid, `signal "FOO" is unknown`)
	if err := sleeper.Signal(t.Context(), "term"); err != nil {
		t.Errorf("Signal: %v", err)
	}
	if exit := exitOf(sleeper); exit.Code != -1 || exit.Signal != "SIGKILL" {
		t.Errorf("exit of the sleeper = %+v, want a signal", exit)
	}
	again, err := start(StartOptions{Unique: true}, "web", "sleep")
	if err == nil {
		t.Fatalf("Start with a context that has ended = %v, want an error", again)
	}
	again, err = s.Start(t.Context(), cove.ProcessRequest{Command: cove.Command{Argv: []string{"sleep"}}, Tag: "web"}, StartOptions{Unique: true})
	if err != nil {
		t.Fatalf("Start with the tag of a dead process: %v", err)
	}
	if err := again.Kill(t.Context()); err != nil {
		t.Errorf("Kill: %v", err)
	}
	eventually(t, "nothing runs any more", func() bool { return len(agent.running()) == 0 })

	nobody := s.Process(999)
	if _, err := nobody.Info(t.Context()); !errors.Is(err, cove.NotFound) {
		t.Errorf("Info of nobody = %v, want not found", err)
	}
	if err := nobody.Kill(t.Context()); !errors.Is(err, cove.NotFound) {
		t.Errorf("Kill of nobody = %v, want not found", err)
	}
	if err := nobody.Resize(t.Context(), cove.TerminalSize{}); !errors.Is(err, cove.Invalid) {
		t.Errorf("Resize to nothing = %v, want invalid", err)
	}
}

func TestUniqueTagIsGivenOnce(t *testing.T) {
	r := newRig(t, Options{})
	s := r.create(cove.Spec{})
	var group sync.WaitGroup
	var started atomic.Int32
	for range 16 {
		group.Go(func() {
			_, err := s.Start(t.Context(), cove.ProcessRequest{Command: cove.Command{Argv: []string{"sleep"}}, Tag: "web"}, StartOptions{Unique: true})
			if err == nil {
				started.Add(1)
			} else if !errors.Is(err, cove.Conflict) {
				t.Errorf("Start = %v, want conflict", err)
			}
		})
	}
	group.Wait()
	if n := started.Load(); n != 1 {
		t.Errorf("%d processes have the tag, want 1", n)
	}
}

func TestClosingARunKillsIt(t *testing.T) {
	r := newRig(t, Options{})
	s := r.create(cove.Spec{})
	// The host does not rely on a guest that notices the end of a stream.
	r.world.find(s.ID()).agent.deaf = true
	output, err := s.Run(t.Context(), cove.ProcessRequest{Command: cove.Command{Argv: []string{"sleep"}}}, nil)
	if err != nil {
		t.Fatalf("Run: %v", err)
	}
	if next, err := output.Next(); err != nil || string(next.Data) != "asleep" {
		t.Errorf("Next = %q, %v, want its output", next.Data, err)
	}
	for range 2 {
		if err := output.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
	eventually(t, "the command is dead", func() bool { return len(r.world.find(s.ID()).agent.running()) == 0 })
	if n := s.inUse(); n != 0 {
		t.Errorf("%d uses left, want none", n)
	}
}

func TestCallsThatAreUnderWayAreToldWhyTheSandboxEnded(t *testing.T) {
	tests := []struct {
		name string
		end  func(*rig, *Sandbox)
		want []string
	}{
		{
			"it ran out of memory",
			func(r *rig, s *Sandbox) { r.world.die(s.ID(), driver.Exit{Reason: cove.ReasonOOM}) },
			[]string{"was killed: out of memory (limit 512MiB)"},
		},
		{
			"somebody killed it",
			func(r *rig, s *Sandbox) {
				r.world.die(s.ID(), driver.Exit{Reason: cove.ReasonKilled, Message: "the sentry got\nsignal 9"})
			},
			[]string{"was killed: the sentry got signal 9"},
		},
		{
			"it was removed",
			func(_ *rig, s *Sandbox) { _ = s.Destroy(context.Background()) },
			[]string{"is gone: it was removed on request"},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r := newRig(t, Options{})
			s := r.create(cove.Spec{})
			agent := r.world.find(s.ID()).agent
			errs := make(chan error, 3)
			go func() {
				_, err := s.Exec(t.Context(), exec("sleep"))
				errs <- err
			}()
			eventually(t, "the command runs", func() bool { return len(agent.running()) == 1 })
			conn, err := s.DialPort(t.Context(), 80)
			if err != nil {
				t.Fatalf("DialPort: %v", err)
			}
			defer conn.Close()
			test.end(r, s)
			wantError(t, <-errs, cove.Gone, append(test.want, "exec "+s.ID())...)
			_, err = s.Exec(t.Context(), exec("true"))
			wantError(t, err, cove.Gone, test.want...)
			if _, err := conn.Read(make([]byte, 1)); err == nil {
				t.Error("the connection to a port outlived the sandbox")
			}
		})
	}
}

func TestConnectionToAPortEndsWithTheSandbox(t *testing.T) {
	r := newRig(t, Options{})
	s := r.create(cove.Spec{})
	r.world.find(s.ID()).agent.deaf = true
	ctx, cancel := context.WithCancel(t.Context())
	conn, err := s.DialPort(ctx, 80)
	if err != nil {
		t.Fatalf("DialPort: %v", err)
	}
	defer conn.Close()
	cancel() // which was for dialling
	if _, err := conn.Write([]byte("x")); err != nil {
		t.Errorf("write after the context of the dial has ended: %v", err)
	}
	if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
		t.Errorf("read after the context of the dial has ended: %v", err)
	}
	if err := s.Destroy(t.Context()); err != nil {
		t.Fatalf("Destroy: %v", err)
	}
	if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err == nil {
		if _, err := conn.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) || err == nil {
			t.Errorf("read after the end of the sandbox = %v, want a closed connection", err)
		}
	}
}

func TestParseSignal(t *testing.T) {
	tests := []struct {
		name string
		want syscall.Signal
	}{
		{"SIGTERM", syscall.SIGTERM}, {"TERM", syscall.SIGTERM}, {"15", syscall.SIGTERM}, {"sigint", syscall.SIGINT},
		{" usr1 ", syscall.SIGUSR1}, {"64", 64}, {"", 0}, {"0", 0}, {"65", 0}, {"-9", 0}, {"SIGSIGTERM", 0}, {"SIG", 0},
	}
	for _, test := range tests {
		got, err := parseSignal(test.name)
		if got != test.want || (err == nil) != (test.want != 0) {
			t.Errorf("parseSignal(%q) = %d, %v, want %d", test.name, got, err, test.want)
		}
	}
}

func TestFilesAndPorts(t *testing.T) {
	r := newRig(t, Options{})
	s := r.create(cove.Spec{Workdir: "/work"})
	files := s.Files()
	if _, err := files.Write(t.Context(), "a.txt", "", strings.NewReader("hello"), nil); err != nil {
		t.Fatalf("Write: %v", err)
	}
	response, err := files.Read(t.Context(), "/work/a.txt", "", nil)
	if err != nil {
		t.Fatalf("Read: %v", err)
	}
	if n := s.inUse(); n != 1 {
		t.Errorf("%d uses while a file is read, want 1", n)
	}
	content, err := io.ReadAll(response.Body)
	if err != nil || string(content) != "hello" {
		t.Errorf("content = %q, %v, want what was written: a relative path is below the workdir", content, err)
	}
	if err := response.Body.Close(); err != nil || s.inUse() != 0 {
		t.Errorf("Close = %v, %d uses left, want none", err, s.inUse())
	}
	_, err = files.Read(t.Context(), "missing", "", nil)
	if !errors.Is(err, cove.NotFound) || !strings.Contains(err.Error(), "read file /work/missing") {
		t.Errorf("Read of nothing = %v, want not found", err)
	}
	for _, path := range []string{"", "a\x00b", strings.Repeat("x", 5000)} {
		_, err := files.Stat(t.Context(), path, "")
		wantError(t, err, cove.Invalid, "path")
		wantError(t, files.Remove(t.Context(), path, ""), cove.Invalid, "path")
		_, err = files.Move(t.Context(), "/a", path, "")
		wantError(t, err, cove.Invalid, "destination")
	}
	_, err = files.Stat(t.Context(), "/a", "no user")
	wantError(t, err, cove.Invalid, "user")
	_, err = files.List(t.Context(), "/a", -1, "")
	wantError(t, err, cove.Invalid, "depth")

	conn, err := s.DialPort(t.Context(), 80)
	if err != nil {
		t.Fatalf("DialPort: %v", err)
	}
	if n := s.inUse(); n != 1 {
		t.Errorf("%d uses while a port is connected, want 1", n)
	}
	if _, err := conn.Write([]byte("ping")); err != nil {
		t.Errorf("write to the port: %v", err)
	}
	if _, err := io.ReadFull(conn, content[:4]); err != nil || string(content[:4]) != "ping" {
		t.Errorf("the port answered %q, %v, want ping", content[:4], err)
	}
	if err := conn.Close(); err != nil || s.inUse() != 0 {
		t.Errorf("Close = %v, %d uses left, want none", err, s.inUse())
	}
	_, err = s.DialPort(t.Context(), 81)
	if !errors.Is(err, cove.Unavailable) {
		t.Errorf("DialPort where nothing listens = %v, want unavailable", err)
	}
	_, err = s.DialPort(t.Context(), 70000)
	wantError(t, err, cove.Invalid, "port")
	if n := s.inUse(); n != 0 {
		t.Errorf("%d uses left, want none", n)
	}
}
