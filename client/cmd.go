package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/covehq/cove"
)

// Cmd is a command to be run in a sandbox. Its fields and methods mean what those of
// os/exec.Cmd mean; differences are noted. A Cmd can't be used again after Start.
type Cmd struct {
	// Args is the command line; Args[0] is looked up in the PATH inside the sandbox.
	Args []string
	// Env is added to the sandbox's environment, as "key=value"; the last one wins.
	// Unlike in os/exec, this machine's environment never gets inside.
	Env []string
	// Dir is the working directory inside; default the sandbox's.
	Dir string
	// User runs the command; default the sandbox's.
	User string

	// Stdin is the command's standard input; nil means empty. Start begins to read it,
	// and Wait does not wait for a Read of it that is under way.
	Stdin io.Reader
	// Stdout and Stderr get the command's output as it comes; nil discards. They are
	// written to by one goroutine, so both may be the same writer. When a Write fails,
	// the command is killed, as a local one is by a broken pipe.
	Stdout io.Writer
	Stderr io.Writer
	// TTY gives the command a terminal of this size. Then everything that it shows goes
	// to Stdout, and the end of Stdin is typed as ^D.
	TTY *cove.TerminalSize

	// Timeout kills the command and everything it started after a while. Zero means the
	// sandbox's timeout, and with TTY no timeout.
	Timeout cove.Duration
	// Cancel is called when the context of CommandContext ends; default: kill the
	// command and everything it started.
	Cancel func() error
	// WaitDelay bounds how long Wait waits for the end of the command after Cancel was
	// called. Zero means ten seconds: unlike in os/exec a network may lie in between.
	WaitDelay time.Duration

	// Process is set by Start.
	Process *Process
	// Exit is how the command ended, set by Wait when the end was seen.
	Exit *cove.Exit

	ctx     context.Context
	sandbox *Sandbox
	run     *run
	readers []*io.PipeReader // of the pipes given out; closed by Wait
	writers []*io.PipeWriter // of StdoutPipe and StderrPipe; closed after the last output
}

// ExitError is the error of a command that ran and did not succeed.
type ExitError struct {
	cove.Exit
	// Stderr is what the command wrote there, head and tail, if Output was used and
	// Cmd.Stderr was nil.
	Stderr []byte
}

// Error returns "exit status 3", "signal: SIGKILL" or "timed out".
func (e *ExitError) Error() string {
	switch {
	case e.TimedOut:
		return "timed out"
	case e.Signal != "":
		return "signal: " + e.Signal
	case e.Exit.Error != "":
		return e.Exit.Error
	}
	return fmt.Sprintf("exit status %d", e.Code)
}

// ExitCode returns the exit code, -1 when a signal ended the command.
func (e *ExitError) ExitCode() int { return e.Code }

// Command returns a Cmd that will run name, with arguments, in the sandbox.
func (s *Sandbox) Command(name string, arg ...string) *Cmd {
	return s.CommandContext(context.Background(), name, arg...)
}

// CommandContext is Command with a context, whose end calls Cancel.
func (s *Sandbox) CommandContext(ctx context.Context, name string, arg ...string) *Cmd {
	return &Cmd{Args: append([]string{name}, arg...), ctx: ctx, sandbox: s}
}

// String returns the command line, for people: it is not quoted.
func (c *Cmd) String() string { return strings.Join(c.Args, " ") }

// Run starts the command and waits for it. The error is nil for exit code 0, and an
// *ExitError for another end.
func (c *Cmd) Run() error {
	if err := c.Start(); err != nil {
		return err
	}
	return c.Wait()
}

// Output runs the command and returns its standard output. If Stderr is nil, an
// *ExitError carries what the command wrote there.
func (c *Cmd) Output() ([]byte, error) {
	if c.Stdout != nil {
		return nil, c.misuse("Stdout is already set")
	}
	var stdout bytes.Buffer
	c.Stdout = &stdout
	var stderr *excerpt
	if c.Stderr == nil {
		stderr = &excerpt{limit: 32 << 10}
		c.Stderr = stderr
	}
	err := c.Run()
	var exit *ExitError
	if stderr != nil && errors.As(err, &exit) {
		exit.Stderr = stderr.Bytes()
	}
	return stdout.Bytes(), err
}

// CombinedOutput runs the command and returns its standard output and error, in the order
// in which they came.
func (c *Cmd) CombinedOutput() ([]byte, error) {
	if c.Stdout != nil || c.Stderr != nil {
		return nil, c.misuse("Stdout or Stderr is already set")
	}
	var output bytes.Buffer
	c.Stdout, c.Stderr = &output, &output
	err := c.Run()
	return output.Bytes(), err
}

