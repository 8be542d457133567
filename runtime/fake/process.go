package fake

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The first argument of a sandbox's processes on the host: what a crash leaves running is
// found by it. It is what comes before the id.
const (
	initName  = "cove-fake-init/"
	agentName = "cove-agent/"
)

// processesOf returns the pids of the init or agent that carries an id.
func processesOf(id string) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		if name := nameOf(pid); name == initName+id || name == agentName+id {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// nameOf returns the first argument of a process. It is empty for the kernel's own, for
// zombies and, for a moment, while init becomes the agent: a process that has a program
// but no arguments is looked at again.
func nameOf(pid int) string {
	for range 100 {
		line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if name, _, _ := bytes.Cut(line, []byte{0}); err != nil || len(name) > 0 {
			return string(name)
		}
		if _, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); err != nil {
			return ""
		}
		time.Sleep(100 * time.Microsecond)
	}
	return ""
}

// kill ends a process and returns when it is gone.
func kill(ctx context.Context, pid int) error {
	pidfd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open process %d: %w", pid, err)
	}
	defer unix.Close(pidfd)
	if err := unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill process %d: %w", pid, err)
	}
	if err := await(ctx, pidfd); err != nil {
		return err
	}
	reap(pid)
	return nil
}

// reap collects an ended child. It does nothing for a process that is another's child.
func reap(pid int) {
	var status unix.WaitStatus
	_, _ = unix.Wait4(pid, &status, unix.WNOHANG, nil)
}

// startTime returns when a process started, in ticks since boot: field 22 of its stat,
// counted after the name, which may contain anything.
func startTime(pid int) (uint64, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(stat[bytes.LastIndexByte(stat, ')')+1:]), " ")
	fields := strings.Fields(rest)
	if len(fields) < 20 {
		return 0, fmt.Errorf("the stat of process %d is short", pid)
	}
	return strconv.ParseUint(fields[19], 10, 64)
}
