package fake_test

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/runtime/fake"
	"github.com/covehq/cove/sandbox/conformance"
	"github.com/covehq/cove/sandbox/driver"
	"github.com/covehq/cove/sandbox/drivertest"
)

func TestMain(m *testing.M) {
	fake.Main()
	drivertest.CrashWhenAsked(opened())
	if os.Getenv(bugVariable) != "" {
		os.Exit(runWithBug())
	}
	os.Exit(m.Run())
}

// opened returns the driver that a process which these tests start is to use.
func opened() *fake.Driver {
	o := fake.Options{Dir: os.Getenv(dirVariable), Agent: os.Getenv(agentVariable)}
	return fake.New(o).WithBug(fake.Bug(os.Getenv(bugVariable)))
}

// The environment of the processes that these tests start: the bug to run the suite with,
// the path of the agent, and the driver's directory.
const (
	bugVariable   = "COVE_FAKE_BUG"
	agentVariable = "COVE_FAKE_AGENT"
	dirVariable   = "COVE_FAKE_DIR"
)

// buildAgent returns the path of an agent that is built for the test.
func buildAgent(t *testing.T) string {
	t.Helper()
	path, err := drivertest.Agent(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// options are those of every run of the suite. The census counts what a driver keeps that
// no id names, too.
func options(dir string) conformance.Options {
	return conformance.Options{
		Spec:      cove.Spec{Runtime: "fake", Env: map[string]string{"COVE_SPEC": "from the spec"}},
		StateDirs: []string{dir},
		Groups:    []string{},
		Census: func() map[string]int {
			entries, _ := os.ReadDir(dir)
			return map[string]int{"files of the driver": len(entries)}
		},
	}
}

func TestConformance(t *testing.T) {
	dir, agent := t.TempDir(), buildAgent(t)
	d := fake.New(fake.Options{Dir: dir, Agent: agent})
	o := options(dir)
	o.Crash = drivertest.Crasher(dirVariable+"="+dir, agentVariable+"="+agent)
	drivertest.Run(t, func() driver.Driver { return d }, o)
}

// caught lists, for every bug, the checks that must notice it. No other may.
var caught = map[fake.Bug][]string{
	fake.ProbeChanges:          {"create/probe-changes-nothing"},
	fake.WrongIsolation:        {"create/isolation-is-a-fact"},
	fake.ControlMissing:        {"create/probe-describes-everything"},
	fake.FloorTooLow:           {"create/floor-boots"},
	fake.SpecModified:          {"create/spec-untouched"},
	fake.LongIDFails:           {"create/any-id"},
	fake.LeaksOnCancel:         {"create/cancelled-leaves-nothing"},
	fake.LeaksOnFailure:        {"create/failed-leaves-nothing"},
	fake.DiesWithCreateContext: {"create/outlives-context"},
	fake.HandleChanges:         {"create/handle-steady"},
	fake.HandleTooLarge:        {"create/handle-small"},
	fake.DialLimited:           {"create/dial-many"},
	fake.AttachFindsDead:       {"attach/dead-is-not-found", "attach/destroyed-is-not-found"},
	fake.AttachTakesAnything:   {"attach/foreign-handle-fails"},
	fake.AttachedNeverEnds:     {"attach/wait-sees-the-end"},
	fake.AttachedDestroyLeaves: {"attach/destroy-removes-everything"},
	fake.DialCutsStreams:       {"exec/large-output"},
	fake.DialAfterDestroyWorks: {"destroy/dial-is-gone"},
	fake.WaitNeverReturns:      {"attach/wait-sees-the-end", "destroy/wait-many", "destroy/wait-says-exited", "destroy/wait-says-killed", "destroy/wait-sees-destroy"},
	fake.WaitSaysExited:        {"destroy/wait-says-killed"},
	fake.WaitSaysKilled:        {"destroy/wait-says-exited"},
	fake.WaitIgnoresContext:    {"destroy/wait-heeds-context"},
	fake.WaitOnce:              {"destroy/wait-many", "destroy/wait-sees-destroy"},
	fake.DestroyTwiceFails:     {"destroy/concurrent", "destroy/twice"},
	fake.DestroyRaces:          {"destroy/concurrent"},
	fake.DestroyDeadFails:      {"destroy/dead"},
	fake.DestroyLeavesProcess: {"attach/destroyed-is-not-found", "destroy/ends-what-runs", "destroy/removes-everything",
		"destroy/wait-sees-destroy", "hammer/commands-and-destroy"},
	fake.DestroyLeavesFiles: {"attach/destroy-removes-everything", "destroy/dead", "destroy/id-is-free", "destroy/leaks-nothing",
		"destroy/list-running", "destroy/removes-everything"},
	fake.ListMissesHalfMade:   {"destroy/list-half-made"},
	fake.ListMissesDead:       {"destroy/list-dead"},
	fake.RemoveFailsOnNothing: {"destroy/remove-nothing"},
	fake.RemoveLeavesRunning:  {"create/cancelled-leaves-nothing", "destroy/list-half-made", "destroy/remove-running"},
	fake.LeaksDescriptors:     {"destroy/leaks-nothing"},
	fake.LeaksGoroutines:      {"destroy/leaks-nothing"},
	fake.LeaksElsewhere:       {"destroy/leaks-nothing"},

	fake.ClaimsMemory:     {"limits/memory"},
	fake.ClaimsPids:       {"limits/pids"},
	fake.ClaimsSeccomp:    {"isolation/seccomp"},
	fake.NoQuota:          {"limits/disk", "limits/nothing-is-boundless"},
	fake.ReadOnlyIgnored:  {"isolation/read-only-root"},
	fake.NetworkLeaks:     {"isolation/host-ports", "isolation/host-sockets", "isolation/only-loopback"},
	fake.HostNameLeaks:    {"isolation/host-name"},
	fake.IPCLeaks:         {"isolation/host-ipc"},
	fake.FilesLeak:        {"isolation/host-files"},
	fake.EnvLeaks:         {"isolation/host-environment"},
	fake.SharedTmp:        {"destroy/id-is-free", "hammer/creates", "isolation/neighbour-files", "limits/nothing-is-boundless"},
	fake.SharedMemory:     {"isolation/neighbour-files", "limits/nothing-is-boundless"},
	fake.OpenVar:          {"isolation/system-files"},
	fake.WrongUser:        {"exec/user"},
	fake.NoTerminals:      {"exec/resize", "exec/terminal", "exec/terminal-input"},
	fake.HostDevices:      {"isolation/host-devices"},
	fake.CapabilitiesKept: {"isolation/no-capabilities"},
	fake.KernelWritable:   {"isolation/host-kernel"},

	fake.EnvIgnored:     {"exec/environment"},
	fake.CwdIgnored:     {"exec/working-directory", "isolation/descriptor-directories"},
	fake.TagIgnored:     {"exec/list"},
	fake.EmptyArguments: {"exec/arguments"},
	fake.InputStaysOpen: {"exec/no-input"},
	fake.TimeoutIgnored: {"timeout/keeps-output", "timeout/kills-child", "timeout/kills-daemon", "timeout/kills-double-fork",
		"timeout/kills-nohup", "timeout/kills-setsid", "timeout/kills-wait"},
	fake.DisconnectIgnored: {"cancel/context-kills", "cancel/disconnect-kills"},
	fake.DisconnectKills:   {"attach/keeps-processes", "cancel/disconnect-keeps", "exec/background"},
	fake.UserIgnored:       {"destroy/wait-says-exited", "exec/user-by-name", "files/permission"},
	fake.KillTreeIgnored:   {"cancel/kill-tree"},
	fake.SignalIgnored:     {"exec/signal"},
	fake.StdinNeverEnds:    {"exec/standard-input"},
	fake.ResizeIgnored:     {"exec/resize"},
	fake.OffsetIgnored:     {"exec/follow-from-offset"},
	fake.RangeIgnored:      {"files/range"},
	fake.ModeIgnored:       {"files/mode"},
	fake.DepthIgnored:      {"files/list"},
	fake.MoveIgnored:       {"files/missing", "files/move"},
	fake.RemoveIgnored:     {"files/permission", "files/remove"},
	fake.ShallowWatch:      {"files/watch-recursive"},
}

// buildSuite returns the path of this test without the race detector, which makes a suite
// that is run so many times five times as slow.
func buildSuite(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fake.test")
	cmd := exec.CommandContext(t.Context(), "go", "test", "-c", "-o", path, ".")
	cmd.WaitDelay = time.Second
	if output, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the suite: %v\n%s", err, output)
	}
	return path
}

// TestEachBugIsCaughtByItsChecks runs the whole suite once for each bug, in a process of
// its own, as some checks count what a process holds.
func TestEachBugIsCaughtByItsChecks(t *testing.T) {
	if testing.Short() {
		t.Skip("runs the suite once for each of many bugs")
	}
	agent, suite := buildAgent(t), buildSuite(t)
	if _, err := fake.New(fake.Options{Dir: t.TempDir(), Agent: agent}).Probe(t.Context()); err != nil {
		t.Skip(err)
	}
	for bug, want := range caught {
		t.Run(string(bug), func(t *testing.T) {
			t.Parallel()
			failed := failedWithBug(t, suite, agent, bug)
			got := slices.Sorted(maps.Keys(failed))
			if slices.Equal(got, want) {
				return
			}
			t.Errorf("failed checks: got %q, want %q", got, want)
			for name, reason := range failed {
				t.Logf("%s: %s", name, reason)
			}
		})
	}
}

// failedWithBug returns the checks that failed, and why.
func failedWithBug(t *testing.T, suite, agent string, bug fake.Bug) map[string]string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), suite)
	cmd.Env = append(os.Environ(), bugVariable+"="+string(bug), agentVariable+"="+agent, dirVariable+"="+t.TempDir())
	cmd.WaitDelay, cmd.Stderr = time.Second, os.Stderr
	output, err := cmd.Output()
	if err != nil {
		t.Fatalf("run the suite: %v\n%s", err, output)
	}
	var failed map[string]string
	if err := json.Unmarshal(output, &failed); err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	return failed
}

