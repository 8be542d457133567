// Package process provides the processes of a sandbox: it starts them, keeps their
// output, and ends them with everything that they started.
package process

import (
	"errors"
	"fmt"
	"github.com/covehq/cove"
	"github.com/covehq/cove/guest/account"
	"os"
	"sync"
	"syscall"
	"time"
)

var (
	aLongTimeAgo = time.Unix(1, 0)
	noDeadline   time.Time
)

// grace is how long after its end a process's output may still come from others that it
// started, before its end is told.
const grace = 100 * time.Millisecond

// Command is what to start. All of it is complete: no default is filled in.
type Command struct {
	Argv     []string // not empty
	Env      []string // "KEY=value"
	Dir      string   // absolute
	Account  account.Account
	Stdin    bool  // keep standard input open; otherwise it is empty
	Terminal *Size // give it a terminal
	Tag      string
	Timeout  time.Duration // its tree is killed then; 0 is never

	// What was asked for, as List tells it.
	Asked Asked
}

// Asked is a command as it was asked for, before defaults.
type Asked struct {
	Env map[string]string
	Cwd *string
}

// End is how a process ended.
type End struct {
	Status   syscall.WaitStatus
	TimedOut bool
	Duration time.Duration
}

// Process is something that was started. It stays usable after its end, as long as the
// table retains it and for whoever still holds it.
type Process struct {
	PID     int
	Command Command
	Started time.Time

	child  *child
	output *output
	tree   *tree
	input  input
	exited chan struct{} // closed when end is set: the process is no more
	done   chan struct{} // closed when its output is here too, and end is told

	mu       sync.Mutex
	end      End
	timedOut bool
}

// Exited returns a channel that is closed when the process has ended. Its output may still
// be on the way.
func (p *Process) Exited() <-chan struct{} { return p.exited }

// Done returns a channel that is closed when the process has ended and its output is here.
func (p *Process) Done() <-chan struct{} { return p.done }

// End returns how the process ended, and whether it has.
func (p *Process) End() (End, bool) {
	select {
	case <-p.exited:
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.end, true
	default:
		return End{}, false
	}
}

// Written returns how many bytes the process has written to each stream.
func (p *Process) Written() (stdout, stderr uint64) { return p.output.written() }

// Follow attaches a reader, which begins at the given offsets; nil is the present end of a
// stream. With follow it reads until the process has ended.
func (p *Process) Follow(stdout, stderr *uint64, follow bool) *Reader {
	return p.output.attach([streams]*uint64{stdout, stderr}, follow)
}

// Signal sends a signal to the process and its group. SIGKILL goes to its whole tree.
func (p *Process) Signal(sig syscall.Signal) error {
	if sig <= 0 || sig > 64 {
		return cove.Errorf(cove.Invalid, "signal", "", fmt.Sprintf("there is no signal %d", int(sig)), "use a number from 1 to 64")
	}
	if _, ended := p.End(); ended {
		return hasEnded("signal", p.PID)
	}
	if sig == syscall.SIGKILL {
		_, err := p.KillTree()
		return err
	}
	err := p.child.signal(sig, true)
	if errors.Is(err, os.ErrProcessDone) {
		return hasEnded("signal", p.PID)
	}
	return err
}

// KillTree kills the process and everything that it started, and returns how many
// processes that were when none of it is left. The process may have ended already.
func (p *Process) KillTree() (int, error) { return p.tree.kill() }

// Resize changes the size of the process's terminal.
func (p *Process) Resize(size Size) error {
	if p.Command.Terminal == nil {
		return cove.Errorf(cove.Invalid, "resize", "", "the process has no terminal", "start it with one")
	}
	if _, ended := p.End(); ended {
		return hasEnded("resize", p.PID)
	}
	return resize(p.input.file, size)
}

// watch waits for the end of the process and of its output, and then calls settled.
func (p *Process) watch(pumps []*pump) {
	var expired <-chan time.Time
	if p.Command.Timeout > 0 {
		timer := time.NewTimer(time.Until(p.Started.Add(p.Command.Timeout)))
		defer timer.Stop()
		expired = timer.C
	}
	var status syscall.WaitStatus
	var killing sync.WaitGroup
	for waiting := true; waiting; {
		select {
		case status = <-p.child.status:
			waiting = false
		case <-expired:
			p.mu.Lock()
			p.timedOut = true
			p.mu.Unlock()
			killing.Go(func() { _, _ = p.tree.kill() })
		}
	}
	p.mu.Lock()
	p.end = End{Status: status, TimedOut: p.timedOut, Duration: time.Since(p.Started)}
	p.mu.Unlock()
	p.tree.ended()
	close(p.exited)
	p.input.close()
	p.collect(pumps)
	killing.Wait()
	p.output.settle()
	close(p.done)
}

// collect waits until the streams are at their end, or, where others hold them open, until
// what is in them now has been read.
func (p *Process) collect(pumps []*pump) {
	patience := time.NewTimer(grace)
	defer patience.Stop()
	for i, pump := range pumps {
		select {
		case <-pump.ended:
		case <-patience.C:
			for _, late := range pumps[i:] {
				late.drain()
			}
			for _, late := range pumps[i:] {
				select {
				case <-late.ended:
				case <-late.drained:
				}
			}
			return
		}
	}
}

// signalText says how a signal ended a process, as package os does.
func signalText(status syscall.WaitStatus) string {
	text := "signal: " + status.Signal().String()
	if status.CoreDump() {
		text += " (core dumped)"
	}
	return text
}

// Text describes the end in the words of E2B's agent: "exit status 1", "signal: killed".
func (e End) Text() string {
	if e.Status.Signaled() {
		return signalText(e.Status)
	}
	return fmt.Sprintf("exit status %d", e.Status.ExitStatus())
}

// Signal returns the signal that ended the process, or 0.
func (e End) Signal() syscall.Signal {
	if e.Status.Signaled() {
		return e.Status.Signal()
	}
	return 0
}

func hasEnded(op string, pid int) error {
	return cove.Errorf(cove.NotFound, op, "", fmt.Sprintf("process %d has ended", pid), "list the processes to see which run")
}
