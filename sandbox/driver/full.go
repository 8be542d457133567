package driver

import (
	"errors"
	"strings"
	"syscall"

	"github.com/covehq/cove"
)

// Full returns err as one that is cove.NoSpace where it says that a disk is full: this
// machine's, or that of an engine or of a program, which say so in words. Any other error
// is returned as it is, and so is one that has a code already.
func Full(err error) error {
	if cove.CodeOf(err) != cove.Internal {
		return err
	}
	if !errors.Is(err, syscall.ENOSPC) && !errors.Is(err, syscall.EDQUOT) && !strings.Contains(strings.ToLower(err.Error()), "no space left on device") {
		return err
	}
	return &cove.Error{Code: cove.NoSpace, Err: err, Hint: "free space where cove and the runtime keep their data, as with cove image prune and docker system prune"}
}
