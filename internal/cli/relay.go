package cli

import (
	"context"
	"os"
	"os/signal"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/covehq/cove/client"
)

// graceTime is how long a command may take to end after the signals that ask for it,
// before it is killed. An interrupt has no such limit: a command may mean to survive it.
const graceTime = 10 * time.Second

// relay hands the signals that this program gets on to the command. Before there is
// one, a signal ends Context, and so what is being prepared; afterwards the first one
// is the command's to obey, and the same once more ends Context, and so the command.
type relay struct {
	Context context.Context

	cancel  context.CancelFunc
	signals chan os.Signal
	done    chan struct{}
	group   sync.WaitGroup

	mu      sync.Mutex
	process signaler
	resize  func(context.Context)
	last    syscall.Signal   // that asked to end
	asked   []syscall.Signal // those that the command was told
	timer   *time.Timer      // runs out with graceTime
}

// signaler is a client.Process as a relay needs it.
type signaler interface {
	Signal(ctx context.Context, signal string) error
}

var _ signaler = (*client.Process)(nil)

// newRelay starts a relay. Its close must be called.
func newRelay(ctx context.Context) *relay {
	ctx, cancel := context.WithCancel(ctx)
	r := &relay{Context: ctx, cancel: cancel, signals: make(chan os.Signal, 16), done: make(chan struct{})}
	signal.Notify(r.signals, heeded(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGWINCH)...)
	r.group.Go(r.run)
	return r
}

func (r *relay) close() {
	signal.Stop(r.signals)
	close(r.done)
	r.group.Wait()
	r.stop()
}

func (r *relay) stop() {
	r.cancel()
	if r.timer != nil {
		r.timer.Stop()
	}
}

// attach names the command that signals are for from now on. The function that it
// returns ends that, once the command has ended.
func (r *relay) attach(process signaler, resize func(context.Context)) (detach func()) {
	r.set(process, resize)
	return func() { r.set(nil, nil) }
}

func (r *relay) set(process signaler, resize func(context.Context)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.process, r.resize = process, resize
}

// status is that of a program which the last signal ended, or 0 without one.
func (r *relay) status() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.last == 0 {
		return 0
	}
	return exitSignal + int(r.last)
}

func (r *relay) run() {
	for {
		select {
		case <-r.done:
			return
		case received := <-r.signals:
			r.handle(received.(syscall.Signal))
		}
	}
}

func (r *relay) handle(received syscall.Signal) {
	r.mu.Lock()
	process, resize := r.process, r.resize
	ends := received == syscall.SIGINT || received == syscall.SIGTERM || received == syscall.SIGHUP
	impatient := ends && slices.Contains(r.asked, received)
	if ends {
		r.last = received
		if process != nil {
			r.asked = append(r.asked, received)
		}
	}
	if ends && received != syscall.SIGINT && r.timer == nil {
		r.timer = time.AfterFunc(graceTime, r.cancel)
	}
	r.mu.Unlock()
	switch {
	case received == syscall.SIGWINCH:
		if resize != nil {
			resize(r.Context)
		}
	case process == nil && !ends:
		// Nobody is there who would want it.
	case process == nil || impatient:
		r.cancel()
	default:
		if process.Signal(r.Context, unix.SignalName(received)) != nil && ends {
			// It can't be told, so it is ended the other way.
			r.cancel()
		}
	}
}
