package cli

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/covehq/cove"
	"github.com/covehq/cove/client"
	"github.com/covehq/cove/internal/daemon"
)

// idleExit is how long a daemon that was started for a verb stays when nobody uses it.
const idleExit = 5 * time.Minute

// connect returns a client of the daemon: the one that --host names, else this user's
// own, which it starts when nobody answers.
func (p *program) connect(ctx context.Context) (*client.Client, error) {
	return p.dial(ctx, func(dirs daemon.Dirs) error {
		starter, err := p.starter(dirs)
		if err != nil {
			return err
		}
		return starter.Start(ctx)
	})
}

// running returns a client of the daemon if there is one, else nil. It starts nothing.
func (p *program) running(ctx context.Context) (*client.Client, error) {
	c, err := p.dial(ctx, func(daemon.Dirs) error { return errNotRunning })
	if errors.Is(err, errNotRunning) {
		return nil, nil
	}
	return c, err
}

var errNotRunning = errors.New("no daemon runs")

func (p *program) dial(ctx context.Context, missing func(daemon.Dirs) error) (*client.Client, error) {
	if p.host != "" {
		return client.New(client.Options{URL: p.host})
	}
	dirs, err := p.dirs()
	if err != nil {
		return nil, err
	}
	if err := dirs.Trust(); err != nil {
		return nil, err
	}
	there, err := dirs.Answers(ctx)
	if err != nil {
		return nil, err
	}
	if !there {
		if err := missing(dirs); err != nil {
			return nil, err
		}
	}
	return client.New(client.Options{URL: dirs.URL()})
}

// starter starts this very program as the daemon.
func (p *program) starter(dirs daemon.Dirs) (daemon.Starter, error) {
	self, err := os.Executable()
	if err != nil {
		return daemon.Starter{}, err
	}
	args := []string{
		self, "serve", "--ready", "--idle-exit", idleExit.String(),
		"--state-dir", dirs.State, "--data-dir", dirs.Data, "--log-file", dirs.Log(),
	}
	if p.config != "" {
		args = append(args, "--config", p.config)
	}
	if policy := os.Getenv("COVE_POLICY"); policy != "" {
		if policy, err = filepath.Abs(policy); err != nil { // the daemon runs elsewhere
			return daemon.Starter{}, err
		}
		args = append(args, "--policy", policy)
	}
	return daemon.Starter{Dirs: dirs, Args: args, Env: daemon.Environment(os.Environ())}, nil
}

// sandbox returns the sandbox that an argument names. A daemon is started for that as
// well: sandboxes outlive the one that made them.
func (p *program) sandbox(ctx context.Context, idOrName string) (*client.Sandbox, error) {
	c, err := p.connect(ctx)
	if err != nil {
		return nil, err
	}
	s, err := c.Get(ctx, idOrName)
	if errors.Is(err, cove.NotFound) {
		return nil, &cove.Error{Code: cove.NotFound, Op: "find sandbox", ID: quote(idOrName), Err: errors.New("there is no such sandbox"), Hint: "see cove ls for those that there are"}
	}
	return s, err
}

// untilSignal ends ctx at the signals that ask a program to end.
func untilSignal(ctx context.Context) (context.Context, context.CancelFunc) {
	signals := heeded(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	if len(signals) == 0 { // to NotifyContext, that means every signal there is
		return context.WithCancel(ctx)
	}
	return signal.NotifyContext(ctx, signals...)
}

// heeded leaves out the signals that this program was started to ignore: nohup has it
// survive a hang-up, and a shell that runs it in the background an interrupt.
func heeded(signals ...os.Signal) []os.Signal {
	return slices.DeleteFunc(signals, signal.Ignored)
}

// verb makes the function of a command from one whose context ends at a signal.
func verb(run func(ctx context.Context, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		ctx, stop := untilSignal(cmd.Context())
		defer stop()
		err := run(ctx, args)
		if errors.Is(err, context.Canceled) && ctx.Err() != nil {
			return &statusError{status: exitSignal + int(syscall.SIGINT)}
		}
		return err
	}
}
