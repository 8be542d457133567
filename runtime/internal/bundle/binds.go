package bundle

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/covehq/cove"
	"github.com/covehq/cove/sandbox/driver/bind"
)

// Bind is a directory or file of the host's that is to be mounted at a place of ours, from
// where a runtime program takes it: such programs know names alone, and nobody but the
// daemon can change what this name leads to.
type Bind struct {
	Source   string // by bind.Path
	Place    string
	ReadOnly bool
}

// Mount mounts the source on its place. UnmountBinds undoes it.
func (b Bind) Mount() error { return bind.Mount(b.Source, b.Place, b.ReadOnly) }

// bindsDir is where the places of a bundle are.
func bindsDir(bundle string) string { return filepath.Join(bundle, "mounts") }

// PrepareBinds makes the places for the bind mounts of a spec. It returns the binds, yet to
// be mounted, and the spec with the places for sources.
func PrepareBinds(bundle string, spec *cove.Spec) (*cove.Spec, []Bind, error) {
	var binds []Bind
	placed := *spec
	placed.Mounts = slices.Clone(spec.Mounts)
	for i, mount := range placed.Mounts {
		if mount.Type != cove.MountBind {
			continue
		}
		if !strings.HasPrefix(mount.Source, fmt.Sprintf("/proc/%d/fd/", os.Getpid())) {
			return nil, nil, fmt.Errorf("mount at %s: the source is a name and no descriptor", mount.Target)
		}
		if err := os.MkdirAll(bindsDir(bundle), 0o700); err != nil {
			return nil, nil, err
		}
		place := filepath.Join(bindsDir(bundle), strconv.Itoa(i))
		if err := makePlace(place, mount.Source); err != nil {
			return nil, nil, err
		}
		binds = append(binds, Bind{Source: mount.Source, Place: place, ReadOnly: mount.ReadOnly})
		placed.Mounts[i].Source = place
	}
	return &placed, binds, nil
}

// PlaceBinds is PrepareBinds for who mounts the binds at once. Also on error, UnmountBinds
// undoes it.
func PlaceBinds(bundle string, spec *cove.Spec) (*cove.Spec, error) {
	placed, binds, err := PrepareBinds(bundle, spec)
	if err != nil {
		return nil, err
	}
	for _, b := range binds {
		if err := b.Mount(); err != nil {
			return nil, err
		}
	}
	return placed, nil
}

// makePlace makes an empty directory or file, as the source is.
func makePlace(place, source string) error {
	var st unix.Stat_t
	if err := unix.Stat(source, &st); err != nil {
		return &os.PathError{Op: "stat", Path: source, Err: err}
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return os.Mkdir(place, 0o700)
	}
	return os.WriteFile(place, nil, 0o600)
}

// UnmountBinds undoes PrepareBinds and what was mounted. It removes places one by one, and
// never what is in them: that is the host's, should it still be mounted.
func UnmountBinds(bundle string) error {
	places, err := os.ReadDir(bindsDir(bundle))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var errs []error
	for _, place := range places {
		path := filepath.Join(bindsDir(bundle), place.Name())
		errs = append(errs, UnmountAll(path), os.Remove(path))
	}
	return errors.Join(append(errs, os.Remove(bindsDir(bundle)))...)
}
