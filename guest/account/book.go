package account

import (
	"io"
	"os"
	"sync"
	"syscall"
	"time"
)

// maxFile bounds what is read of /etc/passwd and /etc/group, which programs inside write.
const maxFile = 1 << 20

// Book reads the account files of a sandbox, again whenever they have changed. Its methods
// may be called concurrently.
type Book struct {
	passwd, group string
	turns         chan struct{}

	mu         sync.Mutex
	passwdSeen version
	groupSeen  version
	users      *users
	groups     *groups
	defaults   Defaults
}

// Open returns the Book of the files at the two paths. A missing file is an empty one.
func Open(passwd, group string) *Book {
	return &Book{
		passwd: passwd, group: group, turns: make(chan struct{}, parallel),
		users: parseUsers(""), groups: parseGroups(""), defaults: initial(),
	}
}

// version tells states of a file apart.
type version struct {
	device, inode uint64
	size          int64
	changed       time.Time
}

// read returns the present state of both files, which is never modified.
func (b *Book) read() (*users, *groups) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if text, changed := reread(b.passwd, &b.passwdSeen); changed {
		b.users = parseUsers(text)
	}
	if text, changed := reread(b.group, &b.groupSeen); changed {
		b.groups = parseGroups(text)
	}
	return b.users, b.groups
}

// reread returns a file's text where it differs from the version seen before.
func reread(path string, seen *version) (text string, changed bool) {
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil || st.Mode&syscall.S_IFMT != syscall.S_IFREG {
		changed = *seen != version{}
		*seen = version{}
		return "", changed
	}
	now := version{uint64(st.Dev), st.Ino, st.Size, time.Unix(st.Mtim.Unix())}
	if now == *seen {
		return "", false
	}
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return "", false
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxFile))
	if err != nil {
		return "", false
	}
	*seen = now
	return string(data), true
}
