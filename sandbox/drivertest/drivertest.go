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

// The environment of a program that was started to be killed while it creates a
// sandbox: what it is to create, and the state directory that it shares with its parent.
const (
	crashVariable = "COVE_DRIVERTEST_CRASH"
	dirVariable   = "COVE_DRIVERTEST_DIR"
)

// crash is what is asked of a process that is to be killed.
type crash struct {
	ID   string
	Spec cove.Spec
}

// Dir returns a directory for the state of the driver under test: fresh, and removed with
// the test, or that of the test which this process was started to crash for.
func Dir(t *testing.T) string {
	t.Helper()
	if dir := os.Getenv(dirVariable); dir != "" {
		return dir
	}
	return t.TempDir()
}

// Run runs every check as a subtest group/name of t, in parallel where it may. The runtime
// is named by o.Spec.Runtime. The drivers that open returns share their state, which is
// below dir, as from Dir. Run fills in what o leaves out of Reopen, Crash, StateDirs and
// Shared.
//
// A runtime that this host can't run skips t, with the reason. One that COVE_REQUIRE names
// fails instead, and so does each of its checks that would be skipped.
func Run(t *testing.T, dir string, open func() driver.Driver, o conformance.Options) {
	t.Helper()
	d := open()
	CrashWhenAsked(d)
	required := slices.Contains(strings.Split(os.Getenv(requireVariable), ","), o.Spec.WithDefaults().Runtime)
	if _, err := d.Probe(t.Context()); err != nil {
		if required {
			t.Fatalf("%s requires %s: %v (%s)", requireVariable, o.Spec.Runtime, err, cove.HintOf(err))
		}
		t.Skipf("%v (%s)", err, cove.HintOf(err))
	}
	if o.Reopen == nil {
		o.Reopen = func() (driver.Driver, error) { return open(), nil }
	}
	if o.Crash == nil {
		o.Crash = Crasher(dir, "-test.run=^"+strings.ReplaceAll(t.Name(), "/", "$/^")+"$")
	}
	if o.StateDirs == nil {
		o.StateDirs = []string{dir}
	}
	if o.Shared == nil {
		o.Shared = new(conformance.Shared)
		t.Cleanup(func() {
			if err := o.Shared.Close(context.Background()); err != nil {
				t.Errorf("close the shared sandbox: %v", err)
			}
		})
	}
	run(t, d, o, required)
}

// run runs the checks that need to be alone first: a parallel test of Go's waits for the
// serial ones around it.
func run(t *testing.T, d driver.Driver, o conformance.Options, required bool) {
	checks := conformance.Checks()
	slices.SortStableFunc(checks, func(a, b conformance.Check) int {
		return btoi(b.Needs.Alone) - btoi(a.Needs.Alone)
	})
	for _, c := range checks {
		t.Run(c.Group+"/"+c.Name, func(t *testing.T) {
			if !c.Needs.Alone {
				t.Parallel()
			}
			err := c.Run(t.Context(), d, o)
			var skip *conformance.Skip
			switch {
			case errors.As(err, &skip) && !required:
				t.Skip(skip.Reason)
			case err != nil:
				t.Errorf("%s\n%v", c.Clause, err)
			}
		})
	}
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
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
	fmt.Println("\nCREATED", base64.StdEncoding.EncodeToString(machine.Handle()))
	_, _ = io.Copy(io.Discard, os.Stdin) // until the parent is gone, should it not kill
	_ = machine.Destroy(context.Background())
	os.Exit(0)
}

// Crasher returns an Options.Crash that runs this program again, with the given arguments.
// There, a driver on the state in dir is to be handed to CrashWhenAsked.
func Crasher(dir string, arguments ...string) func(context.Context, string, *cove.Spec, time.Duration) ([]byte, error) {
	return func(ctx context.Context, id string, spec *cove.Spec, after time.Duration) ([]byte, error) {
		asked, err := json.Marshal(crash{ID: id, Spec: *spec})
		if err != nil {
			return nil, err
		}
		ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
		defer cancel()
		cmd := exec.CommandContext(ctx, "/proc/self/exe", arguments...)
		cmd.Env = append(os.Environ(), crashVariable+"="+string(asked), dirVariable+"="+dir)
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

// followCrash reads what a process says that is to be killed, and kills it at its time.
func followCrash(stdout io.Reader, after time.Duration, kill func()) ([]byte, error) {
	var said strings.Builder
	for lines := bufio.NewScanner(stdout); lines.Scan(); {
		word, rest, _ := strings.Cut(lines.Text(), " ")
		switch {
		case word == "CREATING" && after >= 0:
			timer := time.AfterFunc(after, kill)
			defer timer.Stop()
		case word == "CREATED" && after < 0:
			return base64.StdEncoding.DecodeString(rest)
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
	path := filepath.Join(dir, "cove-agent")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", path, "github.com/covehq/cove/cmd/cove-agent")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	cmd.WaitDelay = time.Second
	if output, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the agent: %w\n%s", err, output)
	}
	return path, nil
}
