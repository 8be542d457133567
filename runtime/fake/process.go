package fake

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

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
	paths, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, path := range paths {
		line, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended meanwhile
		}
		name, _, _ := bytes.Cut(line, []byte{0})
		if string(name) != initName+id && string(name) != agentName+id {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil {
			return nil, err
		}
		pids = append(pids, pid)
	}
	return pids, nil
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
