package process

import (
	"bytes"
	"math/rand/v2"
	"sync"
	"testing"
	"time"
)

// newTestOutput returns an output with one stream, which keeps limit bytes.
func newTestOutput(limit int, stall time.Duration) *output {
	o := newOutput(&budget{max: 1 << 30})
	o.limit, o.stall = limit, stall
	o.open(stdout)
	return o
}

// write writes data to a stream as a pump does.
func (o *output) write(i int, data []byte) {
	for len(data) > 0 {
		n := copy(o.reserve(i), data)
		o.commit(i, n)
		data = data[n:]
	}
}

// pattern returns the bytes of a stream from an offset on: each depends on its offset.
func pattern(offset uint64, n int) []byte {
	data := make([]byte, n)
	for i := range data {
		at := offset + uint64(i)
		data[i] = byte(at ^ at>>8 ^ at>>16)
	}
	return data
}

// readAll takes what there is, and checks each byte against the pattern.
func readAll(t *testing.T, r *Reader) (first, next uint64, n int) {
	t.Helper()
	buffer := make([]byte, 100_000)
	begun := false
	for {
		chunk, _ := r.Take(buffer)
		if len(chunk.Data) == 0 {
			return first, next, n
		}
		if !begun {
			first, begun = chunk.Offset, true
		}
		if !bytes.Equal(chunk.Data, pattern(chunk.Offset, len(chunk.Data))) {
			t.Fatalf("wrong bytes at offset %d", chunk.Offset)
		}
		next = chunk.Offset + uint64(len(chunk.Data))
		n += len(chunk.Data)
	}
}

func offset(n uint64) *uint64 { return &n }

func TestReadersBeginWhereTheyAsk(t *testing.T) {
	const size = 1_000_000
	o := newTestOutput(16<<20, time.Hour)
	o.write(stdout, pattern(0, size))
	for _, test := range []struct {
		name        string
		from        *uint64
		first, next uint64
		n           int
	}{
		{"at the beginning", offset(0), 0, size, size},
		{"in the middle", offset(500_001), 500_001, size, size - 500_001},
		{"at the end", offset(size), 0, 0, 0},
		{"behind the end, which is the end", offset(size + 5), 0, 0, 0},
		{"nowhere, which is the end", nil, 0, 0, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := o.attach([streams]*uint64{test.from, nil}, true)
			defer r.Close()
			first, next, n := readAll(t, r)
			if first != test.first || next != test.next || n != test.n {
				t.Errorf("got %d bytes from %d to %d, want %d from %d to %d", n, first, next, test.n, test.first, test.next)
			}
		})
	}
}

func TestRingForgetsTheOldest(t *testing.T) {
	const limit, size = 4 << 20, 10 << 20
	o := newTestOutput(limit, time.Hour)
	o.write(stdout, pattern(0, size))
	if o.size > limit {
		t.Errorf("got %d bytes allocated, want at most %d", o.size, limit)
	}
	r := o.attach([streams]*uint64{offset(0), nil}, true)
	defer r.Close()
	first, next, n := readAll(t, r)
	if next != size || n < limit-2*largeSegment || uint64(n) != next-first {
		t.Errorf("got %d bytes from %d to %d, want about the last %d of %d", n, first, next, limit, size)
	}
}

func TestLimitIsSharedByBothStreams(t *testing.T) {
	const limit = 4 << 20
	o := newTestOutput(limit, time.Hour)
	o.open(stderr)
	o.write(stdout, pattern(0, 10<<20))
	o.write(stderr, pattern(0, 1<<20)) // takes from the larger one
	r := o.attach([streams]*uint64{nil, offset(0)}, true)
	defer r.Close()
	if _, _, n := readAll(t, r); n != 1<<20 {
		t.Errorf("got %d bytes of stderr, want all %d", n, 1<<20)
	}
	if o.size > limit {
		t.Errorf("got %d bytes allocated, want at most %d", o.size, limit)
	}
}

