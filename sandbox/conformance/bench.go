package conformance

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/guest/dial"
	"github.com/covehq/cove/sandbox/driver"
)

// bench is what one run of a check works with.
type bench struct {
	driver  driver.Driver
	options Options
	info    driver.Info

	mu    sync.Mutex
	boxes []*box
}

// box is a sandbox under test, with its agent set up as the host does.
type box struct {
	id      string
	spec    cove.Spec
	machine driver.Machine
	guest   *dial.Client
}

// newID returns an id as the host makes them.
func newID() string { return strings.ToLower(rand.Text()[:20]) }

// spec returns what a sandbox is asked to be by default, complete.
func (b *bench) spec(changes ...func(*cove.Spec)) cove.Spec {
	spec := b.options.Spec.WithDefaults()
	if spec.Env == nil {
		spec.Env = map[string]string{}
	}
	for _, change := range changes {
		change(&spec)
	}
	return spec
}

// create makes a sandbox, which is cleared when the check ends.
func (b *bench) create(ctx context.Context, changes ...func(*cove.Spec)) (*box, error) {
	spec := b.spec(changes...)
	return b.createAs(ctx, newID(), spec)
}

func (b *bench) createAs(ctx context.Context, id string, spec cove.Spec) (*box, error) {
	machine, err := b.driver.Create(ctx, id, &spec)
	if err != nil {
		return nil, fmt.Errorf("create: %w", err)
	}
	return b.adopt(ctx, id, spec, machine)
}

// adopt sets up the agent of a machine, and notes the sandbox to be cleared.
func (b *bench) adopt(ctx context.Context, id string, spec cove.Spec, machine driver.Machine) (*box, error) {
	x := &box{id: id, spec: spec, machine: machine, guest: dial.New(machine.Dial)}
	b.mu.Lock()
	b.boxes = append(b.boxes, x)
	b.mu.Unlock()
	if err := x.guest.Init(ctx, dial.Init{
		Env: spec.Env, User: spec.User, Workdir: spec.Workdir, Ulimits: spec.Ulimits, Capabilities: spec.Options.CapAdd, Dropped: spec.Options.CapDrop,
	}); err != nil {
		return nil, fmt.Errorf("set up the agent: %w", err)
	}
	return x, nil
}

// clear ends what the check made. How well that goes is the destroy checks' to judge.
func (b *bench) clear(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	b.mu.Lock()
	defer b.mu.Unlock()
	var done sync.WaitGroup
	for _, x := range b.boxes {
		done.Go(func() {
			_ = x.guest.Close()
			_ = x.machine.Destroy(ctx)
		})
	}
	done.Wait()
}

// shared returns the sandbox that checks share, or one of its own.
func (b *bench) shared(ctx context.Context) (*box, error) {
	if b.options.Shared == nil {
		return b.create(ctx)
	}
	return b.options.Shared.get(ctx, b)
}

// kill ends a sandbox from outside.
func (b *bench) kill(ctx context.Context, x *box) error {
	kill := b.options.Kill
	if kill == nil {
		kill = KillProcesses
	}
	if err := kill(ctx, x.id); err != nil {
		return fmt.Errorf("kill the sandbox from outside: %w", err)
	}
	return nil
}

// nothingLeft is the error of a host that still shows something of a sandbox.
func (b *bench) nothingLeft(ctx context.Context, id string) error {
	// What the kernel takes apart on its own, such as a mount namespace, goes shortly
	// after the last process.
	return eventually(ctx, time.Second, func() error {
		left, err := b.traces(id)
		if err == nil && len(left) > 0 {
			err = fmt.Errorf("left on the host: got %s, want nothing", strings.Join(left, ", "))
		}
		return err
	})
}

// traces returns what is on the host of a sandbox.
func (b *bench) traces(id string) ([]string, error) {
	groups := b.options.Groups
	if groups == nil {
		groups = []string{"/sys/fs/cgroup"}
	}
	return traces(id, groups, b.options.StateDirs)
}

// Shared is a sandbox that is made when the first check asks for it. The zero value is
// ready for use.
type Shared struct {
	mu    sync.Mutex
	box   *box
	err   error
	alive context.CancelFunc
}

// get returns the sandbox, or why it could not be made. Its life is not that of the check
// which happened to ask first.
func (s *Shared) get(ctx context.Context, b *bench) (*box, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.box == nil && s.err == nil {
		ctx, s.alive = context.WithCancel(context.WithoutCancel(ctx))
		maker := &bench{driver: b.driver, options: b.options, info: b.info}
		s.box, s.err = maker.create(ctx)
	}
	return s.box, s.err
}

// Close ends the sandbox, if there is one. The next check that asks makes another.
func (s *Shared) Close(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.alive == nil {
		return nil
	}
	s.alive()
	box := s.box
	s.box, s.err, s.alive = nil, nil, nil
	if box == nil {
		return nil
	}
	return errors.Join(box.guest.Close(), box.machine.Destroy(ctx))
}

// result is how a command ended and what it wrote.
type result struct {
	stdout, stderr, terminal []byte
	exit                     cove.Exit
}

// outputCap is more than any check asks a command to write.
const outputCap = 64 << 20

// run runs a command to its end.
func (x *box) run(ctx context.Context, start dial.Start) (result, error) {
	stream, err := x.guest.Start(ctx, start)
	if err != nil {
		return result{}, fmt.Errorf("start %q: %w", start.Argv, err)
	}
	defer stream.Close()
	return collect(stream)
}

// collect reads a stream to its end.
func collect(stream *dial.Stream) (result, error) {
	var r result
	ended := false
	for {
		output, err := stream.Next()
		if errors.Is(err, io.EOF) && ended {
			return r, nil
		}
		if err != nil {
			return r, fmt.Errorf("read the output: %w", err)
		}
		switch output.Stream {
		case cove.Stdout:
			r.stdout = append(r.stdout, output.Data...)
		case cove.Stderr:
			r.stderr = append(r.stderr, output.Data...)
		case cove.PTY:
			r.terminal = append(r.terminal, output.Data...)
		}
		if output.Exit != nil {
			r.exit, ended = *output.Exit, true
		}
		if len(r.stdout)+len(r.stderr)+len(r.terminal) > outputCap {
			return r, fmt.Errorf("output: got more than %d bytes", outputCap)
		}
	}
}

// sh runs a script by the sandbox's shell, to whatever end.
func (x *box) sh(ctx context.Context, script string) (result, error) {
	return x.run(ctx, shell(script))
}

// shAs does the same as another user.
func (x *box) shAs(ctx context.Context, user, script string) (result, error) {
	start := shell(script)
	start.User = user
	return x.run(ctx, start)
}

func shell(script string) dial.Start { return dial.Start{Argv: []string{"/bin/sh", "-c", script}} }

// print runs a script that must succeed, and returns what it wrote, trimmed.
func (x *box) print(ctx context.Context, script string) (string, error) {
	r, err := x.sh(ctx, script)
	if err != nil {
		return "", err
	}
	if r.exit.Code != 0 {
		return "", fmt.Errorf("%q: got exit code %d and %q, want 0", script, r.exit.Code, r.stderr)
	}
	return string(bytes.TrimSpace(r.stdout)), nil
}

// prints is the error of a script that does not write what it should.
func (x *box) prints(ctx context.Context, what, script, want string) error {
	got, err := x.print(ctx, script)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return equal(what, got, want)
}

// alive returns an error when the sandbox does not run commands.
func (x *box) alive(ctx context.Context) error {
	return x.prints(ctx, "a command", "echo alive", "alive")
}
