package sandbox

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/covehq/cove"
	"github.com/covehq/cove/guest/dial"
)

const (
	// maxArguments bounds a command with its environment, as Linux does where the stack
	// has its usual 8 MiB.
	maxArguments = 2 * cove.MiB
	maxTag       = 255
)

// StartOptions is how to start, beside what. The zero value works.
type StartOptions struct {
	// Unique refuses, with cove.Conflict, a tag that a running process has.
	Unique bool
}

// Process is something that was started inside a sandbox. Its methods return an error
// that is cove.NotFound when the sandbox does not know it any more.
type Process struct {
	sandbox *Sandbox
	pid     int
}

// Run starts a command that lives no longer than the Output it returns: when that is
// closed, or ctx ends, it is killed with everything that it started. The time-out is as
// in Exec. All of stdin is written to it; a nil stdin is empty, unless the request keeps
// it open for Process.Write. The caller sees to it that reading stdin ends after Close.
func (s *Sandbox) Run(ctx context.Context, r cove.ProcessRequest, stdin io.Reader) (*Output, error) {
	return s.run(ctx, "run", r, stdin)
}

func (s *Sandbox) run(ctx context.Context, op string, r cove.ProcessRequest, stdin io.Reader) (*Output, error) {
	if r.Timeout == 0 {
		r.Timeout = s.snapshot().Spec.Timeout
	}
	r.Stdin = r.Stdin || stdin != nil
	o, err := s.start(ctx, op, r, true)
	if err != nil {
		return nil, err
	}
	if stdin != nil && !s.host.spawn(func() { o.feed(stdin) }) {
		defer o.Close()
		return nil, cove.Wrap(errClosed, op, s.id)
	}
	return o, nil
}

// Start starts a command in the background and returns when it runs. It outlives ctx; it
// has no time-out unless the request says so.
func (s *Sandbox) Start(ctx context.Context, r cove.ProcessRequest, o StartOptions) (*Process, error) {
	if o.Unique && r.Tag != "" {
		s.starting.Lock()
		defer s.starting.Unlock()
		if err := s.tagIsFree(ctx, r.Tag); err != nil {
			return nil, err
		}
	}
	output, err := s.start(ctx, "start", r, false)
	if err != nil {
		return nil, err
	}
	defer output.Close()
	return s.Process(output.PID()), nil
}

func (s *Sandbox) tagIsFree(ctx context.Context, tag string) error {
	list, err := s.Processes(ctx)
	if err != nil {
		return err
	}
	for _, p := range list {
		if p.Running && p.Tag == tag {
			return &cove.Error{
				Code: cove.Conflict, Op: "start", ID: s.id,
				Err:  fmt.Errorf("process %d has the tag %s", p.PID, quote(tag)),
				Hint: "choose another tag, or end that process",
			}
		}
	}
	return nil
}

// start starts a command, attached to the Output or not.
func (s *Sandbox) start(ctx context.Context, op string, r cove.ProcessRequest, attached bool) (*Output, error) {
	if err := s.checkProcess(op, r); err != nil {
		return nil, err
	}
	u, err := s.use(ctx, op, "")
	if err != nil {
		return nil, err
	}
	o := &Output{use: u, attached: attached}
	timeout := time.Duration(0) // to the guest: never
	if r.Timeout != cove.Never {
		timeout = time.Duration(r.Timeout)
	}
	if attached && timeout > 0 {
		o.backstop = time.AfterFunc(timeout+s.host.overdue, func() { u.cancel(errOverdue) })
	}
	o.stream, err = u.client.Start(u.ctx, dial.Start{
		Argv: r.Command.Args(), Env: r.Env, Cwd: s.resolve(r.Cwd), User: r.User, Tag: r.Tag,
		Stdin: r.Stdin, TTY: r.TTY, Timeout: timeout, KillOnDisconnect: attached,
	})
	if err != nil {
		defer u.close()
		if o.backstop != nil {
			o.backstop.Stop()
		}
		return nil, u.fail(err)
	}
	return o, nil
}

// checkProcess returns everything that is wrong with a request.
func (s *Sandbox) checkProcess(op string, r cove.ProcessRequest) error {
	var p problems
	args := r.Command.Args()
	switch {
	case r.Command.IsZero():
		p.invalid("give a command line, or an array with a program and its arguments", "the command is empty")
	case args[0] == "":
		p.invalid("put the program's name first", "the program's name is empty")
	}
	size := cove.Bytes(0)
	for _, arg := range args {
		size += cove.Bytes(len(arg) + 1)
	}
	if slices.ContainsFunc(args, func(arg string) bool { return strings.ContainsRune(arg, 0) }) {
		p.invalid("pass bytes that are not text as a file or by standard input", "an argument has NUL")
	}
	if size > maxArguments {
		p.add(cove.TooLarge, "pass large data as a file or by standard input", "the arguments have %d bytes, more than %v", size, maxArguments)
	}
	checkEnv(&p, r.Env)
	if r.Cwd != "" {
		checkPath(&p, "cwd", r.Cwd)
	}
	if r.User != "" {
		checkUser(&p, r.User)
		s.host.forbidUser(&p, r.User)
		if class := s.snapshot().Isolation; isRoot(r.User) && !class.RootInside() {
			p.add(cove.NotSupported, "use another user, or a runtime with a kernel of its own, such as gvisor",
				"user %s is root or of its group, which the isolation class %s does not allow", quote(r.User), class)
		}
	}
	if r.TTY != nil && (r.TTY.Cols == 0 || r.TTY.Rows == 0) {
		p.invalid("give a terminal at least one column and one row", "the terminal has no size")
	}
	if r.Timeout != 0 {
		checkDuration(&p, "timeout", r.Timeout)
	}
	if len(r.Tag) > maxTag || !printable(r.Tag) {
		p.invalid("use a short tag", "the tag has more than %d bytes or control characters", maxTag)
	}
	return cove.Wrap(p.err(op), op, s.id)
}

