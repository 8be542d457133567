package conformance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/guest/dial"
	"github.com/covehq/cove/sandbox/driver"
)

func attachChecks() []check {
	reopen := Needs{Reopen: true}
	return []check{
		{"finds-running", "Attach finds the sandbox that an earlier process of ours created, with all that is in it.", reopen, attachFindsRunning},
		{"keeps-processes", "What runs inside goes on across a restart of the daemon, and its output is not lost.", reopen, attachKeepsProcesses},
		{"after-a-crash", "A daemon killed with SIGKILL takes no sandbox with it; the next one attaches.", Needs{Crash: true}, attachAfterCrash},
		{"again", "The handle of an attached machine attaches again.", reopen, attachAgain},
		{"destroyed-is-not-found", "Attach returns an error that is cove.NotFound when the sandbox was destroyed.", reopen, attachDestroyed},
		{"dead-is-not-found", "Attach returns an error that is cove.NotFound when the sandbox has died.", reopen, attachDead},
		{"foreign-handle-fails", "A handle that is not the driver's is an error.", reopen, attachForeign},
		{"wait-sees-the-end", "Wait returns within 2 s of the sandbox's end also after an Attach.", reopen, attachedWait},
		{"destroy-removes-everything", "Destroy removes everything also after an Attach, and the sandbox's other machines see it gone.", reopen, attachedDestroy},
	}
}

// attach finds a sandbox by another driver on the same state.
func (b *bench) attach(ctx context.Context, id string, handle []byte) (driver.Machine, error) {
	reopened, err := b.options.Reopen()
	if err != nil {
		return nil, fmt.Errorf("reopen the driver: %w", err)
	}
	return reopened.Attach(ctx, id, handle)
}

// reattach makes a sandbox and finds it again.
func (b *bench) reattach(ctx context.Context) (original, attached *box, err error) {
	original, err = b.create(ctx)
	if err != nil {
		return nil, nil, err
	}
	machine, err := b.attach(ctx, original.id, original.machine.Handle())
	if err != nil {
		return nil, nil, fmt.Errorf("attach: %w", err)
	}
	return original, b.note(original.id, original.spec, machine), nil
}

func attachFindsRunning(ctx context.Context, b *bench) error {
	x, err := b.create(ctx)
	if err != nil {
		return err
	}
	if _, err := x.print(ctx, "echo before > /tmp/note"); err != nil {
		return err
	}
	machine, err := b.attach(ctx, x.id, x.machine.Handle())
	if err != nil {
		return fmt.Errorf("attach: %w", err)
	}
	attached := b.note(x.id, x.spec, machine)
	return attached.prints(ctx, "a file from before the restart", "cat /tmp/note", "before")
}

func attachKeepsProcesses(ctx context.Context, b *bench) error {
	x, err := b.create(ctx)
	if err != nil {
		return err
	}
	start := shell("echo before; read line; echo after $line")
	start.Stdin = true
	stream, err := x.guest.Start(ctx, start)
	if err != nil {
		return err
	}
	pid := stream.PID
	if err := errors.Join(stream.Close(), x.guest.Close()); err != nil {
		return err
	}
	machine, err := b.attach(ctx, x.id, x.machine.Handle())
	if err != nil {
		return fmt.Errorf("attach: %w", err)
	}
	attached := b.note(x.id, x.spec, machine)
	if err := attached.guest.Write(ctx, pid, strings.NewReader("restart\n")); err != nil {
		return fmt.Errorf("write to the process: %w", err)
	}
	stream, err = attached.guest.Follow(ctx, pid, cove.FromStart(), false)
	if err != nil {
		return fmt.Errorf("follow the process: %w", err)
	}
	defer stream.Close()
	r, err := collect(stream)
	if err != nil {
		return err
	}
	return equal("its whole output", string(r.stdout), "before\nafter restart\n")
}

