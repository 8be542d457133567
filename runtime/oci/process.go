package oci

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/covehq/cove/runtime/internal/bundle"
	"github.com/covehq/cove/runtime/internal/process"
)

// AdoptOrphans makes this process the parent of processes whose own parent is gone: the
// sandboxes, whose runtime program exits when they are up. Their exit status is known
// then, and no zombie is left where the host's first process does not reap. It is a
// setting of the whole process, so the program's main decides.
func AdoptOrphans() error {
	return unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
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
	cmd.Env, cmd.Dir, cmd.WaitDelay = bundle.HelperEnv, "/", 2*time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	if d.rootless {
		if err := s.enter(cmd); err != nil {
			return err
		}
	}
	var said bundle.Said
	if stdin != nil {
		cmd.Stdin = stdin
	}
	if output != nil { // held open by what stays behind, so not to be read to its end
		cmd.Stderr = output
	} else {
		cmd.Stdout, cmd.Stderr = &said, &said
	}
	err = cmd.Run()
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	if text := said.String(); err != nil && text != "" {
		return fmt.Errorf("%w: %s", err, text)
	}
	return err
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
			if stat, err := process.ReadStat(pid); err == nil && stat.Zombie && inherited(stat.Comm) {
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
