package file

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/covehq/cove"
	wire "github.com/covehq/cove/guest/wire/gen/filesystem"
)

// maxEntries bounds one listing.
const maxEntries = 50_000

// metadataPrefix is before the names of the extended attributes that hold metadata.
const metadataPrefix = "user.e2b."

// Namer names owners.
type Namer interface {
	UserName(uid uint32) string
	GroupName(gid uint32) string
}

// Describe returns the entry of what is at path; a symlink is not followed, but has the
// type of what it leads to.
func Describe(namer Namer, path string) (*wire.EntryInfo, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	entry := &wire.EntryInfo{
		Name:         filepath.Base(path),
		Path:         path,
		Type:         typeOf(info.Mode()),
		Size:         info.Size(),
		Mode:         permissionBits(info.Mode()),
		Permissions:  permissionText(info.Mode()),
		ModifiedTime: timestamppb.New(info.ModTime()),
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		entry.Owner, entry.Group = namer.UserName(st.Uid), namer.GroupName(st.Gid)
	}
	switch {
	case info.Mode()&os.ModeSymlink != 0:
		describeLink(entry, path)
	case info.Mode().IsRegular():
		entry.Metadata = metadata(path)
	}
	return entry, nil
}

func describeLink(entry *wire.EntryInfo, path string) {
	target, err := filepath.EvalSymlinks(path)
	if err != nil {
		target, _ = os.Readlink(path)
		entry.SymlinkTarget = &target
		return
	}
	entry.SymlinkTarget = &target
	if info, err := os.Lstat(target); err == nil && (info.IsDir() || info.Mode().IsRegular()) {
		entry.Type = typeOf(info.Mode())
	}
}

func typeOf(mode os.FileMode) wire.FileType {
	switch {
	case mode.IsRegular():
		return wire.FileType_FILE_TYPE_FILE
	case mode.IsDir():
		return wire.FileType_FILE_TYPE_DIRECTORY
	case mode&os.ModeSymlink != 0:
		return wire.FileType_FILE_TYPE_SYMLINK
	}
	return wire.FileType_FILE_TYPE_UNSPECIFIED
}

// permissionBits returns the bits that chmod takes.
func permissionBits(mode os.FileMode) uint32 {
	bits := uint32(mode.Perm())
	for flag, bit := range map[os.FileMode]uint32{os.ModeSetuid: 0o4000, os.ModeSetgid: 0o2000, os.ModeSticky: 0o1000} {
		if mode&flag != 0 {
			bits |= bit
		}
	}
	return bits
}

// permissionText returns the permissions as ls -l shows them.
func permissionText(mode os.FileMode) string {
	text := []byte("-" + mode.Perm().String()[1:])
	switch {
	case mode.IsDir():
		text[0] = 'd'
	case mode&os.ModeSymlink != 0:
		text[0] = 'l'
	case mode&os.ModeNamedPipe != 0:
		text[0] = 'p'
	case mode&os.ModeSocket != 0:
		text[0] = 's'
	case mode&os.ModeCharDevice != 0:
		text[0] = 'c'
	case mode&os.ModeDevice != 0:
		text[0] = 'b'
	}
	special := func(at int, flag os.FileMode, letter byte) {
		if mode&flag == 0 {
			return
		}
		if text[at] != 'x' {
			letter -= 'a' - 'A'
		}
		text[at] = letter
	}
	special(3, os.ModeSetuid, 's')
	special(6, os.ModeSetgid, 's')
	special(9, os.ModeSticky, 't')
	return string(text)
}

// metadata returns the extended attributes that an upload set.
func metadata(path string) map[string]string {
	const most = 16 << 10
	var names [most]byte
	n, err := unix.Llistxattr(path, names[:])
	if err != nil || n <= 0 {
		return nil
	}
	var found map[string]string
	var value [maxMetadata]byte
	for name := range strings.SplitSeq(string(names[:n]), "\x00") {
		key, ok := strings.CutPrefix(name, metadataPrefix)
		if !ok {
			continue
		}
		size, err := unix.Lgetxattr(path, name, value[:])
		if err != nil {
			continue
		}
		if found == nil {
			found = map[string]string{}
		}
		found[key] = strings.ToValidUTF8(string(value[:size]), "?")
	}
	return found
}

// listing collects the entries below a directory.
type listing struct {
	namer   Namer
	entries []*wire.EntryInfo
}

// read lists a directory, depth levels deep. A directory below it that can't be read is
// listed without what is in it, as find does.
func (l *listing) read(path string, depth uint32) error {
	names, err := l.names(path)
	if err != nil {
		return err
	}
	slices.Sort(names)
	for _, name := range names {
		entry, err := Describe(l.namer, filepath.Join(path, name))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if !Sendable(entry) {
			continue
		}
		l.entries = append(l.entries, entry)
		if depth < 2 || entry.SymlinkTarget != nil || entry.Type != wire.FileType_FILE_TYPE_DIRECTORY {
			continue
		}
		var refused *cove.Error
		if err := l.read(entry.Path, depth-1); errors.As(err, &refused) {
			return err
		}
	}
	return nil
}

// Sendable reports whether an entry can be sent, and corrects what need not be exact.
// The wire's text is UTF-8, a file's name is any bytes: such a file is reached by archives.
func Sendable(entry *wire.EntryInfo) bool {
	if entry.SymlinkTarget != nil {
		target := strings.ToValidUTF8(*entry.SymlinkTarget, "?")
		entry.SymlinkTarget = &target
	}
	return strings.ToValidUTF8(entry.Path, "") == entry.Path
}

// names returns the names in a directory, or an error that they are too many.
func (l *listing) names(path string) ([]string, error) {
	dir, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	var names []string
	for {
		some, err := dir.Readdirnames(1024)
		names = append(names, some...)
		if len(l.entries)+len(names) > maxEntries {
			return nil, cove.Errorf(cove.TooLarge, "", "", fmt.Sprintf("there are more than %d entries", maxEntries),
				"list with a smaller depth, or a directory further down")
		}
		if err == io.EOF {
			return names, nil
		}
		if err != nil {
			return nil, err
		}
	}
}
