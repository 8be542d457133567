package process

import (
	"slices"
	"time"
)

// Reader follows a process's output. One goroutine reads; the process waits for it when
// its rings are full, unless it stalls.
type Reader struct {
	output *output
	ready  chan struct{} // has a value when there may be something new
	last   int           // the stream of the latest chunk
	whole  bool          // what it reads ends with the end of the process

	// Guarded by output.mu.
	position [streams]uint64
	want     uint64           // how many bytes make it ready
	until    *[streams]uint64 // where a reader that does not follow stops
	stalled  bool             // it holds nothing back any more
	patience *time.Timer      // makes it stalled
}

// Chunk is a piece of one stream.
type Chunk struct {
	Stream int // 0 is stdout or the terminal, 1 is stderr
	Offset uint64
	Data   []byte
}

// attach adds a reader, which begins at the given offsets; nil is the present end of a
// stream. With follow it reads until the process has ended.
func (o *output) attach(from [streams]*uint64, follow bool) *Reader {
	o.mu.Lock()
	defer o.mu.Unlock()
	r := &Reader{output: o, ready: make(chan struct{}, 1), last: stderr, whole: follow || o.settled, want: 1}
	for i := range o.streams {
		r.position[i] = o.streams[i].end
		if from[i] != nil {
			r.position[i] = min(*from[i], r.position[i])
		}
	}
	if !follow || o.settled { // also what came after the end, from others that it started
		r.until = new([streams]uint64)
		for i := range o.streams {
			r.until[i] = o.streams[i].end
		}
	}
	o.readers = append(o.readers, r)
	return r
}

// Ready returns a channel that has a value when Take may have something new to say.
func (r *Reader) Ready() <-chan struct{} { return r.ready }

// Want makes the reader ready only when n bytes wait for it, or there will be no more.
func (r *Reader) Want(n int) {
	r.output.mu.Lock()
	defer r.output.mu.Unlock()
	r.want = uint64(n)
	r.signal()
}

// signal makes the reader ready if it is. Holding output.mu.
func (r *Reader) signal() {
	waiting := uint64(0)
	for i, position := range r.position {
		waiting += r.output.streams[i].end - position
	}
	if waiting < r.want && !r.output.settled {
		return
	}
	select {
	case r.ready <- struct{}{}:
	default:
	}
}

// Take copies the next piece of output into buffer, without waiting. When there is none,
// the chunk has no data, and done says whether there never will be.
func (r *Reader) Take(buffer []byte) (chunk Chunk, done bool) {
	o := r.output
	o.mu.Lock()
	defer o.mu.Unlock()
	r.progress()
	for range streams { // turn by turn, so that neither stream starves
		r.last = (r.last + 1) % streams
		if chunk := r.copy(r.last, buffer); len(chunk.Data) > 0 {
			return chunk, false
		}
	}
	return Chunk{}, r.until != nil || o.settled
}

// copy takes a piece of stream i.
func (r *Reader) copy(i int, buffer []byte) Chunk {
	s := &r.output.streams[i]
	end := s.end
	if r.until != nil {
		end = r.until[i]
	} else if r.output.settled {
		end = max(r.output.final[i], r.position[i]) // who follows is told the end in time
	}
	position := max(r.position[i], s.start)
	chunk := Chunk{Stream: i, Offset: position}
	n := 0
	first, _ := slices.BinarySearchFunc(s.segments, position, func(s segment, at uint64) int {
		if at < s.offset {
			return 1
		}
		if at >= s.offset+uint64(len(s.bytes)) {
			return -1
		}
		return 0
	})
	for _, segment := range s.segments[first:] {
		if position >= end || n == len(buffer) {
			break
		}
		from := position - segment.offset
		to := min(uint64(len(segment.bytes)), end-segment.offset)
		copied := copy(buffer[n:], segment.bytes[from:to])
		n += copied
		position += uint64(copied)
	}
	chunk.Data = buffer[:n]
	if n > 0 {
		r.position[i] = position
	}
	return chunk
}

// progress notes that the reader has come back, and lets a writer on that waited for it.
func (r *Reader) progress() {
	r.stalled = false
	if r.patience != nil {
		r.patience.Stop()
		r.patience = nil
	}
	r.output.changed.Broadcast()
}

// Close ends the reading. It may be called twice.
func (r *Reader) Close() {
	o := r.output
	o.mu.Lock()
	defer o.mu.Unlock()
	r.progress()
	o.readers = slices.DeleteFunc(o.readers, func(other *Reader) bool { return other == r })
}