// runWithBug runs the suite against a driver with one bug, prints what failed, and clears
// what such a driver leaves behind.
func runWithBug() int {
	d := &recorder{Driver: opened()}
	o := options(os.Getenv(dirVariable))
	o.Reopen = func() (driver.Driver, error) { return d, nil }
	crash := drivertest.Crasher()
	o.Crash = func(ctx context.Context, id string, spec *cove.Spec, after time.Duration) ([]byte, error) {
		d.note(id)
		return crash(ctx, id, spec, after)
	}
	failed := map[string]string{}
	_ = conformance.Run(context.Background(), d, o, 8, func(c conformance.Check, err error) { // Destroy may be the bug
		var skip *conformance.Skip
		if err != nil && !errors.As(err, &skip) {
			failed[c.Group+"/"+c.Name] = err.Error()
		}
	})
	d.clear()
	if err := json.NewEncoder(os.Stdout).Encode(failed); err != nil {
		return 1
	}
	return 0
}

// recorder knows every id that was given to its driver.
type recorder struct {
	*fake.Driver
	mu  sync.Mutex
	ids []string
}

func (r *recorder) note(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ids = append(r.ids, id)
}

func (r *recorder) Create(ctx context.Context, id string, spec *cove.Spec) (driver.Machine, error) {
	r.note(id)
	return r.Driver.Create(ctx, id, spec)
}

// clear kills what is left of anything.
func (r *recorder) clear() {
	r.mu.Lock()
	defer r.mu.Unlock()
	commands, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range commands {
		line, _ := os.ReadFile(path)
		name, _, _ := strings.Cut(string(line), "\x00")
		_, id, _ := strings.Cut(name, "/")
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err == nil && strings.HasPrefix(name, "cove-") && slices.Contains(r.ids, id) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}
