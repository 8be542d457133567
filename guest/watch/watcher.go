// Package watch reports what happens to the files of a sandbox, by inotify, over the wire.
package watch

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/covehq/cove"
	"github.com/covehq/cove/guest/account"
	"github.com/covehq/cove/guest/file"
	wire "github.com/covehq/cove/guest/wire/gen/filesystem"
)

const (
	// maxQueue is how many events wait for a reader before they are lost.
	maxQueue = 8192
	// maxDirs is how many directories one watcher watches.
	maxDirs = 16384
)

// interest is what is asked of the kernel for each directory.
const interest = unix.IN_CREATE | unix.IN_MODIFY | unix.IN_DELETE | unix.IN_ATTRIB | unix.IN_MOVED_FROM | unix.IN_MOVED_TO |
	unix.IN_DELETE_SELF | unix.IN_ONLYDIR | unix.IN_EXCL_UNLINK

// watcher watches one directory, or a tree.
type watcher struct {
	book      *account.Book
	place     file.Place
	recursive bool
	entries   bool
	inotify   *os.File
	ready     chan struct{} // has a value when take has something new
	ended     chan struct{} // closed when run has returned

	// Used by run alone, once it runs.
	dirs      map[int32]string // watch descriptor -> path below the root, "" for the root
	ids       map[string]int32
	announced map[string]struct{} // created entries that a scan found before the kernel told
	uploads   map[uint32]bool     // renames of finished uploads, by cookie: whether one replaces

	mu     sync.Mutex
	events []*wire.FilesystemEvent
	failed error
}

// newWatcher begins to watch: what happens from its return on will be reported.
func newWatcher(book *account.Book, place file.Place, recursive, entries, network bool) (*watcher, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, exhausted("the kernel gives no more watches: " + err.Error())
	}
	w := &watcher{
		book: book, place: place, recursive: recursive, entries: entries,
		inotify: os.NewFile(uintptr(fd), "inotify"),
		ready:   make(chan struct{}, 1), ended: make(chan struct{}),
		dirs: map[int32]string{}, ids: map[string]int32{},
		announced: map[string]struct{}{}, uploads: map[uint32]bool{},
	}
	err = book.As(place.Account, func() error {
		if !network {
			return refuseNetwork(place.Path)
		}
		return nil
	})
	if err == nil {
		err = w.add("", nil)
	}
	if err != nil {
		_ = w.inotify.Close()
		return nil, file.Failure(place.Path, err)
	}
	go w.run()
	return w, nil
}

// refuseNetwork refuses a directory on a network filesystem, whose other users' changes
// the kernel does not see.
func refuseNetwork(path string) error {
	const cifs, smb2 = 0xff534d42, 0xfe534d42
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return err
	}
	switch uint32(st.Type) {
	case unix.NFS_SUPER_MAGIC, unix.SMB_SUPER_MAGIC, cifs, smb2:
		return cove.Errorf(cove.Invalid, "", path, "the directory is on a network filesystem, where changes made elsewhere are not seen",
			"allow network mounts in the request")
	}
	return nil
}

// close ends the watching and waits for run.
func (w *watcher) close() {
	_ = w.inotify.Close()
	<-w.ended
}

// add watches a directory below the root, and with recursive those in it. What it finds in
// them is given to found.
func (w *watcher) add(dir string, found func(path string)) error {
	path := filepath.Join(w.place.Path, dir)
	var children []os.DirEntry
	err := w.book.As(w.place.Account, func() error {
		if err := w.register(path, dir); err != nil || !w.recursive {
			return err
		}
		var err error
		children, err = os.ReadDir(path)
		return err
	})
	if err != nil {
		return err
	}
	for _, child := range children {
		below := filepath.Join(dir, child.Name())
		if found != nil {
			found(below)
		}
		if !child.IsDir() {
			continue
		}
		// What is gone again, or may not be read, is not watched.
		var refused *cove.Error
		if err := w.add(below, found); errors.As(err, &refused) {
			return err
		}
	}
	return nil
}

