package oci

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// AdoptOrphans makes this process the parent of processes whose own parent is gone: the
// sandboxes, whose runtime program exits when they are up. Their exit status is known
// then, and no zombie is left where the host's first process does not reap. It is a
// setting of the whole process, so the program's main decides.
func AdoptOrphans() error {
	return unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
}

// process is one host process, held by a descriptor: its pid may be reused, this can't.
type process struct {
	pid     int
	started uint64 // clock ticks after boot; with the pid it names a process for ever
	file    *os.File
}

// openProcess holds the process pid. If started is not 0, that process must have begun then.
func openProcess(pid int, started uint64) (*process, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("pidfd_open", err)
	}
	p := &process{pid: pid, file: os.NewFile(uintptr(fd), "pidfd")}
	stat, err := readStat(pid)
	if err != nil {
		p.file.Close()
		return nil, err
	}
	p.started = stat.started
	if stat.zombie || started != 0 && stat.started != started {
		p.file.Close()
		return nil, os.ErrProcessDone
	}
	return p, nil
}

// wait returns when the process is dead, or the descriptor closed.
func (p *process) wait() error {
	raw, err := p.file.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Read(func(fd uintptr) bool {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(poll, 0)
		return err != nil && err != unix.EINTR || n > 0
	})
}

// status reaps the process where it is our child, and says how it ended.
func (p *process) status() (unix.WaitStatus, bool) {
	var status unix.WaitStatus
	for {
		pid, err := unix.Wait4(p.pid, &status, unix.WNOHANG, nil)
		if err == unix.EINTR {
			continue
		}
		return status, err == nil && pid == p.pid
	}
}

func (p *process) kill() {
	raw, err := p.file.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) { _ = unix.PidfdSendSignal(int(fd), unix.SIGKILL, nil, 0) })
}

type procStat struct {
	comm    string
	zombie  bool
	started uint64
}

// readStat reads /proc/pid/stat, proc(5).
func readStat(pid int) (procStat, error) {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return procStat{}, err
	}
	open, end := bytes.IndexByte(content, '('), bytes.LastIndexByte(content, ')')
	if open < 0 || end < open {
		return procStat{}, errors.New("malformed stat")
	}
	fields := strings.Fields(string(content[end+1:]))
	if len(fields) < 20 {
		return procStat{}, errors.New("malformed stat")
	}
	started, err := strconv.ParseUint(fields[19], 10, 64)
	return procStat{comm: string(content[open+1 : end]), zombie: fields[0] == "Z", started: started}, err
}

// run runs the runtime program to its end. It dies with us: one that outlived a killed
// daemon would go on making what the next daemon has just swept.
func (d *Driver) run(ctx context.Context, stdin, output *os.File, args ...string) error {
	return d.runAt(ctx, stage{}, stdin, output, args...)
}

// runAt is run behind a stage, which only an ordinary user's program has.
func (d *Driver) runAt(ctx context.Context, s stage, stdin, output *os.File, args ...string) error {
	path, err := d.program()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env, cmd.Dir, cmd.WaitDelay = helperEnv, "/", 2*time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	if d.rootless {
		if err := s.enter(cmd); err != nil {
			return err
		}
	}
	var text bytes.Buffer
	if stdin != nil {
		cmd.Stdin = stdin
	}
	if output != nil { // held open by what stays behind, so not to be read to its end
		cmd.Stderr = output
	} else {
		cmd.Stdout, cmd.Stderr = &capped{w: &text}, &capped{w: &text}
	}
	err = cmd.Run()
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil && text.Len() > 0 {
		return fmt.Errorf("%w: %s", err, strings.TrimSpace(text.String()))
	}
	return err
}

// capped keeps the first 4 KiB that are written and drops the rest.
type capped struct{ w *bytes.Buffer }

func (c *capped) Write(p []byte) (int, error) {
	if room := 4096 - c.w.Len(); room > 0 {
		c.w.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}

// reap buries the dead helpers of removed sandboxes (gVisor's gofer has the sandbox
// process for a parent, and us after it) where this process adopts orphans.
func (d *Driver) reap() {
	lists, _ := filepath.Glob("/proc/self/task/*/children")
	for _, list := range lists {
		content, _ := os.ReadFile(list)
		for field := range strings.FieldsSeq(string(content)) {
			pid, err := strconv.Atoi(field)
			if err != nil {
				continue
			}
			if stat, err := readStat(pid); err == nil && stat.zombie && inherited(stat.comm) {
				_, _ = unix.Wait4(pid, nil, unix.WNOHANG, nil)
			}
		}
	}
}

// inherited reports whether a process of this name came to us when its parent died. Those
// that we start and wait for have other names: "exe" is a program run as /proc/self/exe, as
// gVisor runs its gofer, and runc names its own children in brackets.
func inherited(comm string) bool { return comm == "exe" || strings.HasPrefix(comm, "runc:[") }

// killByBundle kills the processes that were started for a bundle: those that a crash
// caught before they were in their cgroup.
func killByBundle(bundle string) {
	entries, _ := os.ReadDir("/proc")
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		line, _ := os.ReadFile(filepath.Join("/proc", entry.Name(), "cmdline"))
		args := strings.Split(string(line), "\x00")
		for i, arg := range args {
			if arg == "--bundle="+bundle || arg == "--bundle" && i+1 < len(args) && args[i+1] == bundle {
				_ = unix.Kill(pid, unix.SIGKILL)
			}
		}
	}
}
