package egress

import (
	"io"
	"time"

	"github.com/covehq/cove"
)

// How many spare streams wait for the agent to ask something.
const (
	// minWaiting wait where something may be reached, so that a connection finds one while
	// that of the one before it is yet to be replaced.
	minWaiting = 2
	maxWaiting = 16
	// replaceAfter is how long no stream is to be taken before those that were are replaced,
	// while enough are left: opening one costs as much as a connection, and would delay the
	// one that is being made.
	replaceAfter = 3 * time.Millisecond
	calmAfter    = 2 * time.Second // without a shortage of spares, fewer are kept
	shortPause   = 50 * time.Millisecond
	longPause    = 5 * time.Second
)

// keep opens spare streams as they are taken, until the session ends.
func (s *Session) keep() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	defer s.lull.Stop()
	for {
		next := s.fill()
		if next > 0 {
			timer.Reset(next)
		}
		select {
		case <-s.ctx.Done():
			return
		case <-s.wake:
		case <-timer.C:
		case <-s.lull.C:
			s.mu.Lock()
			s.resting = false
			s.mu.Unlock()
		}
	}
}

// fill begins as many streams as are missing, and returns when to look again; 0 is when
// woken.
func (s *Session) fill() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if least := s.least(); s.target <= least {
		s.target = least
	} else if now.Sub(s.short) > calmAfter {
		s.target, s.short = max(s.target/2, least), now
	}
	if left := s.resume.Sub(now); left > 0 {
		return left
	}
	want := s.target
	if s.pause > 0 {
		want = 1 // until one works
	}
	if s.resting && s.waiting > s.few() {
		want = 0
	}
	for ; s.waiting+s.opening < want && len(s.spares)-s.waiting-len(s.links) < maxAsking && s.ctx.Err() == nil; s.opening++ {
		s.work.Go(s.spare)
	}
	if s.target > s.least() {
		return calmAfter
	}
	return 0
}

// least is how many streams wait at least.
func (s *Session) least() int {
	if s.rules.Load().mode == cove.NetworkNone {
		return 1 // for lookups, which are only told of
	}
	return minWaiting
}

// few is how many are too few to wait for replacements. s.mu is held.
func (s *Session) few() int { return s.target / 4 }

// poke makes keep look again.
func (s *Session) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// arrived notes a stream that was opened, or could not be, and whether it is to be served.
func (s *Session) arrived(stream io.Closer, err error) bool {
	defer s.poke()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.opening--
	if err == nil && s.ctx.Err() == nil {
		s.spares[stream] = struct{}{}
		s.waiting++
		return true
	}
	s.slower()
	return false
}

// slower lengthens the pause before the next stream is opened. s.mu is held.
func (s *Session) slower() {
	s.pause = min(max(2*s.pause, shortPause), longPause)
	s.resume = time.Now().Add(s.pause)
}

// taken notes that the agent asks something on a stream that waited.
func (s *Session) taken() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pause, s.resume = 0, time.Time{}
	if s.waiting--; s.waiting <= s.few() {
		s.target, s.short, s.resting = min(2*s.target, maxWaiting), time.Now(), false
		s.poke()
		return
	}
	s.resting = true
	s.lull.Reset(replaceAfter)
}

// waits notes that a stream waits again, and says whether it may: enough others do.
func (s *Session) waits() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiting >= maxWaiting {
		return false
	}
	if s.waiting++; s.waiting < s.target {
		s.poke()
	}
	return true
}

// left notes that a stream is gone. waited says that it was waiting, and unused that
// nothing was ever asked on it: an agent that closes what it is given gets it more slowly.
func (s *Session) left(stream io.Closer, waited, unused bool) {
	defer s.poke()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.spares, stream)
	if waited {
		s.waiting--
	}
	if unused {
		s.slower()
	}
}
