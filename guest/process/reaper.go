package process

import (
	"errors"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Reaper collects the exit statuses of children. As the process that inherits orphans it
// collects those too, and exactly one goroutine of it ever waits.
type Reaper struct {
	orphans bool

	// starting is held for reading from before a fork until the child is in children.
	// Who holds it for writing knows that an unlisted child is an orphan.
	starting sync.RWMutex
	mu       sync.Mutex
	children map[int]*child
	woken    chan struct{}
	stop     chan struct{}
	waiters  sync.WaitGroup
}

// NewReaper returns a Reaper. With orphans, the calling process must be process 1 or a
// subreaper, and nothing else in it may wait for children.
func NewReaper(orphans bool) *Reaper {
	r := &Reaper{
		orphans:  orphans,
		children: map[int]*child{},
		woken:    make(chan struct{}, 1),
		stop:     make(chan struct{}),
	}
	if orphans {
		r.waiters.Go(r.reapAll)
	}
	return r
}

// child is a process that this one started. Signals and the collection of its status
// exclude each other, so that no signal reaches a process that has got its pid since.
type child struct {
	pid    int
	status chan syscall.WaitStatus // one value, when it has ended

	mu     sync.Mutex
	reaped bool
}

// signal sends a signal to the child, or with group to its process group, and fails with
// os.ErrProcessDone when it has ended.
func (c *child) signal(sig syscall.Signal, group bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.reaped {
		return os.ErrProcessDone
	}
	pid := c.pid
	if group {
		pid = -pid
	}
	err := syscall.Kill(pid, sig)
	if errors.Is(err, syscall.ESRCH) {
		return os.ErrProcessDone
	}
	return err
}

// start forks by fork and returns the child.
func (r *Reaper) start(fork func() (pid int, err error)) (*child, error) {
	r.starting.RLock()
	defer r.starting.RUnlock()
	pid, err := fork()
	if err != nil {
		return nil, err
	}
	c := &child{pid: pid, status: make(chan syscall.WaitStatus, 1)}
	if !r.orphans {
		r.waiters.Go(func() { r.collect(c, 0) })
		return c, nil
	}
	r.mu.Lock()
	r.children[pid] = c
	r.mu.Unlock()
	select {
	case r.woken <- struct{}{}:
	default:
	}
	return c, nil
}

// close stops the collection of orphans, or waits until all children have ended.
func (r *Reaper) close() {
	close(r.stop)
	if !r.orphans {
		r.waiters.Wait()
	}
	// The goroutine in waitid ends with the process: only a child's end would wake it.
}

// collect waits for a child and hands out its status.
func (r *Reaper) collect(c *child, options int) {
	if options == 0 {
		waitable(unix.P_PID, c.pid)
	}
	c.mu.Lock()
	var status syscall.WaitStatus
	_, err := retry(func() (int, error) { return syscall.Wait4(c.pid, &status, options, nil) })
	c.reaped = true
	c.mu.Unlock()
	if err != nil { // somebody else waited for it
		status = unknownStatus
	}
	c.status <- status
}

// reapAll collects whatever ends. It looks at who has ended before it collects it: as long
// as it is uncollected, its pid belongs to nobody else.
func (r *Reaper) reapAll() {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGCHLD)
	defer signal.Stop(signals)
	for {
		pid, err := waitable(unix.P_ALL, 0)
		if err != nil { // no children: the next comes by a start, or is inherited, and then ends
			select {
			case <-r.woken:
			case <-signals:
			case <-r.stop:
				return
			}
			continue
		}
		if c := r.take(pid); c != nil {
			r.collect(c, syscall.WNOHANG)
			continue
		}
		r.starting.Lock() // waits for the forks under way: it may be one of theirs
		if c := r.take(pid); c != nil {
			r.collect(c, syscall.WNOHANG)
		} else {
			_, _ = retry(func() (int, error) { return syscall.Wait4(pid, nil, syscall.WNOHANG, nil) })
		}
		r.starting.Unlock()
	}
}

// take finds a child and takes it off the list.
func (r *Reaper) take(pid int) *child {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.children[pid]
	delete(r.children, pid)
	return c
}

// waitable waits for a child to end and returns its pid, but does not collect it.
func waitable(kind, id int) (pid int, err error) {
	var info unix.Siginfo
	_, err = retry(func() (int, error) {
		return 0, unix.Waitid(kind, id, &info, unix.WEXITED|unix.WNOWAIT, nil)
	})
	// si_pid is the first word behind the three that all signals have; on 64-bit machines
	// it is aligned to 8 bytes.
	const offset = (3*4 + unsafe.Sizeof(uintptr(0)) - 1) / unsafe.Sizeof(uintptr(0)) * unsafe.Sizeof(uintptr(0))
	return int(*(*int32)(unsafe.Add(unsafe.Pointer(&info), offset))), err
}

// unknownStatus is that of a process which exited with 255.
const unknownStatus syscall.WaitStatus = 255 << 8

// retry repeats a system call that a signal interrupted.
func retry(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if !errors.Is(err, syscall.EINTR) {
			return n, err
		}
	}
}
