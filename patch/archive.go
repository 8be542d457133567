package patch

import (
	"archive/tar"
	"compress/gzip"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/covehq/cove"
)

// Selection says which changes go into an archive. The zero value is all.
type Selection struct {
	Below string   // only what is in this directory, named relative to it
	Files bool     // only regular files
	Not   []string // nothing that has one of these names, or is in such a directory
}

// name returns the name that a change gets in the archive, and false for none.
func (s Selection) name(change cove.Change) (string, bool) {
	if change.Kind == cove.ChangeDeleted || s.Files && change.Type != cove.TypeFile {
		return "", false
	}
	for part := range strings.SplitSeq(change.Path, "/") {
		if slices.Contains(s.Not, part) {
			return "", false
		}
	}
	below := path.Clean(s.Below)
	if below == "." {
		return change.Path, true
	}
	return strings.CutPrefix(change.Path, below+"/")
}

// WriteArchive writes a gzipped tar of what is new: files, directories and symlinks that
// were added, renamed or modified, as they are afterwards. It reports how many entries the
// archive has.
func (c *Changes) WriteArchive(w io.Writer, selection Selection) (int, error) {
	packed := gzip.NewWriter(w)
	archive := tar.NewWriter(packed)
	count := 0
	for _, change := range c.list {
		name, ok := selection.name(change)
		if !ok {
			continue
		}
		if err := c.pack(archive, name, c.after.entries[change.Path]); err != nil {
			return count, err
		}
		count++
	}
	if err := archive.Close(); err != nil {
		return count, err
	}
	return count, packed.Close()
}

func (c *Changes) pack(archive *tar.Writer, name string, e entry) error {
	header := &tar.Header{Name: name, Mode: int64(e.mode), Size: e.size, Typeflag: tar.TypeReg, Format: tar.FormatPAX}
	switch e.kind {
	case cove.TypeDirectory:
		header.Typeflag, header.Name = tar.TypeDir, name+"/"
	case cove.TypeSymlink:
		header.Typeflag, header.Linkname = tar.TypeSymlink, e.link
	}
	if err := archive.WriteHeader(header); err != nil {
		return err
	}
	if e.kind != cove.TypeFile {
		return nil
	}
	_, err := io.Copy(archive, c.after.content(e))
	return err
}
