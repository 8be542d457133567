package process

import (
	"runtime/debug"
	"slices"
	"sync"
)

// guaranteed is how much output a process may keep although all others together have used
// the budget up.
const guaranteed = 1 << 20

// spareSegments is how many large segments wait for their next use. A stream at its limit
// gives one back for each that it takes.
const spareSegments = 4

// budget bounds the memory of all outputs together. When it is used up, the processes that
// ended first lose theirs.
type budget struct {
	max int

	mu    sync.Mutex
	used  int
	freed int       // bytes given to the garbage collector since it last gave them back
	ended []*output // of ended processes, oldest first
	spare [][]byte
}

// take accounts for size bytes, or returns false when they exceed the budget.
func (b *budget) take(size int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.used+size > b.max {
		return false
	}
	b.used += size
	return true
}

// force accounts for size bytes whether they are there or not.
func (b *budget) force(size int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used += size
}

// allocate returns memory that take or force has accounted for.
func (b *budget) allocate(size int) []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	if last := len(b.spare) - 1; size == largeSegment && last >= 0 {
		bytes := b.spare[last]
		b.spare = b.spare[:last]
		return bytes
	}
	return make([]byte, size)
}

// release takes memory back.
func (b *budget) release(bytes []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used -= len(bytes)
	if len(bytes) == largeSegment && len(b.spare) < spareSegments {
		b.spare = append(b.spare, bytes)
		return
	}
	b.freed += len(bytes)
}

// retire puts the output of an ended process in the line of those to be discarded.
func (b *budget) retire(o *output) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ended = append(b.ended, o)
}

// drop forgets an output that leaves the table.
func (b *budget) drop(o *output) {
	b.mu.Lock()
	b.ended = slices.DeleteFunc(b.ended, func(other *output) bool { return other == o })
	b.mu.Unlock()
	o.discard()
}

// relieve discards outputs of ended processes until a large segment fits, or there are
// none. It must be called without the lock of any output.
func (b *budget) relieve() {
	for {
		b.mu.Lock()
		if b.used+largeSegment <= b.max || len(b.ended) == 0 {
			b.mu.Unlock()
			return
		}
		oldest := b.ended[0]
		b.ended = b.ended[1:]
		b.mu.Unlock()
		oldest.discard()
	}
}

// giveBack returns memory to the system once it is worth a collection: the garbage
// collector by itself would keep it for minutes, from programs that may need it.
func (b *budget) giveBack() {
	const worthwhile = 8 << 20
	b.mu.Lock()
	due := b.freed >= worthwhile
	if due {
		b.freed = 0
		b.spare = nil
	}
	b.mu.Unlock()
	if due {
		debug.FreeOSMemory()
	}
}