func attachAfterCrash(ctx context.Context, b *bench) error {
	spec, id := b.spec(), newID()
	handle, err := b.options.Crash(ctx, id, &spec, -1)
	if err != nil {
		return fmt.Errorf("create in a process that is killed: %w", err)
	}
	machine, err := b.driver.Attach(ctx, id, handle)
	if err != nil {
		return errors.Join(fmt.Errorf("attach: %w", err), b.remove(ctx, id))
	}
	x, err := b.adopt(ctx, id, spec, machine)
	if err != nil {
		return err
	}
	return x.alive(ctx)
}

// remove clears an id where the driver can.
func (b *bench) remove(ctx context.Context, id string) error {
	if lister, ok := b.driver.(driver.Lister); ok {
		return lister.Remove(ctx, id)
	}
	return nil
}

func attachAgain(ctx context.Context, b *bench) error {
	x, attached, err := b.reattach(ctx)
	if err != nil {
		return err
	}
	machine, err := b.attach(ctx, x.id, attached.machine.Handle())
	if err != nil {
		return fmt.Errorf("attach by the handle of an attached machine: %w", err)
	}
	return b.note(x.id, x.spec, machine).alive(ctx)
}

func attachDestroyed(ctx context.Context, b *bench) error {
	x, err := b.create(ctx)
	if err != nil {
		return err
	}
	handle := x.machine.Handle()
	if err := x.machine.Destroy(ctx); err != nil {
		return fmt.Errorf("destroy: %w", err)
	}
	return b.notAttached(ctx, x, handle)
}

func attachDead(ctx context.Context, b *bench) error {
	x, err := b.create(ctx)
	if err != nil {
		return err
	}
	handle := x.machine.Handle()
	if err := b.kill(ctx, x); err != nil {
		return err
	}
	return b.notAttached(ctx, x, handle)
}

func (b *bench) notAttached(ctx context.Context, x *box, handle []byte) error {
	machine, err := b.attach(ctx, x.id, handle)
	if err == nil {
		b.note(x.id, x.spec, machine)
	}
	return isCode("attach to what is gone", err, cove.NotFound)
}

func attachForeign(ctx context.Context, b *bench) error {
	x, err := b.shared(ctx)
	if err != nil {
		return err
	}
	for _, handle := range []string{"", "{}", "nonsense", `{"version":99,"v":99}`} {
		if _, err := b.attach(ctx, x.id, []byte(handle)); err == nil {
			return fmt.Errorf("attach by the handle %q: got no error, want one", handle)
		}
	}
	return nil
}

func attachedWait(ctx context.Context, b *bench) error {
	x, attached, err := b.reattach(ctx)
	if err != nil {
		return err
	}
	if err := b.kill(ctx, x); err != nil {
		return err
	}
	_, err = attached.waitAfterEnd(ctx)
	return err
}

func attachedDestroy(ctx context.Context, b *bench) error {
	x, attached, err := b.reattach(ctx)
	if err != nil {
		return err
	}
	if err := attached.machine.Destroy(ctx); err != nil {
		return fmt.Errorf("destroy by the attached machine: %w", err)
	}
	return b.nothingLeft(ctx, x.id)
}

// endBound is how long after a sandbox's end Wait may take.
const endBound = 2 * time.Second

// waitAfterEnd waits for a sandbox that has ended.
func (x *box) waitAfterEnd(ctx context.Context) (driver.Exit, error) {
	ctx, cancel := context.WithTimeout(ctx, endBound)
	defer cancel()
	exit, err := x.machine.Wait(ctx)
	if err != nil {
		return exit, fmt.Errorf("wait, with the sandbox gone: got error %w after %v, want the exit", err, endBound)
	}
	return exit, nil
}

// readUntil reads a stream until text has come on standard output or the terminal.
func readUntil(stream *dial.Stream, text string) (string, error) {
	var got strings.Builder
	for !strings.Contains(got.String(), text) {
		output, err := stream.Next()
		if err != nil && !errors.Is(err, io.EOF) {
			return got.String(), fmt.Errorf("waiting for %q after %q: %w", text, got.String(), err)
		}
		if err != nil || output.Exit != nil || got.Len() > 1<<20 {
			return got.String(), fmt.Errorf("output: got %q and its end, want %q in it", got.String(), text)
		}
		if output.Stream != cove.Stderr {
			got.Write(output.Data)
		}
	}
	return got.String(), nil
}
