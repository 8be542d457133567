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

// Turns takes turns at reading and writing files. Opening and renaming them is in turns of
// its own, account.Book's.
type Turns chan struct{}

// NewTurns returns Turns that nobody has yet.
func NewTurns() Turns { return make(Turns, parallel) }

// Reader returns f, each of whose reads takes a turn.
func (t Turns) Reader(f *os.File) io.ReadSeeker { return turning{t, f} }

// Writer returns f, each of whose writes takes a turn.
func (t Turns) Writer(f *os.File) io.Writer { return turning{t, f} }

type turning struct {
	turns Turns
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

var pieces = sync.Pool{New: func() any { return new([pieceSize]byte) }}

// Copy copies like io.Copy, in large pieces.
func Copy(to io.Writer, from io.Reader) (int64, error) {
	piece := pieces.Get().(*[pieceSize]byte)
	defer pieces.Put(piece)
	// The wrapping hides shortcuts of either side that would use small pieces.
	return io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{from}, piece[:])
}
