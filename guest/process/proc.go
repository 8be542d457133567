package process

import (
	"bytes"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// markerVariable is the environment variable by which a command's processes are known.
// They inherit it whatever session, group or parent they come to have.
const markerVariable = "COVE_PROCESS"

// identity tells a process apart from a later one with the same pid.
type identity struct {
	pid     int
	started uint64 // clock ticks since boot
}

// record is what /proc says of a process.
type record struct {
	identity
	parent, group, session int
	dead                   bool // a zombie: it does nothing any more, and can't be killed
	marker                 string
}

// listProcesses returns every process but this one and kernel threads. A process that ends
// meanwhile may be missing.
func listProcesses() ([]record, error) {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	own := os.Getpid()
	buffer := make([]byte, 16<<10)
	list := make([]record, 0, len(names))
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil || pid == own {
			continue
		}
		if r, ok := readProcess(pid, name, buffer); ok {
			list = append(list, r)
		}
	}
	return list, nil
}

// readProcess reads one process.
func readProcess(pid int, name string, buffer []byte) (record, bool) {
	n := readSome("/proc/"+name+"/stat", buffer)
	// The name in parentheses may contain anything, also parentheses.
	behind := bytes.LastIndexByte(buffer[:n], ')')
	if behind < 0 {
		return record{}, false
	}
	fields := strings.Fields(string(buffer[behind+1 : n]))
	if len(fields) < 20 {
		return record{}, false
	}
	r := record{identity: identity{pid: pid}}
	r.dead = fields[0] == "Z" || fields[0] == "X"
	numbers := [...]*int{&r.parent, &r.group, &r.session}
	for i, number := range numbers {
		var err error
		if *number, err = strconv.Atoi(fields[i+1]); err != nil {
			return record{}, false
		}
	}
	started, err := strconv.ParseUint(fields[19], 10, 64)
	if err != nil {
		return record{}, false
	}
	r.started = started
	if !r.dead {
		r.marker = readMarker("/proc/"+name+"/environ", buffer)
	}
	return r, true
}

// readMarker returns the marker in an environment, or "".
func readMarker(path string, buffer []byte) string {
	const key = markerVariable + "="
	fd, err := syscall.Open(path, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return ""
	}
	defer syscall.Close(fd)
	held := 0 // bytes of the buffer that are in use
	for {
		n, err := retry(func() (int, error) { return syscall.Read(fd, buffer[held:]) })
		if err != nil || n <= 0 {
			n = 0
		}
		text := buffer[:held+n]
		at := 0
		for at < len(text) {
			variable, _, whole := bytes.Cut(text[at:], []byte{0})
			if !whole && n > 0 && at > 0 {
				break // its rest comes with the next read
			}
			if value, ok := bytes.CutPrefix(variable, []byte(key)); ok && (whole || n == 0) {
				return string(value)
			}
			at = min(at+len(variable)+1, len(text))
		}
		if n == 0 {
			return ""
		}
		held = copy(buffer, text[at:])
	}
}

// readSome reads the beginning of a file, as much as fits the buffer. Package os would
// register each file with the poller, to no use.
func readSome(path string, buffer []byte) int {
	fd, err := syscall.Open(path, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return 0
	}
	defer syscall.Close(fd)
	n, err := retry(func() (int, error) { return syscall.Read(fd, buffer) })
	if err != nil && err != io.EOF {
		return 0
	}
	return max(n, 0)
}
