// Package archive moves trees of files in and out as tar. What it packs has exact sizes
// although files change meanwhile; what it unpacks may be hostile.
package archive

import (
	"errors"

	"github.com/covehq/cove"
	"github.com/covehq/cove/guest/disk"
)

// Access is how the files of a tree are reached.
type Access struct {
	// As calls f with the rights of the user whom the tree belongs to; f is short.
	As func(f func() error) error
	// Disk is what they are read from and written to.
	Disk *disk.Disk
}

// maxEntries bounds the entries of one archive.
const maxEntries = 1 << 20

func invalid(message string) error {
	return &cove.Error{Code: cove.Invalid, Err: errors.New(message), Hint: "make the archive anew"}
}
