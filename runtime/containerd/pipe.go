package containerd

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// pipes are two named pipes that the engine's shim connects to the streams of a process. At
// our ends they are one connection.
type pipes struct {
	stdinPath, stdoutPath string
	in                    *os.File // what the process writes
	out                   *os.File // what it reads
}

// newPipes makes pipes in dir. Their names go with Close.
func newPipes(dir, name string) (_ *pipes, err error) {
	p := &pipes{stdinPath: filepath.Join(dir, name+".in"), stdoutPath: filepath.Join(dir, name+".out")}
	defer func() {
		if err != nil {
			p.Close()
		}
	}()
	for _, path := range []string{p.stdinPath, p.stdoutPath} {
		if err := unix.Mkfifo(path, 0o600); err != nil {
			return nil, &os.PathError{Op: "mkfifo", Path: path, Err: err}
		}
	}
	// To open a pipe for both ways never waits for the other side. That we hold a reading end
	// of what we write hides the end of the process: the machine's watch sees that.
	if p.out, err = os.OpenFile(p.stdinPath, os.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0); err != nil {
		return nil, err
	}
	p.in, err = os.OpenFile(p.stdoutPath, os.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	return p, err
}

// Read reads what the process wrote.
func (p *pipes) Read(b []byte) (int, error) { return p.in.Read(b) }

// Write writes what the process reads.
func (p *pipes) Write(b []byte) (int, error) { return p.out.Write(b) }

// Close closes both, and removes their names.
func (p *pipes) Close() error {
	var errs []error
	for _, file := range []*os.File{p.in, p.out} {
		if file != nil {
			errs = append(errs, file.Close())
		}
	}
	for _, path := range []string{p.stdinPath, p.stdoutPath} {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
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
