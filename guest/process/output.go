package process

import (
	"slices"
	"sync"
	"time"
)

// A process's output is retained in rings, one for each stream, addressed by the offset of
// a byte in its stream. A ring is a list of segments: it grows with what is written, and
// forgets its oldest segment when the process has reached its limit.
const (
	// retained is how much of a process's output is kept at least, when memory allows.
	retained = 64 << 20
	// smallSegment is a stream's first segment; each later one is larger, up to largeSegment.
	smallSegment = 4 << 10
	largeSegment = 256 << 10
	// stall is how long a reader may go without progress before it ceases to hold the
	// writer back.
	stall = 10 * time.Second
)

// The streams of a process. A terminal's output is its stdout.
const (
	stdout = iota
	stderr
	streams
)

// segment is a piece of a stream. Its bytes below the stream's end are never modified.
type segment struct {
	offset uint64 // of its first byte
	bytes  []byte // as long as it is allocated
}

// stream is what is retained of one stream. Both ends are offsets in it.
type stream struct {
	segments   []segment
	start, end uint64
	eof        bool // nothing will be written any more
}

// output is what a process writes, and who reads it. Each stream has one writer, which
// takes space by reserve, fills it without the lock, and publishes it by commit.
type output struct {
	limit  int
	stall  time.Duration
	budget *budget

	mu      sync.Mutex
	streams [streams]stream
	size    int        // bytes allocated to segments
	changed *sync.Cond // a reader has moved, or a stall has passed
	readers []*Reader
	settled bool            // the process has ended, and what it wrote is here
	final   [streams]uint64 // the ends at that time
}

// newOutput returns an output without streams: both are at their end until a writer opens
// one.
func newOutput(b *budget) *output {
	o := &output{limit: retained + 2*largeSegment, stall: stall, budget: b}
	o.changed = sync.NewCond(&o.mu)
	for i := range o.streams {
		o.streams[i].eof = true
	}
	return o
}

// open announces a writer of stream i.
func (o *output) open(i int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.streams[i].eof = false
}

// reserve returns space to write to at the end of stream i. It waits while a reader that
// makes progress has yet to read what would be forgotten for it.
func (o *output) reserve(i int) []byte {
	o.budget.relieve()
	o.mu.Lock()
	defer o.mu.Unlock()
	s := &o.streams[i]
	if free := s.free(); len(free) > 0 {
		return free
	}
	size := min(max(smallSegment, s.allocated()), largeSegment)
	o.makeRoom(size)
	o.size += size
	s.segments = append(s.segments, segment{s.end, o.budget.allocate(size)})
	return s.free()
}

// commit publishes the next n bytes of the space that reserve returned.
func (o *output) commit(i, n int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.streams[i].end += uint64(n)
	o.notify()
}

// finish says that stream i will not be written to any more.
func (o *output) finish(i int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	s := &o.streams[i]
	s.eof = true
	if last := len(s.segments) - 1; last >= 0 { // keep no more than was written
		o.trim(s, last)
	}
	o.notify()
}

// trim gives back the space behind the end of a stream's last segment.
func (o *output) trim(s *stream, last int) {
	old := s.segments[last]
	used := int(s.end - old.offset)
	switch {
	case used == 0:
		s.segments = slices.Delete(s.segments, last, last+1)
	case used <= largeSegment/2:
		s.segments[last].bytes = slices.Clone(old.bytes[:used])
		o.budget.force(used)
		o.size += used
	default:
		return // not worth a copy
	}
	o.size -= len(old.bytes)
	o.budget.release(old.bytes)
}

// settle says that the process has ended and that everything it wrote is here. Others that
// have its streams open may go on writing.
func (o *output) settle() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.settled = true
	for i := range o.streams {
		o.final[i] = o.streams[i].end
	}
	o.notify()
}

// discard forgets everything. The offsets stay.
func (o *output) discard() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for i := range o.streams {
		s := &o.streams[i]
		for len(s.segments) > 0 && (s.eof || len(s.segments) > 1) {
			o.forget(s)
		}
	}
	o.notify()
}

// written returns how many bytes each stream has had.
func (o *output) written() (out, err uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.streams[stdout].end, o.streams[stderr].end
}

// makeRoom forgets old segments until size more bytes are within the limits. Holding o.mu,
// it gives the lock up while it waits.
func (o *output) makeRoom(size int) {
	for {
		crowded := o.size+size > o.limit
		if !crowded && o.budget.take(size) {
			return
		}
		if !crowded && o.size < guaranteed {
			o.budget.force(size)
			return
		}
		s := o.larger()
		if s == nil {
			o.budget.force(size)
			return
		}
		if o.held(s) {
			o.changed.Wait()
			continue
		}
		o.forget(s)
	}
}

// larger returns the stream with the most segments that has one to forget: the last one
// of an open stream is being written to.
func (o *output) larger() *stream {
	var most *stream
	for i := range o.streams {
		s := &o.streams[i]
		forgettable := len(s.segments) > 1 || len(s.segments) == 1 && (s.eof || len(s.free()) == 0)
		if forgettable && (most == nil || len(s.segments) > len(most.segments)) {
			most = s
		}
	}
	return most
}

// held reports whether a reader that still makes progress needs the oldest segment of s.
// When one does, it makes sure that changed is signalled once that reader has stalled.
func (o *output) held(s *stream) bool {
	end := s.end
	if len(s.segments) > 1 {
		end = s.segments[1].offset
	}
	index := stdout
	if s == &o.streams[stderr] {
		index = stderr
	}
	held := false
	for _, r := range o.readers {
		if r.position[index] >= end || r.stalled {
			continue
		}
		held = true
		if r.patience == nil { // runs from now, not from when the reader last had work
			var timer *time.Timer
			timer = time.AfterFunc(o.stall, func() {
				o.mu.Lock()
				defer o.mu.Unlock()
				r.stalled = r.patience == timer
				o.changed.Broadcast()
			})
			r.patience = timer
		}
	}
	return held
}

// forget drops the oldest segment of s.
func (o *output) forget(s *stream) {
	oldest := s.segments[0]
	s.segments = slices.Delete(s.segments, 0, 1)
	s.start = s.end
	if len(s.segments) > 0 {
		s.start = s.segments[0].offset
	}
	o.size -= len(oldest.bytes)
	o.budget.release(oldest.bytes)
}

// notify wakes the readers. Holding o.mu.
func (o *output) notify() {
	for _, r := range o.readers {
		r.signal()
	}
}

// free returns the allocated space behind the end.
func (s *stream) free() []byte {
	if len(s.segments) == 0 {
		return nil
	}
	last := s.segments[len(s.segments)-1]
	return last.bytes[s.end-last.offset:]
}

// allocated returns how many bytes the segments have, as far as it matters for the size of
// the next one.
func (s *stream) allocated() int {
	total := 0
	for _, segment := range s.segments {
		if total += len(segment.bytes); total >= largeSegment {
			break
		}
	}
	return total * 3 // so that sizes go 4, 12, 48, 192 and 256 KiB
}
