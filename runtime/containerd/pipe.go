package containerd

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// pipes are two named pipes that the engine's shim connects to the streams of a process. At
// our ends they are one connection.
type pipes struct {
	stdinPath, stdoutPath, stderrPath string

	in   *os.File // what the process writes
	out  *os.File // what it reads
	errs *os.File // what it complains of
	said tail

	drained sync.WaitGroup
	once    sync.Once
}

// newPipes makes pipes in dir. Their names go with Close.
func newPipes(dir, name string) (_ *pipes, err error) {
	p := &pipes{stdinPath: filepath.Join(dir, name+".in"), stdoutPath: filepath.Join(dir, name+".out"), stderrPath: filepath.Join(dir, name+".err")}
	defer func() {
		if err != nil {
			p.Close()
		}
	}()
	for _, path := range p.paths() {
		if err := unix.Mkfifo(path, 0o600); err != nil {
			return nil, &os.PathError{Op: "mkfifo", Path: path, Err: err}
		}
	}
	// To open a pipe for both ways never waits for the other side. That we hold a reading end
	// of what we write hides the end of the process: the machine's watch sees that.
	if p.out, err = os.OpenFile(p.stdinPath, os.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0); err != nil {
		return nil, err
	}
	if p.in, err = os.OpenFile(p.stdoutPath, os.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0); err != nil {
		return nil, err
	}
	// Shims want a place for complaints too. They are read, for the process not to block.
	if p.errs, err = os.OpenFile(p.stderrPath, os.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0); err != nil {
		return nil, err
	}
	p.drained.Go(func() { _, _ = io.Copy(&p.said, p.errs) })
	return p, nil
}

func (p *pipes) paths() []string { return []string{p.stdinPath, p.stdoutPath, p.stderrPath} }

// tail keeps the last of what is written.
type tail struct {
	mu   sync.Mutex
	text []byte
}

const longestTail = 1 << 10

// Write implements io.Writer.
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, p...)
	t.text = t.text[max(0, len(t.text)-longestTail):]
	return len(p), nil
}

// String returns what was kept, as text for people.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(strings.ToValidUTF8(string(t.text), "?"))
}

// Read reads what the process wrote.
func (p *pipes) Read(b []byte) (int, error) { return p.in.Read(b) }

// Write writes what the process reads.
func (p *pipes) Write(b []byte) (int, error) { return p.out.Write(b) }

// Close closes them, and removes their names.
func (p *pipes) Close() error {
	var errs []error
	p.once.Do(func() {
		for _, file := range []*os.File{p.in, p.out, p.errs} {
			if file != nil {
				errs = append(errs, file.Close())
			}
		}
		p.drained.Wait()
		for _, path := range p.paths() {
			if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
				errs = append(errs, err)
			}
		}
	})
	return errors.Join(errs...)
}

// LocalAddr returns the address, which is a path.
func (p *pipes) LocalAddr() net.Addr { return &net.UnixAddr{Name: p.stdoutPath, Net: "unix"} }

// RemoteAddr returns the address, which is a path.
func (p *pipes) RemoteAddr() net.Addr { return &net.UnixAddr{Name: p.stdinPath, Net: "unix"} }

// SetDeadline bounds reads and writes.
func (p *pipes) SetDeadline(t time.Time) error {
	return errors.Join(p.in.SetDeadline(t), p.out.SetDeadline(t))
}

// SetReadDeadline bounds reads.
func (p *pipes) SetReadDeadline(t time.Time) error { return p.in.SetReadDeadline(t) }

// SetWriteDeadline bounds writes.
func (p *pipes) SetWriteDeadline(t time.Time) error { return p.out.SetWriteDeadline(t) }
