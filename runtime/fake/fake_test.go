package fake_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
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

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/covehq/cove"
	"github.com/covehq/cove/runtime/fake"
	"github.com/covehq/cove/sandbox/conformance"
	"github.com/covehq/cove/sandbox/driver"
	"github.com/covehq/cove/sandbox/drivertest"
)

func TestMain(m *testing.M) {
	fake.Main()
	drivertest.CrashWhenAsked(opened())
	if os.Getenv(bugsVariable) != "" {
		os.Exit(runWithBugs())
	}
	os.Exit(m.Run())
}

// opened returns the driver that a process which these tests start is to use.
func opened() *fake.Driver {
	o := fake.Options{Dir: os.Getenv(dirVariable), Agent: os.Getenv(agentVariable)}
	var bugs []fake.Bug
	if text := os.Getenv(bugsVariable); text != "" {
		if err := json.Unmarshal([]byte(text), &bugs); err != nil {
			panic(err)
		}
	}
	return fake.New(o).WithBug(bugs...)
}

// The environment of the processes that these tests start: the bugs to run the suite with,
// the path of the agent, the driver's directory, and whether the process has a network of
// its own.
const (
	bugsVariable    = "COVE_FAKE_BUGS"
	agentVariable   = "COVE_FAKE_AGENT"
	dirVariable     = "COVE_FAKE_DIR"
	networkVariable = "COVE_FAKE_NETWORK"
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
	fake.DialLimited:           {"create/dial-many", "network/many-at-once"},
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
	fake.ClaimsCPU:        {"limits/cpu"},
	fake.ClaimsPids:       {"limits/pids"},
	fake.ClaimsSeccomp:    {"isolation/seccomp"},
	fake.NoQuota:          {"limits/disk", "limits/nothing-is-boundless"},
	fake.ReadOnlyIgnored:  {"isolation/read-only-root"},
	fake.NetworkLeaks:     append([]string{"isolation/host-ports", "isolation/host-sockets", "isolation/only-loopback"}, served...),
	fake.WayMissing:       append([]string{"network/none-refuses-at-once"}, served...),
	fake.WayKept:          {"network/no-capabilities-t71"},
	fake.HostNameLeaks:    {"isolation/host-name"},
	fake.IPCLeaks:         {"isolation/host-ipc"},
	fake.FilesLeak:        {"isolation/host-files"},
	fake.EnvLeaks:         {"isolation/host-environment"},
	fake.SharedTmp:        {"destroy/id-is-free", "hammer/creates", "isolation/neighbour-files", "limits/nothing-is-boundless"},
	fake.SharedMemory:     {"features/shm", "isolation/neighbour-files", "limits/nothing-is-boundless"},
	fake.OpenVar:          {"isolation/system-files"},
	fake.WrongUser:        {"exec/user"},
	fake.NoTerminals:      {"exec/resize", "exec/terminal", "exec/terminal-input"},
	fake.GivenWritable:    {"features/bind-read-only", "features/tmpfs-read-only"},
	fake.HostsIgnored:     {"features/hosts"},
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

// served are the checks that need a way out.
var served = []string{
	"network/by-address", "network/by-name", "network/closed-again", "network/forbidden-name", "network/half-close", "network/listening-ports",
	"network/many-at-once", "network/own-servers", "network/refusal-resets", "network/trust", "network/unknown-name",
}

// either lists checks that notice a bug where the machine's own network leads somewhere.
var either = map[fake.Bug][]string{
	fake.NetworkLeaks: {"network/final-none-has-nothing", "network/no-way-around-t61-t62", "network/none-finds-no-name", "network/none-refuses-at-once"},
}

// byProxy is a check that bugs may fail which put a proxy between the suite and the agent: its
// connections have no halves.
const byProxy = "network/half-close"

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

// alone are bugs that keep others from being seen, and run without them: the first has the
// suite treat the kernel as the sandbox's own, the second lets nothing run as root.
var alone = []fake.Bug{fake.WrongIsolation, fake.UserIgnored}

// apart are pairs of which one hides the other.
var apart = [][2]fake.Bug{
	{fake.DisconnectIgnored, fake.DisconnectKills},
	{fake.DestroyLeavesFiles, fake.ListMissesDead},
	{fake.NetworkLeaks, fake.WayKept},
	{fake.WayMissing, fake.WayKept},
}

// shared is how many bugs a driver has at most, so that a run with too many failures is
// no slower than two without.
const shared = 10

// runs puts bugs together whose checks are not the same, so that each failure is of one bug.
// It does so in the same way every time.
func runs() [][]fake.Bug {
	var runs [][]fake.Bug
	for _, bug := range slices.Sorted(maps.Keys(caught)) {
		i := slices.IndexFunc(runs, func(run []fake.Bug) bool { return len(run) < shared && fits(run, bug) })
		if i < 0 {
			runs = append(runs, nil)
			i = len(runs) - 1
		}
		runs[i] = append(runs[i], bug)
	}
	return runs
}

func fits(run []fake.Bug, bug fake.Bug) bool {
	for _, other := range run {
		if slices.Contains(alone, bug) || slices.Contains(alone, other) ||
			slices.Contains(apart, [2]fake.Bug{bug, other}) || slices.Contains(apart, [2]fake.Bug{other, bug}) {
			return false
		}
		for _, check := range caught[bug] {
			if slices.Contains(caught[other], check) {
				return false
			}
		}
	}
	return true
}

// TestEachBugIsCaughtByItsChecks runs the whole suite against drivers with some bugs that
// don't share a check, and where exactly their checks fail, each has been caught by its own.
// Else it runs the suite for each bug by itself, and shows which it is.
func TestEachBugIsCaughtByItsChecks(t *testing.T) {
	if testing.Short() {
		t.Skip("runs the suite many times")
	}
	agent, suite := buildAgent(t), buildSuite(t)
	if _, err := fake.New(fake.Options{Dir: t.TempDir(), Agent: agent}).Probe(t.Context()); err != nil {
		t.Skip(err)
	}
	for i, run := range runs() {
		t.Run(strconv.Itoa(i), func(t *testing.T) {
			t.Parallel()
			if compare(t.Logf, failedWith(t, suite, agent, run), run...) {
				return
			}
			for _, bug := range run {
				compare(t.Errorf, failedWith(t, suite, agent, []fake.Bug{bug}), bug)
			}
		})
	}
}

// compare reports whether exactly the checks of some bugs failed, and tells what differs.
func compare(tell func(string, ...any), failed map[string]string, run ...fake.Bug) bool {
	want, same := union(run), true
	for _, check := range want {
		if _, ok := failed[check]; !ok {
			tell("%q: %s: got no error, want one", run, check)
			same = false
		}
	}
	for check, reason := range failed {
		open := check == byProxy || slices.ContainsFunc(run, func(bug fake.Bug) bool { return slices.Contains(either[bug], check) })
		if !open && !slices.Contains(want, check) {
			tell("%q: %s: got error %s, want none", run, check, reason)
			same = false
		}
	}
	return same
}

// union returns the checks that some bugs must fail.
func union(run []fake.Bug) []string {
	var checks []string
	for _, bug := range run {
		checks = append(checks, caught[bug]...)
	}
	return checks
}

// failedWith returns the checks that fail with some bugs, and why. The suite runs in a
// process of its own, as some checks count what a process holds.
func failedWith(t *testing.T, suite, agent string, run []fake.Bug) map[string]string {
	t.Helper()
	encoded, err := json.Marshal(run)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), suite)
	cmd.Env = append(os.Environ(), bugsVariable+"="+string(encoded), agentVariable+"="+agent, dirVariable+"="+t.TempDir())
	cmd.WaitDelay, cmd.Stderr = time.Second, os.Stderr
	if os.Geteuid() == 0 {
		cmd.Env = append(cmd.Env, networkVariable+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	}
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

// runWithBugs runs the suite against a driver with bugs, prints what failed, and kills what
// such a driver leaves behind.
func runWithBugs() int {
	if os.Getenv(networkVariable) != "" {
		if err := openNetwork(); err != nil {
			fmt.Fprintln(os.Stderr, "the network of the suite:", err)
			return 1
		}
	}
	d := &recorder{Driver: opened()}
	o := options(os.Getenv(dirVariable))
	o.Reopen = func() (driver.Driver, error) { return d, nil }
	crash := drivertest.Crasher()
	o.Crash = func(ctx context.Context, id string, spec *cove.Spec, after time.Duration) ([]byte, error) {
		d.note(id)
		return crash(ctx, id, spec, after)
	}
	failed := map[string]string{}
	_ = conformance.Run(context.Background(), d, o, 8, func(c conformance.Check, err error) { // Destroy may be a bug
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

// openNetwork gives this process, which has a network of its own, what every machine has: a
// loopback, and an interface. What the host's network is to a driver with bugs is then the
// same on all machines.
func openNetwork() error {
	err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: "eth1"})
	if err != nil {
		return err
	}
	for _, name := range []string{"lo", "eth0", "eth1"} {
		link, err := netlink.LinkByName(name)
		if err == nil {
			err = netlink.LinkSetUp(link)
		}
		if err != nil {
			return err
		}
	}
	link, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	return netlink.AddrAdd(link, &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(192, 0, 2, 1), Mask: net.CIDRMask(24, 32)}})
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
