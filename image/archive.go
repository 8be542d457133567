package image

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"

	"github.com/covehq/cove"
)

// unpacked unpacks a tar archive, once for its content, and returns the tree's directory.
func (s *Store) unpacked(ctx context.Context, path string) (string, error) {
	digest, err := digestFile(ctx, path)
	if err != nil {
		return "", fmt.Errorf("image rootfs:%s: %w", path, err)
	}
	dir, err := s.derive(ctx, "tar-"+digest, func(dir string) error {
		file, err := os.Open(path)
		if err != nil {
			return err
		}
		defer file.Close()
		hash := sha256.New() // the file may change between the two readings
		plain, err := decompress(io.TeeReader(contextReader{ctx, file}, hash))
		if err != nil {
			return err
		}
		if err := Unpack(plain, dir, UnpackLimits{}); err != nil {
			return err
		}
		if _, err := io.Copy(hash, file); err != nil {
			return err
		}
		if hex.EncodeToString(hash.Sum(nil)) != digest {
			return cove.Errorf(cove.Conflict, "", "", "the archive changed while it was read", "try again when it is complete")
		}
		return nil
	})
	return dir, cove.Wrap(err, "image", "rootfs:"+path)
}

func digestFile(ctx context.Context, path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, contextReader{ctx, file}); err != nil {
		return "", err
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}

// contextReader ends with its context's error.
type contextReader struct {
	ctx context.Context
	io.Reader
}

func (r contextReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.Reader.Read(p)
}

// decompress recognises gzip and bzip2 by their first bytes.
func decompress(r io.Reader) (io.Reader, error) {
	buffered := bufio.NewReaderSize(r, 256<<10)
	start, err := buffered.Peek(6)
	if err != nil && err != io.EOF {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(start, []byte{0x1f, 0x8b}):
		return gzip.NewReader(buffered)
	case bytes.HasPrefix(start, []byte("BZh")):
		return bzip2.NewReader(buffered), nil
	case bytes.HasPrefix(start, []byte{0x28, 0xb5, 0x2f, 0xfd}), bytes.HasPrefix(start, []byte{0xfd, '7', 'z', 'X', 'Z', 0}):
		return nil, cove.Errorf(cove.NotSupported, "", "", "the archive is compressed by zstd or xz", "decompress it first, or use gzip")
	}
	return buffered, nil
}
