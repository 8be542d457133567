package client

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"os/exec"
	"sync"
	"time"

	"github.com/covehq/cove"
)

// defaultWaitDelay is documented at Cmd.WaitDelay.
const defaultWaitDelay = 10 * time.Second

// run is a Cmd between Start and Wait. Three goroutines serve it: copyOutput, which ends
// with the process or the connection; feed, which sends Stdin; and watch, which cancels.
// wait waits for all of them.
type run struct {
	cmd    *Cmd
	output source
	waited bool
	ended  chan struct{} // closed when copyOutput has returned
	group  sync.WaitGroup

	// stopFeed ends feed, also while Stdin blocks.
	stopFeed func()

	mu       sync.Mutex
	exit     *cove.Exit
	broken   error // the output ended without an exit
	copying  error // a Write of Stdout or Stderr, or a Read of Stdin, failed
	canceled error // the context ended, and Cancel succeeded
	expired  bool  // WaitDelay passed
}

// source is where output comes from: the frames of an exec, or a terminal.
type source interface {
	Next() (cove.Output, error)
	Close() error
}

func (c *Cmd) start(env map[string]string) (*run, error) {
	if err := c.ctx.Err(); err != nil {
		return nil, cove.Wrap(err, "exec", c.sandbox.ID)
	}
	// The stream outlives c.ctx: its end kills the command through Cancel, and the exit
	// is still to be seen after that.
	ctx, cancel := context.WithCancel(context.WithoutCancel(c.ctx))
	stop := context.AfterFunc(c.ctx, cancel)
	output, err := c.open(ctx, env)
	if !stop() && err == nil {
		output.Close()
		err = c.ctx.Err()
	}
	if err != nil {
		cancel()
		if c.ctx.Err() != nil {
			err = cove.Wrap(c.ctx.Err(), "exec", c.sandbox.ID)
		}
		return nil, err
	}
	r := &run{cmd: c, output: output, ended: make(chan struct{}), stopFeed: func() {}}
	if c.Stdin != nil {
		r.feed(ctx)
	}
	r.group.Go(r.watch)
	r.group.Go(func() {
		defer cancel()
		r.copyOutput()
	})
	return r, nil
}

// open starts the command and returns its output.
func (c *Cmd) open(ctx context.Context, env map[string]string) (source, error) {
	if c.TTY != nil {
		return c.openTerminal(ctx, env)
	}
	call := c.sandbox.request("exec", http.MethodPost, "/exec")
	call.in = cove.ExecRequest{
		Command: cove.Command{Argv: c.Args}, Cwd: c.Dir, Env: env, User: c.User, Timeout: c.Timeout,
	}
	if c.Stdin != nil {
		call.query = url.Values{"stdin": {"true"}}
	}
	output, err := c.sandbox.client.stream(ctx, call, true)
	if err != nil {
		return nil, err
	}
	c.Process = c.sandbox.Process(output.PID())
	return output, nil
}

func (c *Cmd) openTerminal(ctx context.Context, env map[string]string) (source, error) {
	process, err := c.sandbox.Start(ctx, cove.ProcessRequest{
		Command: cove.Command{Argv: c.Args}, Cwd: c.Dir, Env: env, User: c.User, Timeout: c.Timeout, TTY: c.TTY,
	})
	if err != nil {
		return nil, err
	}
	terminal, err := process.Terminal(ctx, TerminalOptions{From: new(uint64), Kill: true})
	if err != nil {
		kill(ctx, process)
		return nil, err
	}
	c.Process = process
	return &terminalSource{terminal: terminal, buf: make([]byte, 64<<10)}, nil
}

// kill kills a process on behalf of a context that may have ended.
func kill(ctx context.Context, p *Process) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), defaultWaitDelay)
	defer cancel()
	return p.Kill(ctx)
}

// terminalSource reads a terminal as outputs.
type terminalSource struct {
	terminal *Terminal
	buf      []byte
}

