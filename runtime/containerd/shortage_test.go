package containerd

import (
	"errors"
	"path/filepath"
	"testing"

	"github.com/covehq/cove"
	"github.com/covehq/cove/sandbox/driver"
	"github.com/covehq/cove/sandbox/drivertest"
)

// onSmallDisk has every variant meet a full disk at a directory of the engine's: what runs goes
// on and can be destroyed, and what would be new is refused.
func onSmallDisk(t *testing.T, e *realEngine, bin, dir string) {
	for _, variant := range fleet {
		t.Run("containerd:"+variant, func(t *testing.T) {
			d := e.driver(bin, variant)
			m := create(t, d, "stays")
			talk := drivertest.StartTalk(t, m)
			free := drivertest.FillDisk(t, filepath.Join(e.dir, dir))
			spec := cove.Spec{}.WithDefaults()
			if full, err := d.Create(t.Context(), "full", &spec); err == nil {
				t.Error("Create works on a full disk: the test shows nothing")
				_ = full.Destroy(t.Context())
			} else if err = driver.Full(err); !errors.Is(err, cove.NoSpace) || cove.HintOf(err) == "" {
				t.Errorf("Create: got %v, want that there is no space, and what to do", err)
			}
			talk.GoesOn(t, "while the disk is full")
			if ids, err := d.List(t.Context()); err != nil {
				t.Errorf("List while the disk is full: got %v, %v", ids, err)
			}
			// The engine can't write down what it forgets, should its file have to grow.
			if err := driver.Full(m.Destroy(t.Context())); err != nil && (dir != "root" || !errors.Is(err, cove.NoSpace)) {
				t.Errorf("Destroy while the disk is full: %v", err)
			}
			talk.Breaks(t, "whose sandbox was destroyed while the disk is full")
			free()
			if err := m.Destroy(t.Context()); err != nil {
				t.Errorf("Destroy with room again: %v", err)
			}
			if err := create(t, d, "after").Destroy(t.Context()); err != nil {
				t.Error(err)
			}
			swept(t, d)
		})
	}
}

func TestT92AFullDiskOfTheEnginesFailsCreateAlone(t *testing.T) {
	t.Parallel()
	bin := binaries(t)
	for _, dir := range []string{"root", "state"} {
		t.Run(dir, func(t *testing.T) {
			e := placeEngine(t)
			drivertest.SmallDisk(t, filepath.Join(e.dir, dir), 64*cove.MiB)
			e.start()
			onSmallDisk(t, e, bin, dir)
		})
	}
}

func TestT92AFullDiskOfOursFailsCreateAlone(t *testing.T) {
	t.Parallel()
	bin := binaries(t)
	for _, dir := range []string{"cove", "data"} {
		t.Run(dir, func(t *testing.T) {
			e := placeEngine(t)
			drivertest.SmallDisk(t, filepath.Join(e.dir, dir), 64*cove.MiB)
			e.start()
			onSmallDisk(t, e, bin, dir)
		})
	}
}

func TestAnImageThatIsMissingLeavesNothing(t *testing.T) {
	t.Parallel()
	e := startEngine(t)
	d := e.driver(binaries(t), "")
	for _, reference := range []string{"rootfs:" + filepath.Join(e.dir, "none"), "oci:" + filepath.Join(e.dir, "none"), "127.0.0.1:1/nobody:1"} {
		spec := cove.Spec{Image: reference, Pull: cove.PullNever}.WithDefaults()
		if _, err := d.Create(t.Context(), "missing", &spec); !errors.Is(err, cove.NotFound) || cove.HintOf(err) == "" {
			t.Errorf("%s: got %v (%s), want that it is not found, and what to do", reference, err, cove.HintOf(err))
		}
	}
	swept(t, d)
}
