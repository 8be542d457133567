// Package file provides the files of a sandbox over the wire: filesystem.Filesystem and
// HTTP /files, as E2B's agent does, and archives.
//
// Every access to a file is made with the rights of the user that the request names; the
// kernel decides, so that it does not matter what programs inside do to a path meanwhile.
package file

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/covehq/cove"
	"github.com/covehq/cove/guest/account"
	"github.com/covehq/cove/guest/disk"
	wire "github.com/covehq/cove/guest/wire/gen/filesystem"
)

// Service serves files.
type Service struct {
	book *account.Book
	disk *disk.Disk
}

// New returns a Service for the users in book.
func New(book *account.Book) *Service { return &Service{book: book, disk: disk.New()} }

// Place is a path as a user means it.
type Place struct {
	Account account.Account
	Path    string // absolute and clean
}

// At resolves a path of a request: relative to the home of the user that it names.
func At(book *account.Book, header http.Header, path string) (Place, error) {
	a, err := book.Of(header)
	if err != nil {
		return Place{}, err
	}
	return at(a, path)
}

func at(a account.Account, path string) (Place, error) {
	if strings.ContainsRune(path, 0) {
		return Place{}, cove.Errorf(cove.Invalid, "", "", fmt.Sprintf("path %q contains a zero byte", path), "correct it")
	}
	return Place{a, a.Resolve(path)}, nil
}

// Stat describes a file.
func (s *Service) Stat(_ context.Context, header http.Header, request *wire.StatRequest) (*wire.StatResponse, error) {
	place, err := At(s.book, header, request.Path)
	if err != nil {
		return nil, err
	}
	entry, err := s.describe(place)
	if err != nil {
		return nil, err
	}
	return &wire.StatResponse{Entry: entry}, nil
}

// MakeDir makes a directory and its parents.
func (s *Service) MakeDir(_ context.Context, header http.Header, request *wire.MakeDirRequest) (*wire.MakeDirResponse, error) {
	place, err := At(s.book, header, request.Path)
	if err != nil {
		return nil, err
	}
	err = s.book.As(place.Account, func() error {
		if err := os.MkdirAll(filepath.Dir(place.Path), 0o755); err != nil {
			return err
		}
		return os.Mkdir(place.Path, 0o755)
	})
	if err != nil {
		return nil, Failure(place.Path, err)
	}
	entry, err := s.describe(place)
	if err != nil {
		return nil, err
	}
	return &wire.MakeDirResponse{Entry: entry}, nil
}

// Move renames a file or directory and makes the parents of its new place.
func (s *Service) Move(_ context.Context, header http.Header, request *wire.MoveRequest) (*wire.MoveResponse, error) {
	from, err := At(s.book, header, request.Source)
	if err != nil {
		return nil, err
	}
	to, err := at(from.Account, request.Destination)
	if err != nil {
		return nil, err
	}
	err = s.book.As(from.Account, func() error {
		if _, err := os.Lstat(from.Path); err != nil {
			return err
		}
		if err := os.MkdirAll(filepath.Dir(to.Path), 0o755); err != nil {
			return err
		}
		return os.Rename(from.Path, to.Path)
	})
	if err != nil {
		return nil, Failure(from.Path, err)
	}
	entry, err := s.describe(to)
	if err != nil {
		return nil, err
	}
	return &wire.MoveResponse{Entry: entry}, nil
}

// Remove removes a file, or a directory with everything in it.
func (s *Service) Remove(_ context.Context, header http.Header, request *wire.RemoveRequest) (*wire.RemoveResponse, error) {
	place, err := At(s.book, header, request.Path)
	if err != nil {
		return nil, err
	}
	if place.Path == "/" {
		return nil, cove.Errorf(cove.Invalid, "", "", "the root directory can't be removed", "destroy the sandbox")
	}
	if err := s.book.As(place.Account, func() error { return remove(place.Path) }); err != nil {
		return nil, Failure(place.Path, err)
	}
	return &wire.RemoveResponse{}, nil
}

// remove removes all of a path. Of a file that is mounted, gVisor says that it is no
// directory.
func remove(path string) error {
	err := os.RemoveAll(path)
	if !errors.Is(err, syscall.ENOTDIR) {
		return err
	}
	if info, failed := os.Lstat(path); failed == nil && !info.IsDir() {
		return cove.Errorf(cove.Forbidden, "", path, "a file is mounted there, which can't be removed", "choose another path")
	}
	return err
}

// ListDir lists what is below a directory.
func (s *Service) ListDir(_ context.Context, header http.Header, request *wire.ListDirRequest) (*wire.ListDirResponse, error) {
	place, err := At(s.book, header, request.Path)
	if err != nil {
		return nil, err
	}
	l := &listing{namer: s.book}
	err = s.book.As(place.Account, func() error { return l.read(place.Path, max(request.Depth, 1)) })
	if err != nil {
		return nil, Failure(place.Path, err)
	}
	return &wire.ListDirResponse{Entries: l.entries}, nil
}

// describe returns the entry of what is at a place.
func (s *Service) describe(place Place) (entry *wire.EntryInfo, err error) {
	err = s.book.As(place.Account, func() error {
		entry, err = Describe(s.book, place.Path)
		return err
	})
	return entry, Failure(place.Path, err)
}

// Failure makes the error for a failed access to path. It returns nil for nil.
func Failure(path string, err error) error {
	var ready *cove.Error
	if err == nil {
		return nil
	}
	if errors.As(err, &ready) {
		return ready
	}
	failed := &cove.Error{Code: cove.Internal, ID: path, Err: err}
	is := func(errnos ...syscall.Errno) bool {
		for _, errno := range errnos {
			if errors.Is(err, errno) {
				return true
			}
		}
		return false
	}
	say := func(code cove.Code, format, hint string) {
		failed.Code, failed.Err, failed.Hint = code, fmt.Errorf(format, path), hint
	}
	switch {
	case is(syscall.ENOENT):
		say(cove.NotFound, "path '%s' does not exist", "list its parent directory to see what is there")
	case is(syscall.EROFS):
		say(cove.Forbidden, "path '%s' is on a read-only filesystem", "write below /workspace or /tmp")
	case errors.Is(err, fs.ErrPermission):
		say(cove.Forbidden, "path '%s': permission denied", "choose another path, or a user who may")
	case is(syscall.ENOSPC, syscall.EDQUOT):
		say(cove.NoSpace, "path '%s': no space left", "remove files or create the sandbox with a larger disk limit")
	case is(syscall.EEXIST, syscall.ENOTEMPTY):
		say(cove.Conflict, "path '%s' already exists", "remove it or choose another path")
	case is(syscall.ENOTDIR):
		say(cove.Invalid, "path '%s' is not a directory, or leads through something that is none", "correct it")
	case is(syscall.EISDIR):
		say(cove.Invalid, "path '%s' is a directory", "list it, or read a file in it")
	case is(syscall.ELOOP):
		say(cove.Invalid, "path '%s' leads through too many symlinks", "correct them")
	case is(syscall.ENAMETOOLONG, syscall.EINVAL):
		say(cove.Invalid, "path '%s' is none that the filesystem takes", "shorten or correct it")
	case is(syscall.EXDEV):
		say(cove.Invalid, "path '%s' is on another filesystem than its new place", "copy it and remove the old one")
	case is(syscall.EBUSY):
		say(cove.Conflict, "path '%s' is in use", "try again later")
	case is(syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM):
		say(cove.Exhausted, "path '%s': the sandbox is at a limit", "close files or end processes")
	}
	return failed
}
