package driver

import (
	"context"
	"io"

	"github.com/covehq/cove"
)

// ImageKeeper is implemented by Imagers that keep images in a store of their own, where
// people look after them. Its methods may be called concurrently with each other and with
// Image and Create.
type ImageKeeper interface {
	// Images describes what is in the store, by reference. An image that no name leads to
	// any more has its digest for a reference.
	Images(ctx context.Context) ([]cove.Image, error)

	// ImportImage puts the image of an archive into the store under a name: one that
	// docker save or an OCI tool wrote, or a tar of a root filesystem. The error is
	// cove.Invalid for anything else, and then nothing is left behind.
	ImportImage(ctx context.Context, name string, archive io.Reader, progress func(cove.PullProgress)) (*cove.Image, error)

	// RemoveImage takes the name from an image, and removes it with its last name. used
	// says whether a living sandbox was made of the image with this digest; such an image
	// stays, and the error is cove.Conflict. The error is cove.NotFound without the image.
	RemoveImage(ctx context.Context, reference string, used func(digest string) bool) error

	// PruneImages removes the images that are not used, and what pulls have left for the
	// next one, and returns the images that it removed.
	PruneImages(ctx context.Context, used func(digest string) bool) ([]cove.Image, error)
}
