package patch

import (
	"archive/tar"
	"compress/gzip"
	"io"
	"path"
	"strings"

	"github.com/covehq/cove"
)

// WriteArchive writes a gzipped tar of what is new: files, directories and symlinks that
// were added, renamed or modified, as they are afterwards. With below, it has only what
// is in that directory, named relative to it. It reports how many entries it has.
func (c *Changes) WriteArchive(w io.Writer, below string) (int, error) {
	packed := gzip.NewWriter(w)
	archive := tar.NewWriter(packed)
	count := 0
	for _, change := range c.list {
		name, ok := relative(below, change.Path)
		if !ok || change.Kind == cove.ChangeDeleted {
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

// relative returns a name as it is below a directory.
func relative(below, name string) (string, bool) {
	below = path.Clean(below)
	if below == "." {
		return name, true
	}
	rest, ok := strings.CutPrefix(name, below+"/")
	return rest, ok
}
