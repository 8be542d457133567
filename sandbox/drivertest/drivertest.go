// Package drivertest runs the conformance checks under go test. A driver's own test is a
// function that opens it and calls Run.
package drivertest

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/sandbox/conformance"
	"github.com/covehq/cove/sandbox/driver"
)

// requireVariable names runtimes, separated by commas, of which no check may be skipped.
const requireVariable = "COVE_REQUIRE"

// crashVariable tells a program that was started to be killed what it is to create.
const crashVariable = "COVE_DRIVERTEST_CRASH"

// crash is what is asked of such a program.
type crash struct {
	ID   string
	Spec cove.Spec
}

// Run runs every check as a subtest group/name of t, those of a group in parallel where
// they may. The drivers that open returns share their state; o.Spec.Runtime names the
// runtime. Without o.Reopen it is open; o.Shared is provided where it is nil, and closed.
//
// A runtime that this host can't run skips t, with the reason. One that COVE_REQUIRE names
// fails instead, and so does each of its checks that would be skipped.
func Run(t *testing.T, open func() driver.Driver, o conformance.Options) {
	t.Helper()
	d, runtime := open(), o.Spec.WithDefaults().Runtime
	required := slices.Contains(strings.Split(os.Getenv(requireVariable), ","), runtime)
	if _, err := d.Probe(t.Context()); err != nil {
		if required {
			t.Fatalf("%s requires %s: %v (%s)", requireVariable, runtime, err, cove.HintOf(err))
		}
		t.Skipf("%v (%s)", err, cove.HintOf(err))
	}
	if o.Reopen == nil {
		o.Reopen = func() (driver.Driver, error) { return open(), nil }
	}
	if o.Shared == nil {
		o.Shared = new(conformance.Shared)
	}
	checks := conformance.Checks()
	for _, group := range conformance.Groups {
		t.Run(group, func(t *testing.T) {
			for _, c := range checks {
				if c.Group == group {
					t.Run(c.Name, func(t *testing.T) { run(t, c, d, o, required) })
				}
			}
		})
	}
	if err := o.Shared.Close(context.Background()); err != nil {
		t.Errorf("close the shared sandbox: %v", err)
	}
}

// run runs one check. One that needs to be alone is not parallel: Go's parallel tests wait
// for the serial ones around them, and those of earlier groups are over.
func run(t *testing.T, c conformance.Check, d driver.Driver, o conformance.Options, required bool) {
	if !c.Needs.Alone {
		t.Parallel()
	}
	err := c.Run(t.Context(), d, o)
	var skip *conformance.Skip
	switch {
	case errors.As(err, &skip) && (!required || skip.Optional):
		t.Skip(skip.Reason)
	case err != nil:
		t.Errorf("%s\n%v", c.Clause, err)
	}
}

// CrashWhenAsked does nothing, except in a process that Crasher started: there it creates
// a sandbox and waits to be killed. It tells its parent when it begins, and the handle
// when it has it.
func CrashWhenAsked(d driver.Driver) {
	text := os.Getenv(crashVariable)
	if text == "" {
		return
	}
	var asked crash
	if err := json.Unmarshal([]byte(text), &asked); err != nil {
		fmt.Printf("\nFAILED %v\n", err)
		os.Exit(1)
	}
	fmt.Println("\nCREATING")
	machine, err := d.Create(context.Background(), asked.ID, &asked.Spec)
	if err != nil {
		fmt.Printf("\nFAILED %v\n", err)
		os.Exit(1)
	}
	fmt.Println("\nCREATED", base64.StdEncoding.EncodeToString(machine.Handle()), "WHOLE")
	_, _ = io.Copy(io.Discard, os.Stdin) // until the parent is gone, should it not kill
	_ = machine.Destroy(context.Background())
	os.Exit(0)
}

// Crasher returns an Options.Crash that runs this program again, with additions to its
// environment ("KEY=value"). There, TestMain hands a driver on the same state to
// CrashWhenAsked.
func Crasher(environment ...string) func(context.Context, string, *cove.Spec, time.Duration) ([]byte, error) {
	return func(ctx context.Context, id string, spec *cove.Spec, after time.Duration) ([]byte, error) {
		asked, err := json.Marshal(crash{ID: id, Spec: *spec})
		if err != nil {
			return nil, err
		}
		ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
		defer cancel()
		cmd := exec.CommandContext(ctx, "/proc/self/exe")
		cmd.Env = slices.Concat(os.Environ(), environment, []string{crashVariable + "=" + string(asked)})
		cmd.WaitDelay = time.Second
		stdin, err := cmd.StdinPipe()
		if err != nil {
			return nil, err
		}
		defer stdin.Close()
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			return nil, err
		}
		if err := cmd.Start(); err != nil {
			return nil, err
		}
		kill := func() {
			_ = cmd.Process.Kill()
			_ = stdout.Close() // what it started may hold the other end
		}
		handle, err := followCrash(stdout, after, kill)
		kill()
		_ = cmd.Wait() // killed, as it should be
		return handle, err
	}
}

// followCrash reads what a process says that is to be killed, and kills it at its time. It
// returns the handle where the process came to say it.
func followCrash(stdout io.Reader, after time.Duration, kill func()) ([]byte, error) {
	var said strings.Builder
	lines := bufio.NewScanner(stdout)
	lines.Buffer(nil, 1<<20) // a handle that is too large is still to be seen
	for lines.Scan() {
		word, rest, _ := strings.Cut(lines.Text(), " ")
		switch {
		case word == "CREATING" && after >= 0:
			timer := time.AfterFunc(after, kill)
			defer timer.Stop()
		case word == "CREATED":
			encoded, whole := strings.CutSuffix(rest, " WHOLE")
			if !whole && after >= 0 {
				return nil, nil // killed while it said so
			}
			return base64.StdEncoding.DecodeString(encoded)
		case word == "FAILED":
			return nil, errors.New(rest)
		default:
			said.WriteString(lines.Text() + "\n")
		}
	}
	if after < 0 {
		return nil, fmt.Errorf("the process to be killed ended by itself: %s", said.String())
	}
	return nil, nil
}

// Agent builds cmd/cove-agent into dir and returns its path. It is for a TestMain, or for
// a test whose driver boots a real agent.
func Agent(ctx context.Context, dir string) (string, error) {
	return filepath.Join(dir, "cove-agent"), build(ctx, dir, "cove-agent")
}