// StdinPipe returns a writer to the command's standard input. Closing it ends the input.
func (c *Cmd) StdinPipe() (io.WriteCloser, error) {
	if c.Stdin != nil || c.run != nil {
		return nil, c.misuse("Stdin is already set")
	}
	r, w := io.Pipe()
	c.Stdin = r
	c.readers = append(c.readers, r)
	return w, nil
}

// StdoutPipe returns a reader of the command's standard output. Read it to its end before
// calling Wait, which closes it.
func (c *Cmd) StdoutPipe() (io.ReadCloser, error) {
	if c.Stdout != nil || c.run != nil {
		return nil, c.misuse("Stdout is already set")
	}
	r, w := c.outputPipe()
	c.Stdout = w
	return r, nil
}

// StderrPipe returns a reader of the command's standard error, as StdoutPipe does. Where
// both are used they must be read at the same time.
func (c *Cmd) StderrPipe() (io.ReadCloser, error) {
	if c.Stderr != nil || c.run != nil {
		return nil, c.misuse("Stderr is already set")
	}
	r, w := c.outputPipe()
	c.Stderr = w
	return r, nil
}

func (c *Cmd) outputPipe() (*io.PipeReader, *io.PipeWriter) {
	r, w := io.Pipe()
	c.readers = append(c.readers, r)
	c.writers = append(c.writers, w)
	return r, w
}

// Start starts the command and returns when it runs. After it, Wait must be called.
func (c *Cmd) Start() error {
	if c.run != nil {
		return c.misuse("already started")
	}
	if len(c.Args) == 0 || c.Args[0] == "" {
		return cove.Errorf(cove.Invalid, "exec", c.sandbox.ID, "no command", "set Args")
	}
	env, err := c.env()
	if err != nil {
		return err
	}
	c.run, err = c.start(env)
	return err
}

// Wait waits for the command to end and for its output to be written. It returns nil for
// exit code 0, an *ExitError for another end, the error of a Read of Stdin or a Write of
// Stdout that failed, the context's error where that made Cancel succeed, and
// exec.ErrWaitDelay when WaitDelay passed.
func (c *Cmd) Wait() error {
	if c.run == nil {
		return c.misuse("not started")
	}
	if c.run.waited {
		return c.misuse("Wait was already called")
	}
	c.run.waited = true
	exit, err := c.run.wait()
	for _, pipe := range c.readers {
		pipe.Close()
	}
	c.Exit = exit
	if exit != nil && (exit.Code != 0 || exit.Signal != "" || exit.TimedOut) {
		return &ExitError{Exit: *exit}
	}
	return err
}

func (c *Cmd) misuse(problem string) error {
	return cove.Errorf(cove.Invalid, "exec", c.sandbox.ID, problem, "use a Cmd once, as one of os/exec")
}

func (c *Cmd) env() (map[string]string, error) {
	if len(c.Env) == 0 {
		return nil, nil
	}
	env := make(map[string]string, len(c.Env))
	for _, entry := range c.Env {
		key, value, ok := strings.Cut(entry, "=")
		if !ok || key == "" {
			return nil, cove.Errorf(cove.Invalid, "exec", c.sandbox.ID,
				fmt.Sprintf("environment entry %q is not key=value", entry), "write it as key=value")
		}
		env[key] = value
	}
	return env, nil
}

// excerpt keeps the first and the last limit bytes of what is written to it.
type excerpt struct {
	limit   int
	head    []byte
	tail    []byte
	dropped int64
}

// Write keeps p or a part of it.
func (e *excerpt) Write(p []byte) (int, error) {
	written := len(p)
	if room := e.limit - len(e.head); room > 0 {
		n := min(room, len(p))
		e.head, p = append(e.head, p[:n]...), p[n:]
	}
	e.tail = append(e.tail, p...)
	if over := len(e.tail) - e.limit; over > 0 {
		e.dropped += int64(over)
		e.tail = append(e.tail[:0], e.tail[over:]...)
	}
	return written, nil
}

// Bytes returns what was kept, with a note where bytes are missing.
func (e *excerpt) Bytes() []byte {
	if e.dropped == 0 {
		return append(e.head, e.tail...)
	}
	note := fmt.Sprintf("\n... omitting %d bytes ...\n", e.dropped)
	return append(append(e.head, note...), e.tail...)
}
