package image

import (
	"io"
	"sync"
)

// ahead reads a stream in a goroutine of its own: decompressing a layer takes as long as
// writing its files does, and so both are done at once.
type ahead struct {
	full chan piece  // read, in order
	free chan []byte // to be filled
	stop chan struct{}
	work sync.WaitGroup

	now    piece // being taken; what is left of it
	buffer []byte
}

// piece is a part of the stream; with an error, the last one.
type piece struct {
	data []byte
	err  error
}

const (
	pieces    = 4
	pieceSize = 512 << 10
)

// readAhead begins to read r. The caller closes what it returns, and may look at what r
// has done to others once it has read to the end.
func readAhead(r io.Reader) *ahead {
	a := &ahead{full: make(chan piece, pieces), free: make(chan []byte, pieces), stop: make(chan struct{})}
	for range pieces {
		a.free <- make([]byte, pieceSize)
	}
	a.work.Go(func() { a.fill(r) })
	return a
}

func (a *ahead) fill(r io.Reader) {
	for {
		var buffer []byte
		select {
		case buffer = <-a.free:
		case <-a.stop:
			return
		}
		n, err := fillUp(r, buffer)
		a.full <- piece{buffer[:n], err} // there is room: there are no more buffers than that
		if err != nil {
			return
		}
	}
}

// fillUp reads until a buffer is full, and returns the reader's own error otherwise.
func fillUp(r io.Reader, buffer []byte) (n int, err error) {
	for n < len(buffer) && err == nil {
		var more int
		more, err = r.Read(buffer[n:])
		n += more
	}
	return n, err
}

// Read implements io.Reader, for one goroutine.
func (a *ahead) Read(p []byte) (int, error) {
	for len(a.now.data) == 0 {
		if a.now.err != nil {
			return 0, a.now.err
		}
		if a.buffer != nil {
			a.free <- a.buffer
		}
		a.now = <-a.full
		a.buffer = a.now.data[:cap(a.now.data)]
	}
	n := copy(p, a.now.data)
	a.now.data = a.now.data[n:]
	return n, nil
}

// Close ends the reading and waits for that.
func (a *ahead) Close() error {
	close(a.stop)
	a.work.Wait()
	return nil
}
