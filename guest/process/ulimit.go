package process

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/covehq/cove"
)

// Resource limits are for commands and not for the agent, which shares none of them, and so is
// what a spec takes of root's capabilities. A process can be bounded so only by itself before it
// executes, or too late: where there is something to do, this program is executed first, does
// it, and becomes the command.

// limiter is argv[0] of this program in that role.
const limiter = "cove-limit"

// Limit is that role, where this process has it: then it does not return. A program's main
// calls it before anything else.
func Limit() {
	if len(os.Args) < 4 || os.Args[0] != limiter {
		return
	}
	err := limit(os.Args[1], os.Args[2], os.Args[3:])
	fmt.Fprintf(os.Stderr, "%s: %v\n", os.Args[2], err)
	if errors.Is(err, os.ErrNotExist) {
		os.Exit(127)
	}
	os.Exit(126)
}

// bounds are what this program is told in that role.
type bounds struct {
	Limits []cove.Ulimit `json:"limits,omitempty"`
	Drop   []uintptr     `json:"drop,omitempty"` // capabilities, by number
}

// limit returns only on error.
func limit(encoded, path string, argv []string) error {
	var b bounds
	if err := json.Unmarshal([]byte(encoded), &b); err != nil {
		return err
	}
	// Root has at an execution what its bounding set has, which is a thread's own,
	// capabilities(7).
	runtime.LockOSThread()
	for _, n := range b.Drop {
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, n, 0, 0, 0); err != nil {
			return fmt.Errorf("drop capability %d: %w", n, err)
		}
	}
	// The Go runtime has raised the soft limit on files for itself and would put it back at
	// the execution. A limit that is set through package syscall stays.
	for _, l := range b.Limits {
		resource, ok := ulimits[l.Name]
		if !ok {
			return fmt.Errorf("there is no resource limit %s", l.Name)
		}
		if err := syscall.Setrlimit(resource, &syscall.Rlimit{Cur: amount(l.Soft), Max: amount(l.Hard)}); err != nil {
			return fmt.Errorf("resource limit %s: %w", l.Name, err)
		}
	}
	return syscall.Exec(path, argv, os.Environ())
}

func amount(n int64) uint64 {
	if n < 0 {
		return math.MaxUint64 // RLIM_INFINITY
	}
	return uint64(n)
}

// ulimits are the resource limits of getrlimit(2) that a spec may set, by their names there.
var ulimits = map[string]int{
	"as": unix.RLIMIT_AS, "core": unix.RLIMIT_CORE, "cpu": unix.RLIMIT_CPU, "data": unix.RLIMIT_DATA, "fsize": unix.RLIMIT_FSIZE,
	"locks": unix.RLIMIT_LOCKS, "memlock": unix.RLIMIT_MEMLOCK, "msgqueue": unix.RLIMIT_MSGQUEUE, "nice": unix.RLIMIT_NICE, "nofile": unix.RLIMIT_NOFILE,
	"nproc": unix.RLIMIT_NPROC, "rss": unix.RLIMIT_RSS, "rtprio": unix.RLIMIT_RTPRIO, "rttime": unix.RLIMIT_RTTIME, "sigpending": unix.RLIMIT_SIGPENDING,
	"stack": unix.RLIMIT_STACK,
}

// limited makes path and argv those of the role, where commands of uid have bounds.
func (t *Table) limited(uid int, path string, argv []string) (string, []string) {
	var b bounds
	if limits := t.limits.Load(); limits != nil {
		b.Limits = *limits
	}
	if drop := t.dropped.Load(); drop != nil && uid == 0 { // others have none to lose
		b.Drop = *drop
	}
	if len(b.Limits)+len(b.Drop) == 0 {
		return path, argv
	}
	encoded, _ := json.Marshal(b) // strings and numbers can't fail
	return "/proc/self/exe", append([]string{limiter, string(encoded), path}, argv...)
}

// SetLimits changes the resource limits of commands that start from now on. The error is
// cove.Invalid for a limit that does not exist.
func (t *Table) SetLimits(limits []cove.Ulimit) error {
	for _, l := range limits {
		if _, ok := ulimits[l.Name]; !ok {
			return cove.Errorf(cove.Invalid, "init", l.Name, "there is no such resource limit", "use a name of getrlimit(2) in lower case, as in nofile")
		}
	}
	t.limits.Store(&limits)
	return nil
}
