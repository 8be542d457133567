package bundle

import (
	"fmt"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/covehq/cove"
	"github.com/covehq/cove/image"
)

// volumes returns what is mounted on the volumes of an image: an empty directory in memory
// with the owner that the image gave it, unless the spec has its own mount there.
func volumes(of []image.Volume, spec *cove.Spec) []specs.Mount {
	var mounts []specs.Mount
	for _, volume := range of {
		if slices.ContainsFunc(spec.Mounts, func(m cove.Mount) bool { return m.Target == volume.Path }) {
			continue
		}
		mounts = append(mounts, tmpfs(volume.Path, spec.Limits.Memory/2,
			fmt.Sprintf("mode=%04o", volume.Mode), fmt.Sprintf("uid=%d", volume.UID), fmt.Sprintf("gid=%d", volume.GID)))
	}
	return mounts
}