// register asks the kernel for a directory's events. It runs as the user.
func (w *watcher) register(path, dir string) error {
	if len(w.dirs) >= maxDirs {
		return exhausted("there are too many directories to watch")
	}
	mask := uint32(interest)
	if dir != "" {
		mask |= unix.IN_DONT_FOLLOW
	}
	id, err := w.control(func(fd int) (int, error) { return unix.InotifyAddWatch(fd, path, mask) })
	if errors.Is(err, syscall.ENOSPC) {
		return exhausted("the kernel gives no more watches")
	}
	if err != nil {
		return err
	}
	w.dirs[int32(id)] = dir
	w.ids[dir] = int32(id)
	return nil
}

// forget stops watching a directory that was moved away, and those in it.
func (w *watcher) forget(dir string) {
	for path, id := range w.ids {
		if path == dir || strings.HasPrefix(path, dir+"/") {
			_, _ = w.control(func(fd int) (int, error) { return unix.InotifyRmWatch(fd, uint32(id)) })
			delete(w.ids, path)
			delete(w.dirs, id)
		}
	}
}

// control calls f with the inotify descriptor.
func (w *watcher) control(f func(fd int) (int, error)) (n int, err error) {
	raw, err := w.inotify.SyscallConn()
	if err != nil {
		return 0, err
	}
	if failed := raw.Control(func(fd uintptr) { n, err = f(int(fd)) }); failed != nil {
		return 0, failed
	}
	return n, err
}

// run reads the kernel's events until close, or until the root is gone.
func (w *watcher) run() {
	defer close(w.ended)
	buffer := make([]byte, 64<<10)
	for {
		n, err := w.inotify.Read(buffer)
		if err != nil {
			return
		}
		for rest := buffer[:n]; len(rest) >= unix.SizeofInotifyEvent; {
			id := int32(binary.NativeEndian.Uint32(rest))
			mask := binary.NativeEndian.Uint32(rest[4:])
			cookie := binary.NativeEndian.Uint32(rest[8:])
			end := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(rest[12:]))
			if end > len(rest) {
				break
			}
			name, _, _ := strings.Cut(string(rest[unix.SizeofInotifyEvent:end]), "\x00")
			rest = rest[end:]
			if !w.handle(id, mask, cookie, name) {
				return
			}
		}
	}
}

// handle handles one event of the kernel's, and returns whether there will be more.
func (w *watcher) handle(id int32, mask, cookie uint32, name string) bool {
	if mask&unix.IN_Q_OVERFLOW != 0 {
		w.fail(exhausted("events came faster than they could be read, and some are lost"))
		return true
	}
	dir, known := w.dirs[id]
	switch {
	case !known:
		return true
	case mask&(unix.IN_IGNORED|unix.IN_DELETE_SELF) != 0:
		delete(w.dirs, id)
		if w.ids[dir] == id {
			delete(w.ids, dir)
		}
		if dir == "" {
			w.fail(cove.Errorf(cove.NotFound, "", w.place.Path, "the watched directory is gone", "watch its parent directory"))
		}
		return dir != ""
	case name == "": // about the directory itself; its parent tells of that
		return true
	}
	path := filepath.Join(dir, name)
	if w.upload(path, name, mask, cookie) {
		return true
	}
	_, told := w.announced[path]
	delete(w.announced, path)
	if told && mask&unix.IN_CREATE != 0 {
		return true
	}
	if kind := kindOf(mask); kind != 0 {
		w.put(kind, path)
	}
	if w.recursive && mask&unix.IN_ISDIR != 0 {
		w.follow(path, mask)
	}
	return true
}

