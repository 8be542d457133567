package process

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/covehq/cove"
)

// killPatience bounds the killing of one tree. Only processes stuck in the kernel, or a
// fork bomb that outruns us, take as long.
const killPatience = 5 * time.Second

// tree is a command and everything that it started. Neither parents nor sessions nor
// groups survive what daemons do, so that a process belongs to the tree for any of these:
//
//   - it has the command's marker in its environment;
//   - it is in a session in which one of the tree was seen;
//   - its parent belongs to the tree;
//   - it lost its parent and its environment, and this command alone was running when it
//     was started.
type tree struct {
	child  *child
	marker string
	trees  *forest

	mu       sync.Mutex // one kill at a time
	sessions map[int]struct{}
}

// clearLooks is how many looks in a row must find nothing of a tree that had something: one
// is not taken at an instant, and a process may start another and end while it is under way.
const clearLooks = 3

// kill ends the tree and returns how many processes it killed. It looks again until none
// of the tree is left, for what is being killed may have forked meanwhile.
func (t *tree) kill() (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	killed := map[identity]struct{}{}
	deadline, clear := time.Now().Add(killPatience), 0
	for pause := time.Millisecond; ; pause = min(2*pause, 20*time.Millisecond) {
		all, err := t.trees.look()
		if err != nil {
			return len(killed), fmt.Errorf("list processes: %w", err)
		}
		members := t.members(all)
		if len(members) > 0 {
			clear = 0
		} else if clear++; clear == clearLooks || len(killed) == 0 {
			return len(killed), nil
		}
		var refused error
		for _, m := range members {
			switch err := t.killOne(m.pid); {
			case err == nil:
				killed[m.identity] = struct{}{}
			case !errors.Is(err, os.ErrProcessDone):
				refused = err
			}
		}
		if len(members) > 0 && time.Now().After(deadline) {
			return len(killed), &cove.Error{
				Code: cove.Internal, Op: "kill", Err: errors.Join(fmt.Errorf("%d processes are left", len(members)), refused),
				Hint: "destroy the sandbox",
			}
		}
		time.Sleep(pause) // for the kernel to tear down what was killed; there is no event for it
	}
}

func (t *tree) killOne(pid int) error {
	if pid == t.child.pid {
		return t.child.signal(syscall.SIGKILL, false)
	}
	err := syscall.Kill(pid, syscall.SIGKILL)
	if errors.Is(err, syscall.ESRCH) {
		return os.ErrProcessDone
	}
	return err
}

// members returns the living members of the tree among all processes, and remembers their
// sessions for the next look. Holding t.mu.
func (t *tree) members(all []record) []record {
	known := map[int]bool{t.child.pid: !t.child.isReaped()}
	var members []record
	for grown := true; grown; { // until a pass finds no descendant of the last one's
		grown = false
		for _, r := range all {
			_, in := t.sessions[r.session]
			belongs := known[r.parent] || r.marker == t.marker || in && !t.trees.isOther(r.marker, t) ||
				r.pid == t.child.pid && known[r.pid] || t.trees.owns(t, r)
			if r.dead || !belongs || contains(members, r) {
				continue
			}
			grown = true
			known[r.pid] = true
			members = append(members, r)
			if r.session > 0 && r.session != t.trees.session {
				t.sessions[r.session] = struct{}{}
			}
		}
	}
	return members
}

func contains(list []record, r record) bool {
	for i := range list {
		if list[i].pid == r.pid {
			return true
		}
	}
	return false
}

// ended notes the end of the command itself.
func (t *tree) ended() { t.trees.ended(t) }

// isReaped reports whether the child's pid may belong to another process by now.
func (c *child) isReaped() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.reaped
}

// maxLives is how many past lives a forest remembers.
const maxLives = 1024

// forest is all trees: which marker is whose, and who lived when.
type forest struct {
	session  int // this process's own, which belongs to no tree
	adopting int // our pid if we inherit orphans, else 0
	looking  sync.Mutex

	queue sync.Mutex
	next  *look // that has not begun

	mu        sync.Mutex
	markers   map[string]*tree
	lives     []life
	forgotten int64 // the latest end of a life that is not in lives any more
}

// life is the time between the start of a command and its end, in clock ticks since boot,
// as /proc tells the start of a process.
type life struct {
	tree       *tree
	start, end int64 // end is 0 while it lives
}

// slack is by how many ticks the kernel's account of a start may differ from ours.
const slack = 2

func newForest(orphans bool) *forest {
	session, err := unix.Getsid(0)
	if err != nil {
		session = 0
	}
	f := &forest{session: session, markers: map[string]*tree{}}
	if orphans {
		f.adopting = os.Getpid()
	}
	return f
}

// look is one list of all processes.
type look struct {
	begun bool
	all   []record
	err   error
}

// look lists all processes, as they are at some time after the call. There is one look at a
// time, as each holds a thread; who waits for the next one shares it, and changes nothing
// of it.
func (f *forest) look() ([]record, error) {
	f.queue.Lock()
	if f.next == nil {
		f.next = new(look)
	}
	l := f.next
	f.queue.Unlock()

	f.looking.Lock()
	defer f.looking.Unlock()
	if !l.begun {
		f.queue.Lock()
		l.begun, f.next = true, nil
		f.queue.Unlock()
		l.all, l.err = listProcesses()
	}
	return l.all, l.err
}

// ticks returns the time since boot in hundredths of a second, which is the unit of /proc
// on every architecture (USER_HZ).
func ticks() int64 {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return 0
	}
	return now.Nano() / int64(10*time.Millisecond)
}

// grow adds the tree of a command that is about to be started, at the given time. It is
// there before the fork: a child that has not executed its program yet looks like an orphan
// of whatever else is running. The tree is then rooted in the child, or felled.
func (f *forest) grow(marker string, start int64) *tree {
	t := &tree{marker: marker, trees: f, sessions: map[int]struct{}{}}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.markers[marker] = t
	if len(f.lives) >= maxLives {
		for i, l := range f.lives {
			if l.end != 0 {
				f.forgotten = max(f.forgotten, l.end)
				f.lives = append(f.lives[:i], f.lives[i+1:]...)
				break
			}
		}
	}
	f.lives = append(f.lives, life{tree: t, start: start})
	return t
}

// root gives the tree its first process. Nobody else has the tree yet.
func (t *tree) root(c *child) {
	t.child = c
	t.sessions[c.pid] = struct{}{}
}

func (f *forest) ended(t *tree) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range f.lives {
		if f.lives[i].tree == t {
			f.lives[i].end = ticks()
		}
	}
}

// fell removes a tree that is no longer retained. Its life stays on record.
func (f *forest) fell(t *tree) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.markers, t.marker)
	for i := range f.lives {
		if f.lives[i].tree == t {
			f.lives[i].tree = nil
		}
	}
}

// isOther reports whether a marker is that of another tree.
func (f *forest) isOther(marker string, t *tree) bool {
	if marker == "" {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	other, ok := f.markers[marker]
	return ok && other != t
}

// owns reports whether r is an orphan without a marker that only t can have started.
func (f *forest) owns(t *tree, r record) bool {
	if f.adopting == 0 || r.parent != f.adopting || f.isOther(r.marker, t) {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	at := int64(r.started)
	if at <= f.forgotten+slack {
		return false
	}
	owned := false
	for _, l := range f.lives {
		if at < l.start-slack || l.end != 0 && at > l.end+slack {
			continue
		}
		if l.tree != t {
			return false
		}
		owned = true
	}
	return owned
}
