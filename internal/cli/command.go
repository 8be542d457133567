package cli

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"unicode/utf8"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/covehq/cove"
	"github.com/covehq/cove/client"
)

// command is what run and exec do with a sandbox: one command, attached to this
// program's streams.
type command struct {
	argv        []string
	env         map[string]string
	user        string
	dir         string
	timeout     cove.Duration // 0: the sandbox's, and with a terminal none
	interactive bool
	tty         bool
}

func (c *command) streamFlags(flags *pflag.FlagSet) {
	flags.BoolVarP(&c.interactive, "interactive", "i", false, "pass standard input on, also from a terminal")
	flags.BoolVarP(&c.tty, "tty", "t", false, "give the command a terminal, and pass everything typed to it")
}

// attached runs the command and returns its exit as an error: nil for exit code 0. It
// ends with the context: then the command is killed.
func (p *program) attached(ctx context.Context, sandbox *client.Sandbox, c command, relay *relay) error {
	if p.json {
		return p.buffered(ctx, sandbox, c)
	}
	cmd := sandbox.CommandContext(ctx, c.argv[0], c.argv[1:]...)
	cmd.Dir, cmd.User, cmd.Timeout, cmd.Env = c.dir, c.user, c.timeout, environ(c.env)
	if c.interactive || c.tty || !isTerminal(p.Stdin) {
		cmd.Stdin = p.Stdin
	}
	stdout, stderr := &output{to: p.Stdout}, &output{to: p.Stderr}
	cmd.Stdout, cmd.Stderr = stdout, stderr
	if c.tty {
		size := p.terminalSize()
		cmd.TTY = &size
		restore, err := p.rawTerminal()
		if err != nil {
			return err
		}
		defer restore()
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	stop := relay.attach(cmd.Process, p.resizer(c.tty, cmd.Process))
	err := cmd.Wait()
	stop()
	if err := cmp.Or(stdout.err, stderr.err); errors.Is(err, syscall.EPIPE) {
		return &statusError{status: exitSignal + int(syscall.SIGPIPE)}
	} else if err != nil {
		return &cove.Error{Code: cove.Internal, Op: "write output", Err: err, Hint: "the command was killed, since nobody gets what it writes"}
	}
	if errors.Is(err, context.Canceled) && relay.status() != 0 {
		return &statusError{status: relay.status()}
	}
	return exitOf(err, sandbox)
}

// buffered runs the command in one request and prints the API's reply.
func (p *program) buffered(ctx context.Context, sandbox *client.Sandbox, c command) error {
	request := cove.ExecRequest{
		Command: cove.Command{Argv: c.argv}, Cwd: c.dir, Env: c.env, User: c.user, Timeout: c.timeout,
	}
	if c.interactive || !isTerminal(p.Stdin) {
		const most = 16 << 20
		stdin, err := io.ReadAll(io.LimitReader(p.Stdin, most+1))
		if err != nil {
			return err
		}
		if len(stdin) > most {
			return problem("exec", "", "standard input is larger than 16MiB", "leave --json out, and it is streamed")
		}
		request.Stdin = string(stdin)
	}
	result, err := sandbox.Exec(ctx, request)
	if err != nil {
		return err
	}
	if err := p.writeJSON(execResult(result)); err != nil {
		return err
	}
	exit := cove.Exit{Code: result.ExitCode, Signal: result.Signal, TimedOut: result.TimedOut}
	if status := statusOf(exit); status != 0 {
		return &statusError{status: status}
	}
	return nil
}

func execResult(r *client.Result) cove.ExecResult {
	result := cove.ExecResult{
		PID: r.PID, ExitCode: r.ExitCode, Signal: r.Signal, Truncated: r.Truncated, TimedOut: r.TimedOut,
		DurationMS: float64(r.Duration.Microseconds()) / 1000, Encoding: cove.EncodingUTF8,
		Stdout: string(r.Stdout), Stderr: string(r.Stderr),
	}
	if !utf8.Valid(r.Stdout) || !utf8.Valid(r.Stderr) {
		result.Encoding = cove.EncodingBase64
		result.Stdout = base64.StdEncoding.EncodeToString(r.Stdout)
		result.Stderr = base64.StdEncoding.EncodeToString(r.Stderr)
	}
	return result
}

// exitOf turns the end of a command into the end of this program.
func exitOf(err error, sandbox *client.Sandbox) error {
	var exit *client.ExitError
	if !errors.As(err, &exit) {
		return err
	}
	status := statusOf(exit.Exit)
	if exit.TimedOut {
		return &statusError{status: status, err: &cove.Error{
			Code: cove.Timeout, Op: "exec", ID: sandbox.ID, Err: errors.New("the command timed out and was killed"),
			Hint: "give it longer with --timeout, or never",
		}}
	}
	return &statusError{status: status}
}

// statusOf is the status with which a shell would show this exit.
func statusOf(exit cove.Exit) int {
	switch {
	case exit.TimedOut:
		return exitTimeout
	case exit.Signal != "":
		return exitSignal + int(unix.SignalNum(exit.Signal))
	case exit.Code < 0 || exit.Code > 255:
		return exitError
	}
	return exit.Code
}

func environ(env map[string]string) []string {
	var list []string
	for key, value := range env {
		list = append(list, key+"="+value)
	}
	return list
}

// output passes a stream on as it is, and remembers when nobody reads it any more.
type output struct {
	to  io.Writer
	err error
}

// Write implements io.Writer.
func (o *output) Write(data []byte) (int, error) {
	n, err := o.to.Write(data)
	if err != nil {
		o.err = err
	}
	return n, err
}

// ignoreBrokenPipe makes writing to a closed pipe an error instead of the program's
// sudden death, in which it could not clean up behind itself.
func ignoreBrokenPipe() { signal.Ignore(syscall.SIGPIPE) }

// terminalSize is that of the terminal at hand, or of a classic one.
func (p *program) terminalSize() cove.TerminalSize {
	for _, stream := range []any{p.Stdout, p.Stdin, p.Stderr} {
		file, ok := stream.(*os.File)
		if !ok {
			continue
		}
		if cols, rows, err := term.GetSize(int(file.Fd())); err == nil && cols > 0 && rows > 0 {
			return cove.TerminalSize{Cols: uint16(cols), Rows: uint16(rows)}
		}
	}
	return cove.TerminalSize{Cols: 80, Rows: 24}
}

// rawTerminal lets every key through to the command. The function that it returns
// undoes that.
func (p *program) rawTerminal() (restore func(), err error) {
	if !isTerminal(p.Stdin) {
		return func() {}, nil
	}
	fd := int(p.Stdin.(*os.File).Fd())
	state, err := term.MakeRaw(fd)
	if err != nil {
		return nil, fmt.Errorf("set up the terminal: %w", err)
	}
	return func() { _ = term.Restore(fd, state) }, nil
}

// resizer returns what is to be done when the window changes its size.
func (p *program) resizer(tty bool, process *client.Process) func(context.Context) {
	if !tty {
		return func(context.Context) {}
	}
	// A size that could not be told is told with the next change.
	return func(ctx context.Context) { _ = process.Resize(ctx, p.terminalSize()) }
}

// parse takes the command from the end of a command line. Flags end at the first
// argument, so a -- that follows one is still there. Where the command is optional, none
// leaves argv empty.
func (c *command) parse(args []string, json, optional bool) error {
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	switch {
	case len(args) == 0 && !optional:
		return usage("missing command", "write it after --, as in: -- python3 -c 'print(6*7)'")
	case len(args) > 0 && args[0] == "":
		return usage("the command is empty", "write it after --")
	case c.tty && json:
		return usage("-t and --json exclude each other", "leave one of them out")
	}
	c.argv = args
	return nil
}
