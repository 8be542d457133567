package intercept

import (
	"errors"
	"io"
	"time"
)

const (
	// chunk is how much of a body is read at a time.
	chunk = 32 << 10
	// pause is how long the end of what came so far is kept back when it may be the
	// beginning of a pattern: one that the network cut in two is whole long before, and a
	// message that happens to end in such a byte must not wait for the next one.
	pause = 100 * time.Millisecond
	// certain is how much of a pattern must be there to be kept back for as long as it
	// takes: so much is there by no accident.
	certain = 8
)

// errPieces says that a placeholder came in pieces, so far apart in time that the first
// one had gone already.
var errPieces = errors.New("a placeholder came in pieces")

// stream replaces patterns in a body as it passes, with bounded memory.
type stream struct {
	src    io.Reader
	finder *finder
	// found hears of each pattern before it is replaced; its error ends the body. nil is
	// fine.
	found func(secret int) error
	// whole says that a pattern must be replaced whole or not at all. Else, of one of which
	// the first bytes have been passed on, the others are replaced.
	whole bool
	// spawn starts a goroutine that its owner waits for, or returns false when it is too
	// late for one. nil never starts one: then nothing is let go before more has come.
	spawn func(func()) bool

	// buf is what has been read: buf[:out] has been passed on, buf[out:ready] can be, and
	// buf[held:end] may be the beginning of a pattern. ready is held, or end where it was
	// let go of.
	buf                   []byte
	out, ready, held, end int
	failed                error
	pending               chan result // of a read in the background, or nil
}

type result struct {
	data []byte
	err  error
}

// Read implements io.Reader.
func (s *stream) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for s.out >= s.ready {
		if s.failed != nil {
			return 0, s.failed
		}
		s.fill()
	}
	n := copy(p, s.buf[s.out:s.ready])
	s.out += n
	return n, nil
}

// fill reads more, or lets go of what has been kept back for long enough. All that was
// ready has been passed on.
func (s *stream) fill() {
	s.makeRoom()
	impatient := s.ready < s.end && s.end-s.held < certain
	if s.pending == nil && (!impatient || !s.readBehind()) {
		s.take(s.src.Read(s.buf[s.end : s.end+chunk]))
		return
	}
	if !impatient {
		s.accept(<-s.pending)
		return
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case r := <-s.pending:
		s.accept(r)
	case <-timer.C:
		s.ready = s.end
	}
}

// readBehind starts a read in the background.
func (s *stream) readBehind() bool {
	pending := make(chan result, 1)
	read := func() {
		data := make([]byte, chunk)
		n, err := s.src.Read(data)
		pending <- result{data[:n], err}
	}
	if s.spawn == nil || !s.spawn(read) {
		return false
	}
	s.pending = pending
	return true
}

func (s *stream) accept(r result) {
	s.pending = nil
	s.take(copy(s.buf[s.end:], r.data), r.err)
}

// makeRoom moves what is still needed to the beginning of buf: less than the longest
// pattern has.
func (s *stream) makeRoom() {
	if s.buf == nil {
		s.buf = make([]byte, s.finder.longest+chunk)
	}
	if len(s.buf)-s.end >= chunk {
		return
	}
	from := min(s.held, s.out)
	copy(s.buf, s.buf[from:s.end])
	s.out, s.ready, s.held, s.end = s.out-from, s.ready-from, s.held-from, s.end-from
}

// take adds n bytes that have been read into buf, and replaces what is whole now.
func (s *stream) take(n int, err error) {
	s.end += n
	if failed := s.scan(); failed != nil {
		s.ready, s.failed = s.out, failed
		return
	}
	s.ready = max(s.held, s.out)
	if err != nil {
		s.ready, s.failed = s.end, err
	}
}

func (s *stream) scan() error {
	b := s.buf[:s.end]
	for {
		at, which := s.finder.next(b, s.held)
		if at < 0 {
			break
		}
		p := s.finder.patterns[which]
		if s.found != nil {
			if err := s.found(p.secret); err != nil {
				return err
			}
		}
		gone := max(0, s.out-at) // bytes of it that have been passed on
		if gone > 0 && s.whole {
			return errPieces
		}
		copy(b[at+gone:], p.with[gone:])
		s.held = at + len(p.text)
	}
	s.held = s.finder.partial(b, s.held)
	return nil
}
