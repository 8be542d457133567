// Package process provides host processes that are held by a descriptor.
package process

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Process is one host process, held by a descriptor: its pid may be reused, this can't.
type Process struct {
	PID     int
	Started uint64 // clock ticks after boot; with the pid it names a process for ever
	file    *os.File
	closed  atomic.Bool
}

// Open holds the process pid. If started is not 0, that process must have begun then.
func Open(pid int, started uint64) (*Process, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("pidfd_open", err)
	}
	p := &Process{PID: pid, file: os.NewFile(uintptr(fd), "pidfd")}
	stat, err := ReadStat(pid)
	if err != nil {
		p.file.Close()
		return nil, err
	}
	p.Started = stat.Started
	if stat.Zombie || started != 0 && stat.Started != started {
		p.file.Close()
		return nil, os.ErrProcessDone
	}
	return p, nil
}

// Wait returns when the process is dead, or with os.ErrClosed after Close.
func (p *Process) Wait() error {
	raw, err := p.file.SyscallConn()
	if err != nil {
		return err
	}
	err = raw.Read(func(fd uintptr) bool {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(poll, 0)
		return err != nil && err != unix.EINTR || n > 0
	})
	if err != nil && p.closed.Load() { // in words of package os's own, which it does not export
		return os.ErrClosed
	}
	return err
}

// Alive reports whether the process has not ended.
func (p *Process) Alive() bool {
	raw, err := p.file.SyscallConn()
	if err != nil {
		return false
	}
	alive := false
	err = raw.Control(func(fd uintptr) {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(poll, 0)
		alive = err == nil && n == 0 || err == unix.EINTR
	})
	return err == nil && alive
}

// Status reaps the process where it is our child, and says how it ended.
func (p *Process) Status() (unix.WaitStatus, bool) {
	var status unix.WaitStatus
	for {
		pid, err := unix.Wait4(p.PID, &status, unix.WNOHANG, nil)
		if err == unix.EINTR {
			continue
		}
		return status, err == nil && pid == p.PID
	}
}

// Kill kills the process.
func (p *Process) Kill() { _ = p.Signal(unix.SIGKILL) }

// Signal sends the process a signal.
func (p *Process) Signal(signal unix.Signal) error {
	raw, err := p.file.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if err := raw.Control(func(fd uintptr) { failed = unix.PidfdSendSignal(int(fd), signal, nil, 0) }); err != nil {
		return err
	}
	return os.NewSyscallError("pidfd_send_signal", failed)
}

// Stop stops the process and returns when it stands still, until Continue.
//
// A program of several threads that executes another just then forgets about the signal: the
// kernel calls a stop off that has begun. So it is sent again until it has its effect.
func (p *Process) Stop() error {
	const again = 10 * time.Millisecond
	var sent time.Time
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(200 * time.Microsecond) {
		if time.Since(sent) > again {
			if err := p.Signal(unix.SIGSTOP); err != nil {
				return err
			}
			sent = time.Now()
		}
		stat, err := ReadStat(p.PID)
		switch {
		case err != nil:
			return err
		case stat.Zombie || !p.Alive():
			return os.ErrProcessDone
		case stat.Stopped:
			return nil
		case time.Now().After(end):
			return errors.New("the process does not stop")
		}
	}
}

// Continue lets a stopped process go on.
func (p *Process) Continue() error { return p.Signal(unix.SIGCONT) }

// Stat is what /proc says of a process.
type Stat struct {
	Comm    string
	Zombie  bool
	Stopped bool // by a signal
	Started uint64
}

// ReadStat reads /proc/pid/stat, proc(5).
func ReadStat(pid int) (Stat, error) {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return Stat{}, err
	}
	open, end := bytes.IndexByte(content, '('), bytes.LastIndexByte(content, ')')
	if open < 0 || end < open {
		return Stat{}, errors.New("malformed stat")
	}
	fields := strings.Fields(string(content[end+1:]))
	if len(fields) < 20 {
		return Stat{}, errors.New("malformed stat")
	}
	started, err := strconv.ParseUint(fields[19], 10, 64)
	return Stat{Comm: string(content[open+1 : end]), Zombie: fields[0] == "Z", Stopped: fields[0] == "T", Started: started}, err
}

// Close lets go of the process. Wait returns.
func (p *Process) Close() error {
	p.closed.Store(true)
	return p.file.Close()
}

// BootID names this run of the host's kernel: a pid means nothing in another one.
func BootID() string {
	content, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(content))
}
