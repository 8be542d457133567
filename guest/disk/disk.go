// Package disk bounds how many threads of the agent wait for files at one time, and copies
// between files and streams.
package disk

import (
	"io"
	"os"
	"sync"
)

// parallel is how many threads may wait: a sandbox's limit on processes counts threads too.
const parallel = 4

// pieceSize is how much is moved at once.
const pieceSize = 256 << 10

// Disk reads and writes files in turns. Opening and renaming them is in turns of its own,
// account.Book's.
type Disk struct {
	turns  chan struct{}
	pieces sync.Pool
}

// New returns a Disk on which nothing waits yet.
func New() *Disk {
	return &Disk{
		turns:  make(chan struct{}, parallel),
		pieces: sync.Pool{New: func() any { return new([pieceSize]byte) }},
	}
}

// Reader returns f, each of whose reads takes a turn.
func (d *Disk) Reader(f *os.File) io.ReadSeeker { return turning{d.turns, f} }

// Writer returns f, each of whose writes takes a turn.
func (d *Disk) Writer(f *os.File) io.Writer { return turning{d.turns, f} }

type turning struct {
	turns chan struct{}
	file  *os.File
}

// Read reads the next piece.
func (f turning) Read(p []byte) (int, error) {
	f.turns <- struct{}{}
	defer func() { <-f.turns }()
	return f.file.Read(p)
}

// Seek sets where the next piece is.
func (f turning) Seek(offset int64, whence int) (int64, error) { return f.file.Seek(offset, whence) }

// Write writes the next piece.
func (f turning) Write(p []byte) (int, error) {
	f.turns <- struct{}{}
	defer func() { <-f.turns }()
	return f.file.Write(p)
}

// Copy copies like io.Copy, in large pieces.
func (d *Disk) Copy(to io.Writer, from io.Reader) (int64, error) {
	piece := d.pieces.Get().(*[pieceSize]byte)
	defer d.pieces.Put(piece)
	// The wrapping hides shortcuts of either side that would use small pieces.
	return io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{from}, piece[:])
}
