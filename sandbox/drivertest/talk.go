package drivertest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/guest/dial"
	"github.com/covehq/cove/sandbox/driver"
)

// patience is how long a test waits for what is to happen at once: an end is to be known
// within 2 s, whatever became of the engine.
const patience = 2 * time.Second

// Talk is a command in a sandbox that writes a line every few milliseconds, for tests that
// look at what becomes of its stream.
type Talk struct {
	lines atomic.Int64
	ended chan struct{}
	err   error      // why the stream ended; set when ended is closed
	exit  *cove.Exit // how the command ended, where its stream came to say so
}

// StartTalk starts one in a sandbox that has a shell, and returns when it has written. It is
// ended with the test, which waits for that.
func StartTalk(t testing.TB, m driver.Machine) *Talk {
	t.Helper()
	guest := dial.New(m.Dial)
	ctx, cancel := context.WithCancel(context.Background())
	stream, err := guest.Start(ctx, dial.Start{Argv: []string{"/bin/sh", "-c", "while echo line; do sleep 0.02; done"}, KillOnDisconnect: true})
	if err != nil {
		cancel()
		t.Fatalf("start a command that writes: %v", err)
	}
	k := &Talk{ended: make(chan struct{})}
	go func() {
		defer close(k.ended)
		defer stream.Close()
		for k.err == nil {
			var piece cove.Output
			if piece, k.err = stream.Next(); len(piece.Data) > 0 {
				k.lines.Add(1)
			}
			if piece.Exit != nil {
				k.exit = piece.Exit
			}
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-k.ended
		_ = guest.Close()
	})
	k.GoesOn(t, "at the start")
	return k
}

// GoesOn fails the test unless the command's output still comes.
func (k *Talk) GoesOn(t testing.TB, when string) {
	t.Helper()
	enough := k.lines.Load() + 5 // what was on its way is less
	for end := time.Now().Add(10 * patience); k.lines.Load() < enough; time.Sleep(5 * time.Millisecond) {
		select {
		case <-k.ended:
			t.Errorf("a running command, %s: %v, want it to go on", when, k.err)
			return
		default:
		}
		if time.Now().After(end) {
			t.Errorf("a running command, %s: it is silent, want it to go on", when)
			return
		}
	}
}

// Breaks fails the test unless the command's stream ends at once, with an error that says
// that the sandbox was lost and what to do, or with the signal that ended the command.
func (k *Talk) Breaks(t testing.TB, when string) {
	t.Helper()
	select {
	case <-k.ended:
		if k.exit != nil && k.exit.Signal != "" {
			return
		}
		if !errors.Is(k.err, cove.Unavailable) && !errors.Is(k.err, cove.Gone) || cove.HintOf(k.err) == "" {
			t.Errorf("a running command, %s: %v (%s), want that the sandbox is unavailable, and what to do", when, k.err, cove.HintOf(k.err))
		}
	case <-time.After(patience):
		t.Errorf("a running command, %s: its stream hangs, want its end", when)
	}
}

// AwaitStopped returns when every thread of a process stands still after a SIGSTOP, which
// takes effect some time after it was sent.
func AwaitStopped(pid int) error {
	for end := time.Now().Add(5 * patience); time.Now().Before(end); time.Sleep(time.Millisecond) {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
		if err != nil || len(threads) == 0 {
			return fmt.Errorf("process %d is not there", pid)
		}
		running := slices.ContainsFunc(threads, func(path string) bool {
			content, err := os.ReadFile(path) // "pid (name) T …", proc(5)
			_, state, ok := strings.Cut(string(content), ") ")
			return err == nil && ok && !strings.HasPrefix(state, "T")
		})
		if !running {
			return nil
		}
	}
	return fmt.Errorf("process %d does not stop", pid)
}
