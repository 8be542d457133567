// Package life provides what every driver does with a sandbox from its first process to its
// end: to wait for the end and say why it came, to find the sandbox again, to bring it down.
// They are pieces: which of them a driver needs, and when, is the driver's.
package life

import (
	"context"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/covehq/cove"
	"github.com/covehq/cove/sandbox/driver"
)

// End is the end of one sandbox, which a watch tells and others wait for.
type End struct {
	gone chan struct{}
	exit driver.Exit // set when gone is closed
}

// NewEnd returns the end of a sandbox that runs.
func NewEnd() *End { return &End{gone: make(chan struct{})} }

// Come makes the end known, and why it came. It is called once.
func (e *End) Come(why driver.Exit) {
	e.exit = why
	close(e.gone)
}

// Gone is closed when the end has come.
func (e *End) Gone() <-chan struct{} { return e.gone }

// Over reports whether the end has come.
func (e *End) Over() bool {
	select {
	case <-e.gone:
		return true
	default:
		return false
	}
}

// Wait implements driver.Machine.
func (e *End) Wait(ctx context.Context) (driver.Exit, error) {
	select {
	case <-e.gone:
		return e.exit, nil
	case <-ctx.Done():
		return driver.Exit{}, ctx.Err()
	}
}

// OutOfMemory is the exit of a sandbox that breached its limit.
func OutOfMemory(limit cove.Bytes) driver.Exit {
	return driver.Exit{Reason: cove.ReasonOOM, Message: fmt.Sprintf("out of memory: it used more than its limit of %s", limit)}
}

// FromOutside is the exit of a sandbox of which nobody knows how it ended.
func FromOutside() driver.Exit {
	return driver.Exit{Reason: cove.ReasonKilled, Message: "its first process was ended from outside"}
}

// Signalled is the exit of a sandbox that a signal ended.
func Signalled(signal unix.Signal) driver.Exit {
	return driver.Exit{Reason: cove.ReasonKilled, Message: "its first process was ended by " + unix.SignalName(signal)}
}

// Exited is the exit of a sandbox that ended by itself.
func Exited(code int) driver.Exit {
	return driver.Exit{Reason: cove.ReasonExited, Message: fmt.Sprintf("its first process ended with code %d", code)}
}

// ByCode is the exit of a sandbox by a code as engines and gVisor give it, in which a signal
// is its number and 128.
func ByCode(code int) driver.Exit {
	const added, last = 128, 64
	if code > added && code <= added+last {
		return Signalled(unix.Signal(code - added))
	}
	return Exited(code)
}
