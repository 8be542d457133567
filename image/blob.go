package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"

	"github.com/covehq/cove"
)

// origin is where the image of a reference can be had from.
type origin interface {
	// manifest returns the manifest of the image for a platform.
	manifest(ctx context.Context, platform v1.Platform) (*manifest, error)
	// blob begins to read a blob from an offset on, or from a start before it. What comes
	// is verified by the caller.
	blob(ctx context.Context, d v1.Descriptor, from int64) (body io.ReadCloser, start int64, err error)
	// Close releases the origin.
	Close() error
}

// blobs are the parts of images as they were fetched, verified, by digest. What is being
// fetched has ".partial" after its name, and is continued after an interruption.
type blobs struct{ dir string }

const partial = ".partial"

func (b blobs) path(d v1.Descriptor) string { return filepath.Join(b.dir, d.Digest.Hex) }

// has reports whether a blob is here.
func (b blobs) has(d v1.Descriptor) bool {
	info, err := os.Lstat(b.path(d))
	return err == nil && info.Mode().IsRegular() && info.Size() == d.Size
}

// open opens a blob that is here.
func (b blobs) open(d v1.Descriptor) (*os.File, error) { return os.Open(b.path(d)) }

// fetch makes a blob be here, and calls count with the number of bytes as they come. Of
// several calls for one blob, also of several processes, one fetches.
func (b blobs) fetch(ctx context.Context, from origin, d v1.Descriptor, count func(int64)) error {
	if b.has(d) {
		count(d.Size)
		return nil
	}
	file, err := lockFile(ctx, b.path(d)+partial)
	if err != nil {
		return err
	}
	defer file.Close()
	if b.has(d) { // somebody else has fetched it meanwhile
		count(d.Size)
		return nil
	}
	f := &fetch{file: file, from: from, d: d, count: count, hash: sha256.New()}
	if err := f.run(ctx); err != nil {
		if errors.Is(err, cove.NoSpace) || errors.Is(err, cove.Invalid) {
			return errors.Join(err, os.Remove(file.Name())) // it would be of no use, or hold the room that is missing
		}
		return err
	}
	return os.Rename(file.Name(), b.path(d))
}

// fetch is the fetching of one blob.
type fetch struct {
	file  *os.File
	from  origin
	d     v1.Descriptor
	count func(int64)
	hash  hash.Hash // of what the file has
	have  int64
}

// run fetches what is missing. An interruption is waited out for as long as there is some
// progress between two of them.
func (f *fetch) run(ctx context.Context) error {
	if err := f.recall(); err != nil {
		return err
	}
	resumed := f.have > 0
	for failed := 0; f.have < f.d.Size; {
		before := f.have
		err := f.more(ctx)
		switch {
		case err == nil:
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case f.have > before:
			failed = 0
			fallthrough
		default:
			failed++
			if failed > retries || !passing(err) || !pause(ctx, failed) {
				return err
			}
		}
	}
	if hex.EncodeToString(f.hash.Sum(nil)) == f.d.Digest.Hex {
		return nil
	}
	if resumed { // the part that was here may be what is wrong
		if err := f.restart(); err != nil {
			return err
		}
		return f.run(ctx)
	}
	return corrupt(fmt.Sprintf("the content of %s has another digest", f.d.Digest))
}

// recall takes up what an earlier attempt has left.
func (f *fetch) recall() error {
	info, err := f.file.Stat()
	if err != nil {
		return err
	}
	if info.Size() > f.d.Size {
		return f.restart()
	}
	f.have, err = io.Copy(f.hash, io.NewSectionReader(f.file, 0, info.Size()))
	f.count(f.have)
	return err
}

// restart forgets what is here.
func (f *fetch) restart() error {
	f.count(-f.have)
	f.have = 0
	f.hash.Reset()
	return f.file.Truncate(0)
}

// stall is how long a registry may send nothing of a blob.
const stall = 30 * time.Second

var errStalled = &cove.Error{Code: cove.Unavailable, Err: fmt.Errorf("nothing came for %v", stall), Hint: "check the network of the daemon"}

// more fetches until the blob is complete or the stream breaks off.
func (f *fetch) more(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watch := time.AfterFunc(stall, func() { cancel(errStalled) })
	defer watch.Stop()
	body, start, err := f.from.blob(ctx, f.d, f.have)
	if err != nil {
		return stalled(ctx, err)
	}
	defer body.Close()
	if start == 0 && f.have > 0 {
		if err := f.restart(); err != nil {
			return err
		}
	}
	buffer := make([]byte, 256<<10)
	for f.have < f.d.Size {
		n, err := body.Read(buffer[:min(int64(len(buffer)), f.d.Size-f.have)])
		if n > 0 {
			watch.Reset(stall)
			if _, err := f.file.WriteAt(buffer[:n], f.have); err != nil {
				return diskError(err)
			}
			f.hash.Write(buffer[:n])
			f.have += int64(n)
			f.count(int64(n))
		}
		if err == io.EOF && f.have < f.d.Size {
			err = io.ErrUnexpectedEOF
		}
		if err != nil && f.have < f.d.Size {
			return stalled(ctx, cutOff(err))
		}
	}
	return nil
}

// cutOff is the error of a stream that broke off.
func cutOff(err error) error {
	if cove.CodeOf(err) != cove.Internal {
		return err
	}
	return &cove.Error{Code: cove.Unavailable, Err: fmt.Errorf("the connection was cut: %w", err), Hint: "try again: what is here already is not fetched again"}
}

// stalled says so where the watch has ended the request.
func stalled(ctx context.Context, err error) error {
	if errors.Is(context.Cause(ctx), errStalled) {
		return errStalled
	}
	return err
}

func diskError(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return noSpace(err)
	}
	return err
}

// lockFile opens a file, which it makes, with a lock that nobody else has. The kernel
// releases it with the file, and with the process.
func lockFile(ctx context.Context, path string) (*os.File, error) {
	for {
		file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|unix.O_NOFOLLOW, 0o600)
		if err != nil {
			return nil, diskError(err)
		}
		if err := flock(ctx, file, unix.LOCK_EX); err != nil {
			file.Close()
			return nil, err
		}
		mine, err := file.Stat()
		if err == nil {
			if there, err := os.Lstat(path); err == nil && os.SameFile(mine, there) {
				return file, nil
			}
		}
		file.Close() // its last holder has renamed or removed it
		if err != nil {
			return nil, err
		}
	}
}

// flock waits for a lock until ctx ends; the kernel's own waiting can't be interrupted.
func flock(ctx context.Context, file *os.File, how int) error {
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		err := unix.Flock(int(file.Fd()), how|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("flock", err)
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
