package image

import (
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
		defer plain.Close()
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
