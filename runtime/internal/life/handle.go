package life

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/runtime/internal/process"
	"github.com/covehq/cove/sandbox/driver"
)

// ReadHandle reads what a driver's own handle of a sandbox was encoded to, into a pointer to
// one. The version is its member "v". The error is cove.Invalid for what is no handle or no
// id, and cove.NotSupported for a handle of another version.
func ReadHandle(id string, data []byte, version int, into any) error {
	var head struct {
		Version int `json:"v"`
	}
	if json.Unmarshal(data, &head) != nil || !driver.ValidID(id) {
		return Foreign(id)
	}
	if head.Version != version {
		return cove.Errorf(cove.NotSupported, "attach", id, fmt.Sprintf("the handle has version %d", head.Version),
			"use the release of Cove that made the sandbox, or remove it")
	}
	if json.Unmarshal(data, into) != nil {
		return Foreign(id)
	}
	return nil
}

// Foreign is the error of a handle that no driver of this kind has made.
func Foreign(id string) error {
	return cove.Errorf(cove.Invalid, "attach", id, "the handle is not one of this driver's", "")
}

// Find returns nil when the process that a sandbox began with runs, in the run of the kernel
// that it was seen in. Else the error is cove.NotFound.
func Find(boot string, pid int, started uint64) error {
	if boot != process.BootID() {
		return cove.NotFound
	}
	first, err := process.Open(pid, started)
	if err != nil { // dead, or another process has its pid by now
		return cove.NotFound
	}
	return first.Close()
}

// Missed is the error of an attach that failed with err: cove.NotFound where the sandbox
// ended meanwhile, which find tells as Find does. What holds a sandbox's connections goes a
// moment before its process is dead, so it is asked for that long.
func Missed(ctx context.Context, err error, find func() error) error {
	const asks, pause = 10, 10 * time.Millisecond
	for range asks {
		if found := find(); errors.Is(found, cove.NotFound) {
			return found
		} else if found != nil {
			return err // who would know is not to be asked
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause):
		}
	}
	return err
}
