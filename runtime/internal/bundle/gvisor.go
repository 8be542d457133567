package bundle

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
)

// GvisorFlags are the flags of gVisor's program for every sandbox. What gVisor would allow
// by an annotation or a default is said again: the defaults are upstream's to change.
var GvisorFlags = []string{
	"--network=none", "--platform=systrap", "--host-uds=none", "--host-fifo=none", "--character-device-policy=emulated-only",
	"--net-raw", "--allow-packet-socket-write=false", "--oci-seccomp=false", "--allow-flag-override=false",
	"--allow-suid=false", "--fdlimit=16384", "--control-rpc-stop-timeout=2s",
}

// GvisorState reports whether a file in gVisor's state directory is about a container. No
// name of a container may be the beginning of another's.
func GvisorState(file, container string) bool {
	for _, prefix := range []string{container + ".", container + "_", "runsc-" + container + "."} {
		if strings.HasPrefix(file, prefix) {
			return true
		}
	}
	return false
}

// ReleaseGvisor detaches what gVisor keeps mounted in its state directory, root, from one
// sandbox to the next, an empty network namespace. It does so when no sandbox is left: each
// has an entry in bundles.
func ReleaseGvisor(bundles, root string) error {
	if left, err := os.ReadDir(bundles); len(left) > 0 || err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	namespace := filepath.Join(root, "null-netns")
	if err := UnmountAll(namespace); err != nil {
		return err
	}
	err := os.Remove(namespace)
	if errors.Is(err, os.ErrNotExist) { // never used
		return nil
	}
	return err
}