// Processes returns what was started in the sandbox: what runs, and what has ended and is
// retained.
func (s *Sandbox) Processes(ctx context.Context) (list []cove.Process, err error) {
	err = s.call(ctx, "list processes", "", func(ctx context.Context, c *dial.Client) error {
		list, err = c.List(ctx)
		return err
	})
	return list, err
}

// Process returns the process with that id, without looking whether there is one.
func (s *Sandbox) Process(pid int) *Process { return &Process{sandbox: s, pid: pid} }

// PID returns the process's id inside the sandbox.
func (p *Process) PID() int { return p.pid }

func (p *Process) subject() string { return "process " + strconv.Itoa(p.pid) }

// Info returns the process as it is now.
func (p *Process) Info(ctx context.Context) (cove.Process, error) {
	list, err := p.sandbox.Processes(ctx)
	if err != nil {
		return cove.Process{}, err
	}
	for _, info := range list {
		if info.PID == p.pid {
			return info, nil
		}
	}
	return cove.Process{}, cove.Errorf(cove.NotFound, "inspect", p.subject(),
		"there is no such process", "see the list of processes for those there are")
}

// Follow returns what the process wrote from the offsets on. Closing it, or the end of
// ctx, leaves the process alone. With noFollow the Output ends with what is retained.
func (p *Process) Follow(ctx context.Context, from cove.Offsets, noFollow bool) (*Output, error) {
	u, err := p.sandbox.use(ctx, "follow", p.subject())
	if err != nil {
		return nil, err
	}
	stream, err := u.client.Follow(u.ctx, p.pid, from, noFollow)
	if err != nil {
		defer u.close()
		return nil, u.fail(err)
	}
	return &Output{use: u, stream: stream}, nil
}

// Write writes r to the process's standard input or terminal, and returns when all of it
// has been taken. It leaves the input open.
func (p *Process) Write(ctx context.Context, r io.Reader) error {
	return p.call(ctx, "write input", func(ctx context.Context, c *dial.Client) error { return c.Write(ctx, p.pid, r) })
}

// CloseStdin ends the process's standard input.
func (p *Process) CloseStdin(ctx context.Context) error {
	return p.call(ctx, "close stdin", func(ctx context.Context, c *dial.Client) error { return c.CloseStdin(ctx, p.pid) })
}

// Signal sends a signal to the process and its group. The name may be "SIGTERM", "TERM"
// or "15".
func (p *Process) Signal(ctx context.Context, name string) error {
	signal, err := parseSignal(name)
	if err != nil {
		return cove.Wrap(err, "signal", p.subject())
	}
	return p.call(ctx, "signal", func(ctx context.Context, c *dial.Client) error { return c.Signal(ctx, p.pid, signal) })
}

// Kill kills the process and everything that it started, and returns when none of it is
// left.
func (p *Process) Kill(ctx context.Context) error {
	return p.call(ctx, "kill", func(ctx context.Context, c *dial.Client) error {
		_, err := c.KillTree(ctx, p.pid)
		return err
	})
}

// Resize changes the size of the process's terminal.
func (p *Process) Resize(ctx context.Context, size cove.TerminalSize) error {
	if size.Cols == 0 || size.Rows == 0 {
		return cove.Errorf(cove.Invalid, "resize", p.subject(), "the terminal has no size", "give it at least one column and one row")
	}
	return p.call(ctx, "resize", func(ctx context.Context, c *dial.Client) error { return c.Resize(ctx, p.pid, size) })
}

func (p *Process) call(ctx context.Context, op string, exchange func(context.Context, *dial.Client) error) error {
	return p.sandbox.call(ctx, op, p.subject(), exchange)
}

// parseSignal reads the name or number of a signal.
func parseSignal(name string) (syscall.Signal, error) {
	upper := strings.ToUpper(strings.TrimSpace(name))
	if n, err := strconv.Atoi(upper); err == nil && n >= 1 && n <= 64 {
		return syscall.Signal(n), nil
	}
	if signal := unix.SignalNum("SIG" + strings.TrimPrefix(upper, "SIG")); signal != 0 {
		return signal, nil
	}
	return 0, &cove.Error{
		Code: cove.Invalid, Err: fmt.Errorf("signal %s is unknown", quote(name)),
		Hint: "use a name or number of a Linux signal, such as TERM, INT or 9",
	}
}
