package e2e

import (
	"errors"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestSandboxes(t *testing.T) {
	eachRuntime(t, func(t *testing.T, runtime string) { sessions(t, "testdata/sandbox", runtime) })
}

func TestMachine(t *testing.T) {
	binaries(t)
	t.Parallel()
	sessions(t, "testdata/machine", "")
}

// sessions holds every session of a directory, each in a world of its own. Beside what
// testscript has, they know:
//
//	[!] cove ARGUMENT…        the program under test; ! where it is to fail
//	status N                  the last cove exited with N
//	capture NAME              the last output becomes $NAME
//	until PATTERN ARGUMENT…   repeats a cove until its output matches
//	daemon stop|kill|gone     ends the daemon by SIGTERM or SIGKILL; waits for its end
//
// They have the variables RUNTIME, STATE and DATA, and those that are given.
func sessions(t *testing.T, dir, runtime string, variables ...string) {
	testscript.Run(t, testscript.Params{
		Dir: dir,
		Setup: func(env *testscript.Env) error {
			tb := env.T().(testing.TB)
			w := newWorld(tb, runtime)
			env.Vars = append(env.Vars, w.env...)
			env.Setenv("RUNTIME", runtime)
			env.Setenv("STATE", w.dirs.State)
			env.Setenv("DATA", w.dirs.Data)
			env.Vars = append(env.Vars, variables...)
			env.Values[sessionKey{}] = &session{tb: tb, world: w}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"cove":    coveCommand,
			"status":  statusCommand,
			"capture": captureCommand,
			"until":   untilCommand,
			"daemon":  daemonCommand,
		},
	})
}

// session is the state of one script beside testscript's.
type session struct {
	tb     testing.TB
	world  *world
	status int // of the last cove
}

type sessionKey struct{}

func sessionOf(ts *testscript.TestScript) *session { return ts.Value(sessionKey{}).(*session) }

func coveCommand(ts *testscript.TestScript, neg bool, args []string) {
	s := sessionOf(ts)
	err := ts.Exec("cove", args...)
	var exit *exec.ExitError
	switch {
	case err == nil:
		s.status = 0
	case errors.As(err, &exit):
		s.status = exit.ExitCode()
	default:
		ts.Fatalf("cove: %v", err)
	}
	if failed := s.status != 0; failed != neg {
		ts.Fatalf("cove exited with %d", s.status)
	}
}

func statusCommand(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 1 || neg {
		ts.Fatalf("usage: status N")
	}
	if got := strconv.Itoa(sessionOf(ts).status); got != args[0] {
		ts.Fatalf("cove exited with %s, want %s", got, args[0])
	}
}

func captureCommand(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 1 || neg {
		ts.Fatalf("usage: capture NAME")
	}
	ts.Setenv(args[0], strings.TrimSpace(ts.ReadFile("stdout")))
}

func untilCommand(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 2 || neg {
		ts.Fatalf("usage: until PATTERN ARGUMENT…")
	}
	pattern, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	deadline := time.Now().Add(30 * time.Second)
	for {
		err := ts.Exec("cove", args[1:]...)
		if err == nil && pattern.MatchString(ts.ReadFile("stdout")) {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("the output does not match %s", args[0])
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func daemonCommand(ts *testscript.TestScript, neg bool, args []string) {
	s := sessionOf(ts)
	switch strings.Join(args, " ") {
	case "stop":
		s.world.stop(s.tb, syscall.SIGTERM)
	case "kill":
		s.world.stop(s.tb, syscall.SIGKILL)
	case "gone":
		eventually(s.tb, 30*time.Second, "the daemon leaves", func() bool { return s.world.daemon() == 0 })
	default:
		ts.Fatalf("usage: daemon stop|kill|gone")
	}
}