// upload hides the file that an upload writes to, and tells of its rename as if the file
// had been written in place. It returns whether it has dealt with the event.
func (w *watcher) upload(path, name string, mask, cookie uint32) bool {
	if pending, replaces := file.Pending(name); pending {
		if mask&unix.IN_MOVED_FROM != 0 {
			clear(w.uploads) // the other half of a rename follows at once
			w.uploads[cookie] = replaces
		}
		return true
	}
	replaces, finished := w.uploads[cookie]
	if !finished || mask&unix.IN_MOVED_TO == 0 {
		return false
	}
	if !replaces {
		w.put(wire.EventType_EVENT_TYPE_CREATE, path)
	}
	w.put(wire.EventType_EVENT_TYPE_WRITE, path)
	return true
}

// follow keeps the watched directories those that are in the tree.
func (w *watcher) follow(path string, mask uint32) {
	switch {
	case mask&unix.IN_MOVED_FROM != 0:
		w.forget(path)
	case mask&(unix.IN_CREATE|unix.IN_MOVED_TO) != 0:
		err := w.add(path, func(below string) {
			if mask&unix.IN_CREATE != 0 { // what was moved here was created elsewhere
				w.announce(below)
			}
		})
		var refused *cove.Error
		if errors.As(err, &refused) {
			w.fail(refused)
		}
	}
}

// announce tells of a file that a scan found in a new directory, since the kernel may have
// begun to watch that too late to tell.
func (w *watcher) announce(path string) {
	if pending, _ := file.Pending(filepath.Base(path)); pending {
		return
	}
	if len(w.announced) > maxQueue { // the kernel told of none of these
		clear(w.announced)
	}
	w.announced[path] = struct{}{}
	w.put(wire.EventType_EVENT_TYPE_CREATE, path)
}

// kindOf returns the event's type in the words of E2B's agent, or 0 for none.
func kindOf(mask uint32) wire.EventType {
	switch {
	case mask&(unix.IN_CREATE|unix.IN_MOVED_TO) != 0:
		return wire.EventType_EVENT_TYPE_CREATE
	case mask&unix.IN_MODIFY != 0:
		return wire.EventType_EVENT_TYPE_WRITE
	case mask&unix.IN_DELETE != 0:
		return wire.EventType_EVENT_TYPE_REMOVE
	case mask&unix.IN_MOVED_FROM != 0:
		return wire.EventType_EVENT_TYPE_RENAME
	case mask&unix.IN_ATTRIB != 0:
		return wire.EventType_EVENT_TYPE_CHMOD
	}
	return 0
}

// put queues an event. Writes to one file in a row are one.
func (w *watcher) put(kind wire.EventType, path string) {
	event := &wire.FilesystemEvent{Name: strings.ToValidUTF8(path, "?"), Type: kind}
	if w.entries && kind != wire.EventType_EVENT_TYPE_REMOVE && kind != wire.EventType_EVENT_TYPE_RENAME {
		_ = w.book.As(w.place.Account, func() (err error) {
			event.Entry, err = file.Describe(w.book, filepath.Join(w.place.Path, path))
			return err // gone again
		})
		if event.Entry != nil && !file.Sendable(event.Entry) {
			event.Entry = nil
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if last := len(w.events) - 1; last >= 0 && kind == wire.EventType_EVENT_TYPE_WRITE &&
		w.events[last].Type == kind && w.events[last].Name == event.Name {
		w.events[last] = event
		return
	}
	if len(w.events) >= maxQueue {
		w.events = nil
		w.failed = exhausted("events came faster than they were fetched, and some are lost")
	} else {
		w.events = append(w.events, event)
	}
	w.signal()
}

func (w *watcher) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.failed = err
	w.signal()
}

// signal wakes the reader. Holding w.mu.
func (w *watcher) signal() {
	select {
	case w.ready <- struct{}{}:
	default:
	}
}

// take returns the events that wait, and then, once, what went wrong.
func (w *watcher) take() ([]*wire.FilesystemEvent, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.events) > 0 {
		events := w.events
		w.events = nil
		if w.failed != nil {
			w.signal()
		}
		return events, nil
	}
	err := w.failed
	w.failed = nil
	return nil, err
}

func exhausted(message string) error {
	return cove.Errorf(cove.Exhausted, "", "", message, "watch fewer directories, and fetch events often")
}
