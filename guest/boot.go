package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// farewell bounds the time from a request to stop to the end of the agent.
const farewell = 5 * time.Second

// Boot is the agent as a program: it makes this process what commands may inherit from,
// serves its standard input and its sockets in dir, and returns when it is asked to stop
// by SIGTERM or SIGINT. As process 1 the sandbox ends with it.
//
// Standard input is the door, where it is a socket; else, where it and standard output are
// pipes, they are the first connection.
func Boot(dir string, stderr io.Writer) error {
	if err := becomeRoot(); err != nil {
		return err
	}
	if err := inherit(); err != nil {
		return err
	}
	if err := openVolumes(newLog(stderr)); err != nil {
		return err
	}
	way, err := openWay(newLog(stderr))
	if err != nil {
		return err
	}
	// All of these have a handler rather than being ignored, which commands would inherit.
	// SIGPIPE comes when nobody reads standard error any more, SIGHUP from terminals.
	stop, ignore := make(chan os.Signal, 1), make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	signal.Notify(ignore, syscall.SIGPIPE, syscall.SIGHUP, syscall.SIGQUIT)
	agent := New(Options{Orphans: true, Log: stderr, Way: way})
	if err := agent.Listen(dir); err != nil {
		return err
	}
	served := make(chan error, 1)
	go func() { served <- agent.Serve() }()
	reserveThreads()
	if err := agent.serveStdin(); err != nil {
		return err
	}
	select {
	case <-stop:
	case err := <-served:
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), farewell)
	defer cancel()
	err = agent.Close(ctx)
	return errors.Join(err, <-served)
}

// inherit sets what commands inherit from this process, and hides the process from them.
func inherit() error {
	if err := clearSignalMask(); err != nil {
		return err
	}
	unix.Umask(0o022)
	// Descriptors that a runtime left open are not for commands.
	if err := unix.CloseRange(3, ^uint(0), unix.CLOSE_RANGE_CLOEXEC); err != nil {
		if err := closeOnExec(); err != nil {
			return err
		}
	}
	if set, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0); err != nil || set == 0 {
		// The attribute is a thread's. A runtime sets it for all by setting it before it
		// executes us; where none did, all threads are visited. A build with cgo can't.
		_, _, errno := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0)
		if errno != 0 && errno != syscall.ENOTSUP {
			return fmt.Errorf("set no-new-privileges: %w", errno)
		}
	}
	// Nobody of the same user may trace this process or read its memory.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("clear dumpable: %w", err)
	}
	if os.Getpid() != 1 {
		if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
			return fmt.Errorf("become a subreaper: %w", err)
		}
	}
	return nil
}

// threads is how many the agent may need beside the runtime's own: as many as touch files,
// fork and look at processes at one time.
const threads = 14

// reserveThreads makes the runtime start all threads that it will need, and keep them. Who
// fills the sandbox with processes up to its limit would otherwise bring the agent down:
// the Go runtime gives up when it can't start a thread.
func reserveThreads() {
	var started, ended sync.WaitGroup
	release := make(chan struct{})
	started.Add(threads)
	for range threads {
		ended.Go(func() {
			runtime.LockOSThread() // so that each has one of its own
			defer runtime.UnlockOSThread()
			started.Done()
			<-release
		})
	}
	started.Wait()
	close(release)
	ended.Wait()
}

// clearSignalMask makes sure that no signal is blocked. The Go runtime gives every thread
// the mask that the process began with, so that the process begins again where that is not
// empty.
func clearSignalMask() error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var none, mask unix.Sigset_t
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &none, &mask); err != nil {
		return fmt.Errorf("clear the signal mask: %w", err)
	}
	if mask == none {
		return nil
	}
	return fmt.Errorf("begin again: %w", syscall.Exec("/proc/self/exe", os.Args, os.Environ()))
}

// closeOnExec does what close_range does, for kernels without it (before Linux 5.11).
func closeOnExec() error {
	dir, err := os.Open("/proc/self/fd")
	if err != nil {
		return err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		if fd, err := strconv.Atoi(name); err == nil && fd > 2 {
			syscall.CloseOnExec(fd)
		}
	}
	return nil
}

// serveStdin serves what the runtime gave us as standard input, and puts /dev/null there.
func (a *Agent) serveStdin() error {
	switch kind, err := kindOf(0); {
	case err != nil:
		return nil // there is none
	case kind == unix.S_IFSOCK:
		file, err := move(0)
		if err != nil {
			return err
		}
		defer file.Close()
		conn, err := net.FileConn(file)
		if err != nil {
			return fmt.Errorf("standard input: %w", err)
		}
		door, ok := conn.(*net.UnixConn)
		if !ok {
			_ = conn.Close()
			return errors.New("standard input is a socket, but no unix socket: give the agent one end of a socket pair")
		}
		a.ServeDoor(door)
	case kind == unix.S_IFIFO:
		in, err := move(0)
		if err != nil {
			return err
		}
		out, err := move(1)
		if err != nil {
			return err
		}
		a.ServeConn(&stdio{File: in, out: out})
	}
	return nil
}

func kindOf(fd int) (uint32, error) {
	var st unix.Stat_t
	err := unix.Fstat(fd, &st)
	return st.Mode & unix.S_IFMT, err
}

// move moves a standard descriptor out of the way, where no command gets it, and puts
// /dev/null in its place.
func move(fd int) (*os.File, error) {
	moved, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, err
	}
	null, err := unix.Open(os.DevNull, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(null)
	if err := unix.Dup3(null, fd, 0); err != nil {
		return nil, err
	}
	_ = unix.SetNonblock(moved, true)
	return os.NewFile(uintptr(moved), "stdio"), nil
}

// stdio is standard input and output as one connection. The embedded file is the input.
type stdio struct {
	*os.File
	out *os.File
}

// Write writes to standard output.
func (s *stdio) Write(p []byte) (int, error) { return s.out.Write(p) }

// Close closes both.
func (s *stdio) Close() error { return errors.Join(s.File.Close(), s.out.Close()) }

// LocalAddr returns the address, which is nowhere.
func (s *stdio) LocalAddr() net.Addr { return &net.UnixAddr{Name: "stdio", Net: "unix"} }

// RemoteAddr returns the address, which is nowhere.
func (s *stdio) RemoteAddr() net.Addr { return s.LocalAddr() }

// SetDeadline bounds reads and writes.
func (s *stdio) SetDeadline(t time.Time) error {
	return errors.Join(s.File.SetDeadline(t), s.out.SetDeadline(t))
}

// SetWriteDeadline bounds writes.
func (s *stdio) SetWriteDeadline(t time.Time) error { return s.out.SetWriteDeadline(t) }
