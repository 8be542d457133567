package process

import (
	"errors"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// busyPipe is how large a pipe becomes whose writer fills it: each system call on either
// side then moves more. It is what Linux lets an ordinary user have.
const busyPipe = 1 << 20

// A program that writes without pause in small pieces would cost a wake-up for each. After
// steady such reads in a row, each within pace of the one before, the pipe is given pace to
// fill before it is read again.
const (
	smallRead = 32 << 10
	steady    = 16
	pace      = 200 * time.Microsecond
)

// pump moves what is written to one pipe or terminal into a stream of an output.
type pump struct {
	source  *os.File
	output  *output
	stream  int
	grown   bool
	streak  int           // small reads in a row
	last    time.Time     // of a read
	drained chan struct{} // closed when a drain is complete, or the source is at its end
	ended   chan struct{} // closed when the source is at its end
}

func newPump(source *os.File, o *output, stream int) *pump {
	o.open(stream)
	return &pump{source: source, output: o, stream: stream, drained: make(chan struct{}), ended: make(chan struct{})}
}

// run pumps until everybody has closed the other end.
func (p *pump) run() {
	defer p.source.Close()
	defer close(p.ended)
	defer p.output.finish(p.stream)
	for {
		space := p.output.reserve(p.stream)
		n, err := p.source.Read(space)
		p.publish(space, n)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			err = p.empty()
			close(p.drained)
		}
		if err != nil { // io.EOF, or EIO of a terminal that nobody has open any more
			return
		}
		p.rest(n)
	}
}

// rest waits for the pipe to fill where that pays.
func (p *pump) rest(n int) {
	now := time.Now()
	if n >= smallRead || now.Sub(p.last) > 2*pace {
		p.streak = 0
	}
	p.streak++
	p.last = now
	if p.streak > steady {
		p.grow()
		time.Sleep(pace)
	}
}

// publish commits what was read, and widens the pipe of a busy writer.
func (p *pump) publish(space []byte, n int) {
	if n > 0 {
		p.output.commit(p.stream, n)
	}
	if n == len(space) && n == largeSegment || n >= 64<<10 {
		p.grow()
	}
}

func (p *pump) grow() {
	if p.grown {
		return
	}
	p.grown = true
	_ = p.control(func(fd int) error {
		_, err := unix.FcntlInt(uintptr(fd), unix.F_SETPIPE_SZ, busyPipe)
		return err // a terminal, or a user with too many pipes: slower, not wrong
	})
}

// drain makes run read what is there now and then close drained. It is called once.
func (p *pump) drain() {
	_ = p.source.SetReadDeadline(aLongTimeAgo)
}

// empty reads what is in the pipe now, and no more: others may go on writing.
func (p *pump) empty() error {
	if err := p.source.SetReadDeadline(noDeadline); err != nil {
		return err
	}
	left := 0
	err := p.control(func(fd int) (err error) {
		left, err = unix.IoctlGetInt(fd, unix.TIOCINQ)
		return err
	})
	if err != nil {
		left = busyPipe
	}
	for left > 0 {
		space := p.output.reserve(p.stream)
		n := 0
		err := p.control(func(fd int) (err error) {
			n, err = retry(func() (int, error) { return syscall.Read(fd, space) })
			return err
		})
		if errors.Is(err, syscall.EAGAIN) {
			return nil
		}
		if err != nil {
			return err
		}
		if n == 0 {
			return os.ErrClosed
		}
		p.publish(space, n)
		left -= n
	}
	return nil
}

// control calls f with the descriptor.
func (p *pump) control(f func(fd int) error) error {
	raw, err := p.source.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if err := raw.Control(func(fd uintptr) { failed = f(int(fd)) }); err != nil {
		return err
	}
	return failed
}