func TestSlowReaderLosesNothing(t *testing.T) {
	const size = 8 << 20
	o := newTestOutput(1<<20, time.Minute)
	r := o.attach([streams]*uint64{offset(0), nil}, true)
	var writer sync.WaitGroup
	writer.Go(func() {
		o.write(stdout, pattern(0, size))
		o.finish(stdout)
		o.settle()
	})
	buffer := make([]byte, 70_000)
	var next uint64
	for {
		chunk, done := r.Take(buffer)
		if len(chunk.Data) == 0 {
			if done {
				break
			}
			<-r.Ready()
			continue
		}
		if chunk.Offset != next || !bytes.Equal(chunk.Data, pattern(next, len(chunk.Data))) {
			t.Fatalf("got offset %d or wrong bytes, want %d", chunk.Offset, next)
		}
		next += uint64(len(chunk.Data))
	}
	writer.Wait()
	r.Close()
	if next != size {
		t.Errorf("got %d bytes, want %d", next, size)
	}
}

func TestStalledReaderBlocksNobodyForEver(t *testing.T) {
	const size = 4 << 20
	o := newTestOutput(1<<20, 20*time.Millisecond)
	r := o.attach([streams]*uint64{offset(0), nil}, true)
	defer r.Close()
	o.write(stdout, pattern(0, size)) // returns, or the test hangs
	first, next, _ := readAll(t, r)
	if first == 0 || next != size {
		t.Errorf("got bytes from %d to %d, want a jump and the end at %d", first, next, size)
	}
	// It has come back, and holds again.
	o.stall = time.Hour
	done := make(chan struct{})
	go func() {
		defer close(done)
		o.write(stdout, pattern(size, size))
	}()
	for next < 2*size {
		<-r.Ready()
		first, last, n := readAll(t, r)
		if n > 0 && first != next {
			t.Fatalf("got a jump from %d to %d", next, first)
		}
		next = max(next, last)
	}
	<-done
}

func TestLeavingReaderFreesTheWriter(t *testing.T) {
	o := newTestOutput(1<<20, time.Hour)
	r := o.attach([streams]*uint64{offset(0), nil}, true)
	done := make(chan struct{})
	go func() {
		defer close(done)
		o.write(stdout, pattern(0, 4<<20))
	}()
	<-r.Ready()
	r.Close()
	r.Close()
	<-done
}

func TestReaderWithoutFollowStopsAtWhatWasThere(t *testing.T) {
	o := newTestOutput(1<<20, time.Hour)
	o.write(stdout, pattern(0, 1000))
	r := o.attach([streams]*uint64{offset(0), nil}, false)
	defer r.Close()
	o.write(stdout, pattern(1000, 1000))
	buffer := make([]byte, 5000)
	if chunk, _ := r.Take(buffer); len(chunk.Data) != 1000 {
		t.Errorf("got %d bytes, want the 1000 that were there", len(chunk.Data))
	}
	if chunk, done := r.Take(buffer); len(chunk.Data) != 0 || !done {
		t.Errorf("got %d more bytes and done %v, want the end", len(chunk.Data), done)
	}
}

func TestFinishedStreamKeepsNoMoreThanWasWritten(t *testing.T) {
	b := &budget{max: 1 << 30}
	o := newOutput(b)
	o.open(stdout)
	o.write(stdout, pattern(0, 10))
	o.finish(stdout)
	if b.used != 10 || o.size != 10 {
		t.Errorf("got %d bytes accounted and %d allocated, want 10", b.used, o.size)
	}
	r := o.attach([streams]*uint64{offset(3), nil}, true)
	defer r.Close()
	if first, next, _ := readAll(t, r); first != 3 || next != 10 {
		t.Errorf("got bytes from %d to %d, want 3 to 10", first, next)
	}
}

