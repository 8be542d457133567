// Package patch provides what changed between two moments of a directory, from tars of
// it: as a list, as an archive of what is new, and as a patch that git apply takes.
//
// A tar is read once and may be hostile; what it holds is bounded in bytes, entries and
// names. Directories named .git count as absent: what is in them is executed by the git
// of whoever takes the changes over.
package patch

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/covehq/cove"
)

// The bounds of one Tree.
const (
	MaxBytes   = 512 << 20 // of all its files together
	MaxEntries = 100_000
	maxName    = 4096     // PATH_MAX
	maxNames   = 32 << 20 // of all its names and the targets of its links
	maxStream  = 4 << 30  // of its tar, with what is skipped
)

// Tree is the files of a directory at one moment. Their content is in the file that Read
// was given.
type Tree struct {
	entries map[string]entry
	spool   io.ReaderAt
}

// entry is a file, a directory, or a symlink.
type entry struct {
	kind   cove.FileType
	mode   fs.FileMode // permission bits
	size   int64
	sum    [sha256.Size]byte
	offset int64  // of the content in the spool
	link   string // target of a symlink
}

// Read reads a tar and writes the content of its files to spool, which is empty and the
// Tree's from then on, though the caller's to close. The error is cove.TooLarge for what
// exceeds the bounds.
func Read(ctx context.Context, r io.Reader, spool *os.File) (*Tree, error) {
	reading := &reader{ctx: ctx, spool: spool, tree: &Tree{entries: map[string]entry{}, spool: spool}}
	stream := &io.LimitedReader{R: r, N: maxStream}
	archive := tar.NewReader(stream)
	for {
		header, err := archive.Next()
		if err == io.EOF {
			break
		}
		if err == nil {
			err = reading.entry(header, archive)
		}
		switch {
		case err != nil && stream.N <= 0:
			return nil, tooLarge(fmt.Sprintf("the archive of the directory is larger than %v", cove.Bytes(maxStream)))
		case errors.Is(err, tar.ErrHeader):
			return nil, broken("what it says is not tar")
		case err != nil:
			return nil, err
		}
	}
	// To its end, where a stream that was cut off says so.
	if _, err := io.Copy(io.Discard, stream); err != nil {
		return nil, err
	}
	return reading.tree, nil
}

// Len returns the number of files, directories and symlinks.
func (t *Tree) Len() int { return len(t.entries) }

// content returns what is in a regular file.
func (t *Tree) content(e entry) io.Reader { return io.NewSectionReader(t.spool, e.offset, e.size) }

// reader reads one Tree.
type reader struct {
	ctx     context.Context
	spool   *os.File
	tree    *Tree
	written int64
	names   int
}

func (r *reader) entry(h *tar.Header, content io.Reader) error {
	if err := r.ctx.Err(); err != nil {
		return err
	}
	name := path.Clean(h.Name)
	if name == "." || h.Typeflag == tar.TypeXGlobalHeader || private(name) {
		return nil
	}
	if !filepath.IsLocal(name) || len(name) > maxName || len(h.Linkname) > maxName || strings.ContainsRune(name+h.Linkname, 0) {
		return broken("it has a name that no file below a directory has")
	}
	if _, ok := r.tree.entries[name]; ok {
		return broken("it has a name twice")
	}
	if len(r.tree.entries) == MaxEntries {
		return tooLarge(fmt.Sprintf("the directory has more than %d entries", MaxEntries))
	}
	if r.names += len(name) + len(h.Linkname); r.names > maxNames {
		return tooLarge(fmt.Sprintf("the names in the directory are longer than %v together", cove.Bytes(maxNames)))
	}
	e := entry{mode: fs.FileMode(h.Mode) & fs.ModePerm}
	switch h.Typeflag {
	case tar.TypeReg:
		e.kind = cove.TypeFile
		if err := r.file(&e, content); err != nil {
			return err
		}
	case tar.TypeDir:
		e.kind = cove.TypeDirectory
	case tar.TypeSymlink:
		e.kind, e.link, e.mode = cove.TypeSymlink, h.Linkname, fs.ModePerm
	default:
		return broken("it has something that is neither file, directory nor symlink")
	}
	r.tree.entries[name] = e
	return nil
}

// file spools the content of a regular file.
func (r *reader) file(e *entry, content io.Reader) error {
	hash := sha256.New()
	e.offset = r.written
	left := MaxBytes - r.written
	n, err := io.Copy(io.MultiWriter(r.spool, hash), &io.LimitedReader{R: content, N: left + 1})
	if err != nil {
		return err
	}
	if n > left {
		return tooLarge(fmt.Sprintf("the files in the directory are larger than %v together", cove.Bytes(MaxBytes)))
	}
	r.written += n
	e.size = n
	hash.Sum(e.sum[:0])
	return nil
}

// private reports whether a name is that of a repository's own files, in any spelling
// that a file system may take for it.
func private(name string) bool {
	for part := range strings.SplitSeq(name, "/") {
		if strings.EqualFold(part, ".git") || strings.EqualFold(part, "git~1") {
			return true
		}
	}
	return false
}

func tooLarge(message string) error {
	return cove.Errorf(cove.TooLarge, "", "", message, "work in a smaller directory, or create a sandbox and move files one by one")
}

func broken(message string) error {
	return cove.Errorf(cove.Unavailable, "", "", "the sandbox sent an archive that is broken: "+message, "try again")
}
