package daemon

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// maxLog is the size at which a log is set aside. One older log is kept, so that a
// daemon's logs never take more than twice this.
const maxLog = 8 << 20

// LogFile is a log that can't fill its file system: at maxLog it is renamed to end in
// ".1", in place of the one before, and begun anew.
type LogFile struct {
	path  string
	limit int64
	fds   []int

	mu   sync.Mutex
	file *os.File
	size int64
}

// OpenLog opens the log at path for appending, and points the given descriptors of this
// process at it as well, now and after every rotation: what the Go runtime prints when
// it dies belongs to the log.
func OpenLog(path string, fds ...int) (*LogFile, error) {
	log := &LogFile{path: path, limit: maxLog, fds: fds}
	return log, log.open()
}

func (l *LogFile) open() error {
	file, err := os.OpenFile(l.path, os.O_CREATE|os.O_WRONLY|os.O_APPEND|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	info, err := file.Stat()
	if err != nil {
		return errors.Join(err, file.Close())
	}
	for _, fd := range l.fds {
		if err := unix.Dup3(int(file.Fd()), fd, 0); err != nil {
			return errors.Join(fmt.Errorf("point descriptor %d at the log: %w", fd, err), file.Close())
		}
	}
	l.file, l.size = file, info.Size()
	return nil
}

// Write appends one or more whole lines.
func (l *LogFile) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.size > 0 && l.size+int64(len(p)) > l.limit {
		if err := l.rotate(); err != nil {
			return 0, err
		}
	}
	n, err := l.file.Write(p)
	l.size += int64(n)
	return n, err
}

func (l *LogFile) rotate() error {
	if err := os.Rename(l.path, l.path+".1"); err != nil {
		return err
	}
	old := l.file
	if err := l.open(); err != nil {
		return err
	}
	return old.Close()
}

// Close closes the log. The descriptors that were pointed at it stay there.
func (l *LogFile) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.file.Close()
}

// tail returns the last lines of what was written to the log at path from offset on.
func tail(path string, offset int64, lines int) string {
	const most = 16 << 10
	file, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer file.Close()
	if info, err := file.Stat(); err == nil {
		offset = max(offset, info.Size()-most)
	}
	text, err := io.ReadAll(io.LimitReader(io.NewSectionReader(file, offset, most), most))
	if err != nil {
		return ""
	}
	all := strings.Split(strings.TrimRight(string(text), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