func TestBudgetTakesFromTheOldestEnded(t *testing.T) {
	const each = 4 << 20
	b := &budget{max: 10 << 20}
	var ended []*output
	for range 2 {
		o := newOutput(b)
		o.open(stdout)
		o.write(stdout, pattern(0, each))
		o.finish(stdout)
		o.settle()
		b.retire(o)
		ended = append(ended, o)
	}
	running := newOutput(b)
	running.open(stdout)
	running.write(stdout, pattern(0, each))
	if b.used > b.max {
		t.Errorf("got %d bytes used, want at most %d", b.used, b.max)
	}
	for i, o := range append(ended, running) {
		r := o.attach([streams]*uint64{offset(0), nil}, true)
		_, _, n := readAll(t, r)
		r.Close()
		want := each
		if i == 0 {
			want = 0
		}
		if n != want {
			t.Errorf("output %d: got %d bytes, want %d", i, n, want)
		}
	}
	for _, o := range append(ended, running) {
		b.drop(o)
	}
	if b.used > largeSegment { // the segment that the running one writes to
		t.Errorf("got %d bytes used after all were dropped", b.used)
	}
}

func TestBudgetGuaranteesEachProcessSomething(t *testing.T) {
	b := &budget{max: guaranteed}
	for range 3 {
		o := newOutput(b)
		o.open(stdout)
		o.write(stdout, pattern(0, 8<<20))
		r := o.attach([streams]*uint64{offset(0), nil}, true)
		if _, _, n := readAll(t, r); n < guaranteed/2 || n > 2*guaranteed {
			t.Errorf("got %d bytes kept, want about %d", n, guaranteed)
		}
		r.Close()
	}
}

// TestOutputHammer has writers, followers, readers that come and go, and readers that
// stall, all at one time. No byte may be wrong, and followers may miss none.
func TestOutputHammer(t *testing.T) {
	const size = 20 << 20
	o := newTestOutput(2<<20, 5*time.Millisecond)
	o.open(stderr)
	stop := make(chan struct{})
	var writers, readers sync.WaitGroup
	for i := range streams {
		writers.Go(func() {
			for at := uint64(0); at < size; {
				n := 1 + rand.IntN(60_000)
				n = min(n, int(size-at))
				o.write(i, pattern(at, n))
				at += uint64(n)
			}
			o.finish(i)
		})
	}
	follow := func(patient bool) {
		r := o.attach([streams]*uint64{offset(0), offset(0)}, true)
		defer r.Close()
		buffer := make([]byte, 50_000)
		var next [streams]uint64
		for {
			chunk, done := r.Take(buffer)
			if len(chunk.Data) == 0 {
				if done {
					break
				}
				select {
				case <-r.Ready():
				case <-time.After(20 * time.Second):
					t.Error("nothing comes any more")
					return
				}
				continue
			}
			if chunk.Offset < next[chunk.Stream] {
				t.Errorf("stream %d: got offset %d after %d", chunk.Stream, chunk.Offset, next[chunk.Stream])
			}
			if !bytes.Equal(chunk.Data, pattern(chunk.Offset, len(chunk.Data))) {
				t.Errorf("stream %d: wrong bytes at %d", chunk.Stream, chunk.Offset)
				return
			}
			next[chunk.Stream] = chunk.Offset + uint64(len(chunk.Data))
			if !patient && rand.IntN(200) == 0 {
				time.Sleep(10 * time.Millisecond) // stalls
			}
		}
		if next != [streams]uint64{size, size} {
			t.Errorf("got ends %v, want %d for both", next, size)
		}
	}
	readers.Go(func() { follow(true) })
	readers.Go(func() { follow(true) })
	readers.Go(func() { follow(false) })
	readers.Go(func() { // comes and goes
		for {
			select {
			case <-stop:
				return
			default:
			}
			r := o.attach([streams]*uint64{offset(rand.Uint64N(size)), nil}, rand.IntN(2) == 0)
			buffer := make([]byte, 1+rand.IntN(10_000))
			for range 20 {
				chunk, _ := r.Take(buffer)
				if !bytes.Equal(chunk.Data, pattern(chunk.Offset, len(chunk.Data))) {
					t.Errorf("wrong bytes at %d", chunk.Offset)
				}
			}
			r.Close()
		}
	})
	writers.Wait()
	o.settle()
	close(stop)
	readers.Wait()
}
