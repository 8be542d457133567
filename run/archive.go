package run

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"

	"github.com/covehq/cove"
)

// maxWindow bounds what a zstd stream makes its reader keep in memory.
const maxWindow = 128 << 20

// source is an archive as it is unpacked from its compression.
type source struct {
	r     io.Reader
	left  int64
	err   error // what was wrong with the archive
	close func()
}

// unpacked returns the tar in a stream that may be compressed, told by its first bytes.
// It can be closed also when there is no stream.
func unpacked(r io.Reader) (*source, error) {
	s := &source{left: maxPlain, close: func() {}}
	if r == nil {
		return s, nil
	}
	buffered := bufio.NewReaderSize(r, 64<<10)
	start, err := buffered.Peek(6)
	if err != nil && err != io.EOF {
		return nil, err
	}
	s.r = buffered
	switch {
	case len(start) == 0:
		return nil, damaged(errors.New("it is empty"))
	case bytes.HasPrefix(start, []byte{0x1f, 0x8b}):
		if s.r, err = gzip.NewReader(buffered); err != nil && err != io.EOF {
			return nil, damaged(err)
		}
	case bytes.HasPrefix(start, []byte("BZh")):
		s.r = bzip2.NewReader(buffered)
	case bytes.HasPrefix(start, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		decoder, err := zstd.NewReader(buffered, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderLowmem(true))
		if err != nil {
			return nil, damaged(err)
		}
		s.r, s.close = decoder, decoder.Close
	case bytes.HasPrefix(start, []byte{0xfd, '7', 'z', 'X', 'Z', 0}):
		return nil, cove.Errorf(cove.NotSupported, "", "", "the archive is compressed by xz", "use gzip, bzip2 or zstd, or leave it plain")
	}
	return s, nil
}

// Read reads the next piece.
func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if s.left -= int64(n); s.left < 0 {
		s.err = cove.Errorf(cove.TooLarge, op, "", "the archive is larger than 1GiB when it is unpacked", "send less, or create a sandbox and move files one by one")
		return 0, s.err
	}
	if err != nil && err != io.EOF {
		s.err = damaged(err)
	}
	return n, err
}

// Close ends the decompression.
func (s *source) Close() { s.close() }

// cause returns why unpacking failed: the archive itself, where it did.
func (s *source) cause(err error) error {
	if err != nil && s.err != nil {
		return cove.Wrap(s.err, op, "")
	}
	return err
}

func damaged(err error) error {
	return &cove.Error{Code: cove.Invalid, Op: op, Err: fmt.Errorf("the archive is damaged: %w", err), Hint: "make the archive anew, as a tar, plain or compressed"}
}
