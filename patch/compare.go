package patch

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"maps"
	"slices"

	"github.com/covehq/cove"
)

// Changes is what makes one Tree of another.
type Changes struct {
	before, after *Tree
	list          []cove.Change
}

// Compare compares a directory before and after. Names, types, permission bits, content
// and targets of symlinks count; times and owners don't. A file that was deleted while
// one with the same content was added is one that was renamed.
func Compare(before, after *Tree) *Changes {
	c := &Changes{before: before, after: after}
	moved := renames(before, after)
	sources := map[string]bool{}
	for _, from := range moved {
		sources[from] = true
	}
	names := slices.Collect(maps.Keys(before.entries))
	for name := range after.entries {
		if _, ok := before.entries[name]; !ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		old, had := before.entries[name]
		new, has := after.entries[name]
		change := cove.Change{Path: name}
		switch {
		case !has && sources[name], had && has && old.same(new):
			continue
		case !has:
			change.Kind, change.Type, change.Mode = cove.ChangeDeleted, old.kind, octal(old.mode)
		case !had && moved[name] != "":
			change.Kind, change.From, change.Type, change.Mode = cove.ChangeRenamed, moved[name], new.kind, octal(new.mode)
		case !had:
			change.Kind, change.Type, change.Mode = cove.ChangeAdded, new.kind, octal(new.mode)
		default:
			change.Kind, change.Type, change.Mode = cove.ChangeModified, new.kind, octal(new.mode)
		}
		c.list = append(c.list, change)
	}
	return c
}

// List returns the changes, sorted by path. It is not to be changed.
func (c *Changes) List() []cove.Change { return c.list }

// same reports whether nothing that counts has changed. A symlink's mode means nothing,
// and its target is its content.
func (e entry) same(other entry) bool {
	return e.kind == other.kind && e.mode == other.mode && e.sameContent(other)
}

func (e entry) sameContent(other entry) bool {
	return e.size == other.size && e.sum == other.sum && e.link == other.link
}

// renames returns the old names of files that got new ones, by these. Of several files
// with the same content, the first goes with the first.
func renames(before, after *Tree) map[string]string {
	gone := map[[sha256.Size]byte][]string{}
	for _, name := range slices.Sorted(maps.Keys(before.entries)) {
		old := before.entries[name]
		if _, ok := after.entries[name]; !ok && old.kind == cove.TypeFile && old.size > 0 {
			gone[old.sum] = append(gone[old.sum], name)
		}
	}
	moved := map[string]string{}
	if len(gone) == 0 {
		return moved
	}
	for _, name := range slices.Sorted(maps.Keys(after.entries)) {
		new := after.entries[name]
		if _, ok := before.entries[name]; ok || new.kind != cove.TypeFile {
			continue
		}
		if from := gone[new.sum]; len(from) > 0 {
			moved[name], gone[new.sum] = from[0], from[1:]
		}
	}
	return moved
}

func octal(mode fs.FileMode) string { return fmt.Sprintf("%04o", mode.Perm()) }
