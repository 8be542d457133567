package guest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"os"

	"golang.org/x/sys/unix"
)

// volumesVariable lists, as a JSON array of paths, the named volumes that can be written to.
const volumesVariable = "COVE_VOLUMES"

// openVolumes lets everybody in the sandbox write to volumes that nobody has used yet: an
// engine makes them root's, as whom no command runs where the kernel is the machine's. A
// volume that has something in it, or another owner or mode, is left as it is.
func openVolumes(l *log.Logger) error {
	list, wanted := os.LookupEnv(volumesVariable)
	if !wanted || list == "" {
		return nil
	}
	if err := os.Unsetenv(volumesVariable); err != nil {
		return err
	}
	var paths []string
	if err := json.Unmarshal([]byte(list), &paths); err != nil {
		return fmt.Errorf("read %s: %w", volumesVariable, err)
	}
	for _, path := range paths {
		if err := openVolume(path); err != nil {
			l.Printf("volume %s stays root's: %v", path, err)
		}
	}
	return nil
}

func openVolume(path string) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	dir := os.NewFile(uintptr(fd), path)
	defer dir.Close()
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return err
	}
	if stat.Uid != 0 || stat.Mode&0o7777 != 0o755 {
		return nil
	}
	if _, err := dir.Readdirnames(1); !errors.Is(err, io.EOF) {
		return err
	}
	return unix.Fchmod(fd, 0o1777)
}
