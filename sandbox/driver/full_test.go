package driver_test

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"testing"

	"github.com/covehq/cove"
	"github.com/covehq/cove/sandbox/driver"
)

func TestAFullDiskIsKnownByNumberAndByWord(t *testing.T) {
	for name, test := range map[string]struct {
		err  error
		want cove.Code
	}{
		"of a file":         {fmt.Errorf("disk: %w", &os.PathError{Op: "write", Path: "/x", Err: syscall.ENOSPC}), cove.NoSpace},
		"of a user's quota": {&os.PathError{Op: "write", Path: "/x", Err: syscall.EDQUOT}, cove.NoSpace},
		"of an engine":      {errors.New("the engine did not create the sandbox: mkdir /var/lib/docker/x: no space left on device"), cove.NoSpace},
		"of a program":      {errors.New("mkfs.ext4: exit status 1: No space left on device"), cove.NoSpace},
		"of another kind":   {syscall.EIO, cove.Internal},
		"with a code":       {&cove.Error{Code: cove.TooLarge, Err: syscall.ENOSPC}, cove.TooLarge},
		"none":              {nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			err := driver.Full(test.err)
			if got := cove.CodeOf(err); got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
			if test.want == cove.NoSpace && (cove.HintOf(err) == "" || !errors.Is(err, test.err)) {
				t.Errorf("got %v (%s), want the cause and what to do", err, cove.HintOf(err))
			}
		})
	}
}
