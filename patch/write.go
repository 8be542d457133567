package patch

import (
	"bytes"
	"compress/zlib"
	"crypto/sha1" //nolint:gosec // names blobs as git does; nothing is compared by it
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"unicode/utf8"

	udiff "github.com/aymanbagabas/go-udiff"
	"github.com/bluekeyes/go-gitdiff/gitdiff"

	"github.com/covehq/cove"
)

const (
	// maxText is the largest file that is compared by lines; what is larger is treated
	// as binary.
	maxText = 4 << 20
	around  = 3 // unchanged lines around a change
	// maxBlob is the largest file that a patch can carry, for it is held in memory.
	maxBlob = 32 << 20
)

// The modes that git knows.
const (
	modeFile       fs.FileMode = 0o100644
	modeExecutable fs.FileMode = 0o100755
	modeSymlink    fs.FileMode = 0o120000
	noBlob                     = "0000000000000000000000000000000000000000"
)

// WritePatch writes the changes as a patch in git's format, which git apply takes from
// what was before to what is after. A file that is not UTF-8 throughout is binary, so the
// patch is always text. Directories and permission bits other than the owner's x, which
// git does not know, are not in it.
func (c *Changes) WritePatch(w io.Writer) error {
	for _, change := range c.list {
		from := change.Path
		if change.Kind == cove.ChangeRenamed {
			from = change.From
		}
		if err := c.write(w, from, change.Path); err != nil {
			return err
		}
	}
	return nil
}

// CheckPatch reports whether WritePatch can carry every change: a file of more than 32 MiB
// is cove.TooLarge.
func (c *Changes) CheckPatch() error {
	for _, change := range c.list {
		if old, new := c.before.entries[change.Path], c.after.entries[change.Path]; max(old.size, new.size) > maxBlob && !old.same(new) {
			return cove.Errorf(cove.TooLarge, "", change.Path, fmt.Sprintf("the file is larger than %v, too large for a patch", cove.Bytes(maxBlob)),
				"ask for an archive of what changed")
		}
	}
	return nil
}

// write writes what became of one file.
func (c *Changes) write(w io.Writer, from, to string) error {
	old, err := blobOf(c.before, from)
	if err != nil {
		return err
	}
	new, err := blobOf(c.after, to)
	if err != nil {
		return err
	}
	switch {
	case old == nil && new == nil, old != nil && new != nil && from == to && old.mode == new.mode && old.id == new.id:
		return nil
	case old != nil && new != nil && old.mode != new.mode && (old.mode == modeSymlink || new.mode == modeSymlink):
		// Another type of file: git deletes the one and makes the other.
		if err := diff(w, from, to, old, nil); err != nil {
			return err
		}
		return diff(w, from, to, nil, new)
	}
	return diff(w, from, to, old, new)
}

// blob is a file or symlink as git has it.
type blob struct {
	mode    fs.FileMode
	content []byte
	id      string
}

// blobOf returns the blob of a name, nil where there is none.
func blobOf(t *Tree, name string) (*blob, error) {
	e, ok := t.entries[name]
	if !ok || e.kind == cove.TypeDirectory {
		return nil, nil
	}
	b := &blob{mode: modeFile}
	switch {
	case e.kind == cove.TypeSymlink:
		b.mode, b.content = modeSymlink, []byte(e.link)
	default:
		if e.mode&0o100 != 0 {
			b.mode = modeExecutable
		}
		var err error
		if b.content, err = io.ReadAll(t.content(e)); err != nil {
			return nil, err
		}
	}
	hash := sha1.New() //nolint:gosec // see above
	fmt.Fprintf(hash, "blob %d\x00", len(b.content))
	hash.Write(b.content)
	b.id = hex.EncodeToString(hash.Sum(nil))
	return b, nil
}

// diff writes one entry of the patch; one of old and new may be nil.
func diff(w io.Writer, from, to string, old, new *blob) error {
	file := &gitdiff.File{OldOIDPrefix: noBlob, NewOIDPrefix: noBlob}
	var before, after []byte
	if old != nil {
		file.OldName, file.OldMode, file.OldOIDPrefix, before = from, old.mode, old.id, old.content
	}
	if new != nil {
		file.NewName, file.NewMode, file.NewOIDPrefix, after = to, new.mode, new.id, new.content
	}
	file.IsNew, file.IsDelete = old == nil, new == nil
	if old != nil && new != nil && from != to {
		file.IsRename, file.Score = true, 100
	}
	if old != nil && new != nil {
		if old.id == new.id {
			file.OldOIDPrefix, file.NewOIDPrefix = "", ""
		}
		if old.mode == new.mode && old.id == new.id {
			file.OldMode, file.NewMode = 0, 0
		}
	}
	var err error
	switch {
	case bytes.Equal(before, after):
	case isText(before) && isText(after):
		file.TextFragments, err = fragments(string(before), string(after))
	default:
		err = binary(file, before, after)
	}
	if err != nil {
		return err
	}
	_, err = io.WriteString(w, tidy(file))
	return err
}

// tidy formats an entry. Where the mode stays, git writes it beside the blobs and nowhere
// else.
func tidy(file *gitdiff.File) string {
	text := file.String()
	if !file.IsNew && !file.IsDelete && file.OldMode != 0 && file.OldMode == file.NewMode {
		text = strings.Replace(text, fmt.Sprintf("old mode %o\nnew mode %o\n", file.OldMode, file.NewMode), "", 1)
	}
	return text
}

func isText(content []byte) bool {
	return len(content) <= maxText && bytes.IndexByte(content, 0) < 0 && utf8.Valid(content)
}

// fragments compares two texts by lines.
func fragments(before, after string) ([]*gitdiff.TextFragment, error) {
	unified, err := udiff.ToUnifiedDiff("", "", before, udiff.Lines(before, after), around)
	if err != nil {
		return nil, err
	}
	list := make([]*gitdiff.TextFragment, 0, len(unified.Hunks))
	for _, hunk := range unified.Hunks {
		fragment := &gitdiff.TextFragment{OldPosition: int64(hunk.FromLine), NewPosition: int64(hunk.ToLine)}
		for _, line := range hunk.Lines {
			op := gitdiff.OpContext
			switch line.Kind {
			case udiff.Delete:
				op = gitdiff.OpDelete
			case udiff.Insert:
				op = gitdiff.OpAdd
			}
			if op != gitdiff.OpAdd {
				fragment.OldLines++
			}
			if op != gitdiff.OpDelete {
				fragment.NewLines++
			}
			fragment.Lines = append(fragment.Lines, gitdiff.Line{Op: op, Line: line.Content})
		}
		// An empty side is at the line before it.
		if fragment.OldLines == 0 {
			fragment.OldPosition--
		}
		if fragment.NewLines == 0 {
			fragment.NewPosition--
		}
		list = append(list, fragment)
	}
	return list, nil
}

// binary carries a file whole, in both directions, so that the patch can be reversed.
func binary(file *gitdiff.File, before, after []byte) error {
	file.IsBinary = true
	var err error
	if file.BinaryFragment, err = literal(after); err != nil {
		return err
	}
	file.ReverseBinaryFragment, err = literal(before)
	return err
}

func literal(content []byte) (*gitdiff.BinaryFragment, error) {
	var packed bytes.Buffer
	w := zlib.NewWriter(&packed)
	if _, err := w.Write(content); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return &gitdiff.BinaryFragment{Method: gitdiff.BinaryPatchLiteral, Size: int64(len(content)), RawData: packed.Bytes()}, nil
}
