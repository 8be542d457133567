package life

import (
	"encoding/json"
	"fmt"

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