// Next returns bytes, then the exit.
func (t *terminalSource) Next() (cove.Output, error) {
	n, err := t.terminal.Read(t.buf)
	if err == io.EOF && t.terminal.Exit() != nil {
		return cove.Output{Exit: t.terminal.Exit()}, nil
	}
	return cove.Output{Stream: cove.PTY, Data: t.buf[:n]}, err
}

// Close disconnects.
func (t *terminalSource) Close() error { return t.terminal.Close() }

// copyOutput hands on what comes until the exit has come.
func (r *run) copyOutput() {
	defer close(r.ended)
	defer r.output.Close()
	defer func() {
		for _, w := range r.cmd.writers {
			w.Close()
		}
	}()
	failed := false
	for {
		output, err := r.output.Next()
		if err != nil {
			r.set(func() { r.broken = err })
			return
		}
		if output.Exit != nil {
			r.set(func() { r.exit = output.Exit })
			return
		}
		to := r.cmd.Stdout
		if output.Stream == cove.Stderr {
			to = r.cmd.Stderr
		}
		if to == nil || failed {
			continue
		}
		if _, err := to.Write(output.Data); err != nil {
			// Nobody listens any more. Go on for the sake of the exit.
			failed = true
			r.set(func() { r.copying = err })
			if err := kill(r.cmd.ctx, r.cmd.Process); err != nil {
				r.output.Close()
			}
		}
	}
}

// feed sends Stdin to the command. A Read of Stdin can't be interrupted, so the goroutine
// that reads is left behind until its Read returns; the one that sends is waited for.
func (r *run) feed(ctx context.Context) {
	c := r.cmd
	if terminal, ok := r.output.(*terminalSource); ok {
		go func() {
			if _, err := io.Copy(terminal.terminal, c.Stdin); err == nil {
				const endOfTransmission = 4
				_, _ = terminal.terminal.Write([]byte{endOfTransmission})
			}
		}()
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	pr, pw := io.Pipe()
	r.stopFeed = func() {
		cancel()
		pr.Close()
	}
	go func() {
		_, err := io.Copy(pw, c.Stdin)
		if err != nil && !errors.Is(err, io.ErrClosedPipe) {
			r.set(func() { r.copying = err })
		}
		// Also after an error: the command's input ends, as a local pipe would.
		pw.Close()
	}()
	r.group.Go(func() {
		if err := c.Process.write(ctx, pr, true); err != nil && ctx.Err() == nil {
			// The command closed its input or is ending; where it is not, it must not
			// wait for more. What really broke is seen on the output.
			_ = c.Process.CloseStdin(ctx)
		}
		pr.Close()
	})
}

// watch calls Cancel when the context ends, and gives up after WaitDelay.
func (r *run) watch() {
	select {
	case <-r.ended:
		return
	case <-r.cmd.ctx.Done():
	}
	stop := r.cmd.Cancel
	if stop == nil {
		stop = func() error { return kill(r.cmd.ctx, r.cmd.Process) }
	}
	if err := stop(); err == nil {
		r.set(func() { r.canceled = r.cmd.ctx.Err() })
	}
	delay := r.cmd.WaitDelay
	if delay == 0 {
		delay = defaultWaitDelay
	}
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-r.ended:
	case <-timer.C:
		r.set(func() { r.expired = true })
		r.output.Close()
		for _, reader := range r.cmd.readers {
			reader.Close()
		}
	}
}

// wait waits for the end and says what it was.
func (r *run) wait() (*cove.Exit, error) {
	<-r.ended
	r.stopFeed()
	r.group.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.exit == nil && r.expired:
		return nil, exec.ErrWaitDelay
	case r.exit == nil && r.canceled != nil:
		return nil, r.canceled
	case r.exit == nil:
		return nil, r.broken
	case r.copying != nil:
		return r.exit, r.copying
	}
	return r.exit, r.canceled
}

func (r *run) set(change func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change()
}
