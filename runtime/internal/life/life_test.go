package life

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/covehq/cove"
	"github.com/covehq/cove/runtime/internal/agent"
	"github.com/covehq/cove/runtime/internal/process"
	"github.com/covehq/cove/sandbox/driver"
)

func TestAnExitSaysHowItCame(t *testing.T) {
	for name, test := range map[string]struct {
		got  driver.Exit
		want driver.Exit
	}{
		"out of memory": {OutOfMemory(512 * cove.MiB), driver.Exit{Reason: cove.ReasonOOM, Message: "out of memory: it used more than its limit of 512MiB"}},
		"from outside":  {FromOutside(), driver.Exit{Reason: cove.ReasonKilled, Message: "its first process was ended from outside"}},
		"by a signal":   {Signalled(unix.SIGTERM), driver.Exit{Reason: cove.ReasonKilled, Message: "its first process was ended by SIGTERM"}},
		"by itself":     {Exited(137), driver.Exit{Reason: cove.ReasonExited, Message: "its first process ended with code 137"}},

		"a code that is none of a signal's":    {ByCode(128), driver.Exit{Reason: cove.ReasonExited, Message: "its first process ended with code 128"}},
		"a code of a signal":                   {ByCode(137), driver.Exit{Reason: cove.ReasonKilled, Message: "its first process was ended by SIGKILL"}},
		"a code above those of all signals":    {ByCode(255), driver.Exit{Reason: cove.ReasonExited, Message: "its first process ended with code 255"}},
		"a code below zero, of a strange kind": {ByCode(-1), driver.Exit{Reason: cove.ReasonExited, Message: "its first process ended with code -1"}},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, test.got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestAnEndIsWaitedForByManyAndStaysKnown(t *testing.T) {
	end := NewEnd()
	if end.Over() {
		t.Error("it is over before it came")
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := end.Wait(ended); !errors.Is(err, context.Canceled) {
		t.Errorf("before the end: got %v, want ctx's error", err)
	}
	var waiting sync.WaitGroup
	for range 10 {
		waiting.Go(func() {
			if why, err := end.Wait(t.Context()); err != nil || why != Exited(3) {
				t.Errorf("got %v, %v; want the exit", why, err)
			}
		})
	}
	end.Come(Exited(3))
	waiting.Wait()
	if why, err := end.Wait(t.Context()); err != nil || why != Exited(3) || !end.Over() {
		t.Errorf("after the end: got %v, %v; want the exit", why, err)
	}
}

func TestAHandleIsReadByTheReleaseThatWroteIt(t *testing.T) {
	type handle struct {
		Version int    `json:"v"`
		PID     int    `json:"pid"`
		Name    string `json:"name"`
	}
	for name, test := range map[string]struct {
		id, data string
		want     error
	}{
		"its own": {"box", `{"v":2,"pid":7,"name":"n"}`, nil},
		"its own, with a member of a later release": {"box", `{"v":2,"pid":7,"name":"n","later":true}`, nil},
		"one of an earlier release":                 {"box", `{"v":1,"pid":7}`, cove.NotSupported},
		"one of a later release, of another shape":  {"box", `{"v":3,"pid":{"host":7}}`, cove.NotSupported},
		"another driver's":                          {"box", `{"version":2}`, cove.NotSupported},
		"one of this version with other types":      {"box", `{"v":2,"pid":"7"}`, cove.Invalid},
		"no JSON":                                   {"box", `box`, cove.Invalid},
		"nothing":                                   {"box", ``, cove.Invalid},
		"its own, for what is no id":                {"../box", `{"v":2,"pid":7,"name":"n"}`, cove.Invalid},
	} {
		t.Run(name, func(t *testing.T) {
			var got handle
			err := ReadHandle(test.id, []byte(test.data), 2, &got)
			if test.want != nil && !errors.Is(err, test.want) || test.want == nil && err != nil {
				t.Errorf("got %v, want %v", err, test.want)
			}
			if want := (handle{2, 7, "n"}); test.want == nil && got != want {
				t.Errorf("got %v, want %v", got, want)
			}
		})
	}
}

// child starts a process that lasts, and holds it.
func child(t *testing.T) *process.Process {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sleep", "600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	first, err := process.Open(cmd.Process.Pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { first.Close() })
	return first
}

func TestASandboxIsFoundByItsFirstProcessAlone(t *testing.T) {
	first, dead := child(t), child(t)
	dead.Kill()
	if err := dead.Wait(); err != nil {
		t.Fatal(err)
	}
	boot := process.BootID()
	for name, test := range map[string]struct {
		boot    string
		pid     int
		started uint64
		want    error
	}{
		"it runs":                            {boot, first.PID, first.Started, nil},
		"the machine was started again":      {"another", first.PID, first.Started, cove.NotFound},
		"another process has its pid by now": {boot, first.PID, first.Started - 1, cove.NotFound},
		"it is dead":                         {boot, dead.PID, dead.Started, cove.NotFound},
		"there never was one":                {boot, 0, 0, cove.NotFound},
	} {
		t.Run(name, func(t *testing.T) {
			if err := Find(test.boot, test.pid, test.started); !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
		})
	}
}

func TestAKillWaitsForTheEnd(t *testing.T) {
	first, end := child(t), NewEnd()
	var log bytes.Buffer
	var watch sync.WaitGroup
	watch.Go(func() {
		Outlive(first, slog.New(slog.NewTextHandler(&log, nil)), "box")
		end.Come(FromOutside())
	})
	if err := Kill(t.Context(), first, end); err != nil {
		t.Error(err)
	}
	if !end.Over() {
		t.Error("the end has not come, want it waited for")
	}
	watch.Wait()
	if log.Len() > 0 {
		t.Errorf("logged: %s", &log)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Kill(ctx, child(t), NewEnd()); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that ended: got %v, want its error", err)
	}
}

func TestAWatchOfAProcessThatWasLetGoEndsInSilence(t *testing.T) {
	first := child(t)
	var log bytes.Buffer
	var watch sync.WaitGroup
	watch.Go(func() { Outlive(first, slog.New(slog.NewTextHandler(&log, nil)), "box") })
	if err := first.Close(); err != nil {
		t.Error(err)
	}
	watch.Wait()
	if log.Len() > 0 {
		t.Errorf("logged: %s", &log)
	}
}

func TestASandboxThatEndedAtItsStartSaysWhy(t *testing.T) {
	end := NewEnd()
	end.Come(OutOfMemory(cove.MiB))
	err := Ready(t.Context(), func(context.Context) (net.Conn, error) { return nil, errors.New("nobody there") }, end)
	want := "the sandbox ended at its start: out of memory: it used more than its limit of 1MiB"
	if !errors.Is(err, agent.ErrGone) || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestWhatFailedIsUndoneAlsoAfterItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for failed, want := range map[error]string{nil: "", errors.New("a mount is busy"): "a mount is busy"} {
		var log bytes.Buffer
		removed := ""
		Undo(ctx, slog.New(slog.NewTextHandler(&log, nil)), "box", time.Minute, func(ctx context.Context, id string) error {
			if _, bounded := ctx.Deadline(); ctx.Err() != nil || !bounded {
				t.Errorf("removed with a context that has ended or has no end: %v", ctx.Err())
			}
			removed = id
			return failed
		})
		if removed != "box" {
			t.Errorf("removed %q, want the sandbox", removed)
		}
		if got := log.String(); want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("logged %q, want %q in it", got, want)
		}
	}
}

// TestOnceHammer has many callers of something that fails twice.
func TestOnceHammer(t *testing.T) {
	var once Once
	var calls, failures int // of fn, which no two run at a time
	var callers sync.WaitGroup
	errs := make(chan error, 50)
	for range cap(errs) {
		callers.Go(func() {
			errs <- once.Do(func() error {
				if calls++; calls < 3 {
					return fmt.Errorf("failure %d", calls)
				}
				return nil
			})
		})
	}
	callers.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			failures++
		}
	}
	if calls != 3 || failures != 2 {
		t.Errorf("got %d calls and %d failures, want 3 and 2", calls, failures)
	}
}

func TestAnAttachThatASandboxDidNotOutliveFindsNone(t *testing.T) {
	failed, silent := errors.New("it hung up"), cove.Errorf(cove.Unavailable, "engine", "", "it does not answer", "start it")
	for name, test := range map[string]struct {
		found []error // answers, the last one again and again
		want  error
	}{
		"it is dead":                        {[]error{cove.NotFound}, cove.NotFound},
		"it dies a moment later":            {[]error{nil, nil, cove.NotFound}, cove.NotFound},
		"it lives":                          {[]error{nil}, failed},
		"nobody knows: that is no such end": {[]error{silent}, failed},
	} {
		t.Run(name, func(t *testing.T) {
			got := Missed(t.Context(), failed, func() error {
				found := test.found[0]
				if len(test.found) > 1 {
					test.found = test.found[1:]
				}
				return found
			})
			if !errors.Is(got, test.want) {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	asked := 0
	if got := Missed(ended, failed, func() error { asked++; return nil }); !errors.Is(got, failed) || asked != 1 {
		t.Errorf("when ctx has ended: got %v after %d questions, want the error after one", got, asked)
	}
}
