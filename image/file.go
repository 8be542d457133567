package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/erofs/go-erofs"
)

// A root filesystem in one file has owners of its own, whoever made it: an ordinary user's
// trees belong to that user whole, and so would, inside a sandbox, the system's files to
// the sandbox's user.

// filePrefix begins the names of root filesystems in one file, which go on with the name of
// the tree.
const filePrefix = "file-"

// File returns a file that is the EROFS filesystem of what is in root.Over and root.Dir
// together, made once. Everything in it is root's but the places that are the sandbox's
// user's in every image. It is "" for a tree that is not the store's, and so may change.
func (s *Store) File(ctx context.Context, root *Root) (string, error) {
	if filepath.Dir(root.Dir) != s.dir {
		return "", nil
	}
	name := filePrefix + filepath.Base(root.Dir)
	layers := []string{root.Dir}
	if root.Over != "" {
		name += "+" + filepath.Base(root.Over)
		layers = []string{root.Over, root.Dir}
	}
	dir, err := s.derive(ctx, name, func(dir string) error { return writeFile(ctx, filepath.Join(dir, fileName), layers) })
	if err != nil {
		return "", diskError(err)
	}
	return filepath.Join(dir, fileName), nil
}

const fileName = "root.erofs"

// treeOf returns the name of the tree that a file is of.
func treeOf(name string) string {
	tree, _, _ := strings.Cut(strings.TrimSuffix(strings.TrimPrefix(name, filePrefix), ".lock"), "+")
	return tree
}

// writeFile makes an EROFS filesystem of trees, the topmost first.
func writeFile(ctx context.Context, path string, layers []string) error {
	out, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o644)
	if err != nil {
		return err
	}
	defer out.Close()
	w := &fileWriter{Writer: erofs.Create(out, erofs.WithTempDir(filepath.Dir(path))), kinds: map[string]fs.FileMode{}}
	for _, layer := range layers {
		if err := w.add(ctx, layer); err != nil {
			return err
		}
	}
	if err := w.Close(); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return errors.Join(out.Chmod(0o644), out.Close())
}

type fileWriter struct {
	*erofs.Writer
	kinds map[string]fs.FileMode // of what is there, by its name
}

// add adds what is in a tree and not hidden by an earlier one.
func (w *fileWriter) add(ctx context.Context, layer string) error {
	return filepath.WalkDir(layer, func(path string, entry fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(strings.TrimPrefix(path, layer), "/")
		if kind, there := w.kinds[name]; there {
			if entry.IsDir() && !kind.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		w.kinds[name] = info.Mode().Type()
		return w.entry(path, "/"+name, info)
	})
}

// entry adds one file, directory or link. Of other kinds there are none in trees of ours.
func (w *fileWriter) entry(path, name string, info fs.FileInfo) error {
	switch info.Mode().Type() {
	case fs.ModeDir:
		if err := w.Mkdir(name, info.Mode().Perm()); err != nil {
			return err
		}
	case fs.ModeSymlink:
		target, err := os.Readlink(path)
		if err != nil {
			return err
		}
		if err := w.Symlink(target, name); err != nil {
			return err
		}
	case 0:
		if err := w.content(path, name); err != nil {
			return err
		}
	default:
		return nil
	}
	if info.Mode().Type() != fs.ModeSymlink {
		if err := w.Chmod(name, info.Mode()); err != nil {
			return err
		}
	}
	owner := ownerOf(name)
	return errors.Join(w.Chown(name, owner, owner), w.Chtimes(name, info.ModTime(), info.ModTime()))
}

func (w *fileWriter) content(path, name string) error {
	in, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := w.Create(name)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// ownerOf returns whose a file is in every image.
func ownerOf(name string) int {
	for _, d := range ownDirs {
		if d.uid != 0 && (name == "/"+d.name || strings.HasPrefix(name, "/"+d.name+"/")) {
			return d.uid
		}
	}
	return 0
}
