package image

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"path"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"github.com/covehq/cove"
)

// Limits bounds what an image may be. A zero field means the default.
type Limits struct {
	Fetched cove.Bytes // of all layers as they are fetched; default 16 GiB
	Bytes   cove.Bytes // of all files of all layers together; default 32 GiB
	Entries int        // of all layers together; default 1,000,000
}

func (l Limits) withDefaults() Limits {
	if l.Fetched == 0 {
		l.Fetched = 16 * cove.GiB
	}
	if l.Bytes == 0 {
		l.Bytes = 32 * cove.GiB
	}
	if l.Entries == 0 {
		l.Entries = 1_000_000
	}
	return l
}

// flattenRecipe changes whenever flatten would make another tree of the same image.
const flattenRecipe = "1"

// layerSource opens a layer, as it was fetched, and says what it is when it is
// decompressed.
type layerSource struct {
	open   func(ctx context.Context) (io.ReadCloser, error)
	diffID string
}

// flatten lays layers over each other in dir, the lowest first, and makes the directories
// of config. It returns the bytes of all files.
func flatten(ctx context.Context, dir string, layers []layerSource, config *cove.ImageConfig, limits Limits) (cove.Bytes, error) {
	u, err := newUnpacker(dir, UnpackLimits{Bytes: int64(limits.Bytes), Entries: limits.Entries})
	if err != nil {
		return 0, err
	}
	defer u.close()
	for i, layer := range layers {
		if err := u.layDown(ctx, layer); err != nil {
			return 0, fmt.Errorf("layer %d: %w", i+1, err)
		}
	}
	if err := u.finish(); err != nil {
		return 0, diskError(err)
	}
	u.layer = nil
	if err := u.ensure(config.Workdir, false); err != nil {
		return 0, err
	}
	for _, name := range config.Volumes {
		if err := u.ensure(name, true); err != nil {
			return 0, err
		}
	}
	return cove.Bytes(u.bytes), nil
}

// ensure makes a directory that the configuration relies on, as engines do at a start. One
// that can't be is left to the sandbox to complain about. A volume of root's is everybody's:
// an image that says nothing of its user expects root, and gets another one. It is the tree
// that says so, since runc 1.1 gives what it mounts the mode of what is there.
func (u *unpacker) ensure(name string, volume bool) error {
	if name = path.Clean("/" + name)[1:]; name == "" {
		return nil
	}
	fd, err := u.parent(name)
	if err != nil {
		return diskErrorOnly(err)
	}
	defer unix.Close(fd)
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil || !volume || u.owner && stat.Uid != 0 {
		return err
	}
	return unix.Fchmodat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), 0o1777, 0)
}

// diskErrorOnly is err where that is about the host, and nil where it is about the image.
func diskErrorOnly(err error) error {
	if err = diskError(err); cove.CodeOf(err) == cove.NoSpace {
		return err
	}
	return nil
}

// layDown unpacks one layer and verifies what it was.
func (u *unpacker) layDown(ctx context.Context, source layerSource) error {
	packed, err := source.open(ctx)
	if err != nil {
		return err
	}
	defer packed.Close()
	plain, err := decompress(contextReader{ctx, packed})
	if err != nil {
		return streamError(err)
	}
	defer plain.Close()
	hash := sha256.New()
	bounded := &boundedStream{r: plain, left: u.limits.Bytes - u.bytes + int64(u.limits.Entries)*entryOverhead}
	stream := readAhead(io.TeeReader(bounded, hash))
	defer stream.Close()
	if err := u.lay(stream); err != nil {
		return err
	}
	// What follows the end of an archive is part of its digest.
	if _, err := io.CopyBuffer(io.Discard, struct{ io.Reader }{stream}, u.buffer); err != nil {
		return streamError(err)
	}
	if "sha256:"+hex.EncodeToString(hash.Sum(nil)) != source.diffID {
		return corrupt("a layer is not the one that the configuration names")
	}
	return nil
}

// entryOverhead bounds what an entry may take of a stream beside its content.
const entryOverhead = 4 << 10

// boundedStream fails a stream that is longer than everything in it may be: padding and
// headers decompress as well as files do.
type boundedStream struct {
	r    io.Reader
	left int64
}

// Read reads.
func (b *boundedStream) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, cove.Errorf(cove.TooLarge, "", "", "the archive is longer than what an image may have", "make a smaller image")
	}
	n, err := b.r.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}

// contextReader ends with its context's error.
type contextReader struct {
	ctx context.Context
	io.Reader
}

// Read reads.
func (r contextReader) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.Reader.Read(p)
}

// maxWindow bounds what a zstd stream makes its reader keep in memory: --long=27.
const maxWindow = 128 << 20

// decompress recognises gzip, zstd and bzip2 by their first bytes.
func decompress(r io.Reader) (io.ReadCloser, error) {
	buffered := bufio.NewReaderSize(r, 256<<10)
	start, err := buffered.Peek(6)
	if err != nil && err != io.EOF {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(start, []byte{0x1f, 0x8b}):
		return gzip.NewReader(buffered)
	case bytes.HasPrefix(start, []byte("BZh")):
		return io.NopCloser(bzip2.NewReader(buffered)), nil
	case bytes.HasPrefix(start, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		decoder, err := zstd.NewReader(buffered, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderLowmem(true))
		if err != nil {
			return nil, err
		}
		return decoder.IOReadCloser(), nil
	case bytes.HasPrefix(start, []byte{0xfd, '7', 'z', 'X', 'Z', 0}):
		return nil, cove.Errorf(cove.NotSupported, "", "", "the archive is compressed by xz", "decompress it first, or use gzip or zstd")
	}
	return io.NopCloser(buffered), nil
}
