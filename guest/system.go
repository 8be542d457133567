package guest

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/covehq/cove"
	"github.com/covehq/cove/guest/account"
	"github.com/covehq/cove/guest/process"
)

// serveEnvs answers with the environment that every command gets.
func (a *Agent) serveEnvs(w http.ResponseWriter, _ *http.Request) {
	env := a.book.Defaults().Env
	if env == nil {
		env = map[string]string{}
	}
	writeJSON(w, env)
}

// serveInit sets the defaults for commands. The fields are those of E2B's agent, of which
// others are ignored, and some of Cove's.
func (a *Agent) serveInit(w http.ResponseWriter, r *http.Request) error {
	const most = 4 << 20
	var body struct {
		EnvVars        map[string]string
		DefaultUser    string
		DefaultWorkdir string
		Memory         int64 // bytes that the sandbox has, where it can't find out itself
		Ulimits        []cove.Ulimit
		Capabilities   []string // of commands, added
		Dropped        []string // capabilities of root's commands, taken away
		Accounts       bool     // the account files are the sandbox's to complete
	}
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, most))
	if err != nil {
		return err
	}
	if len(bytes.TrimSpace(data)) > 0 {
		if err := json.Unmarshal(data, &body); err != nil {
			return &cove.Error{Code: cove.Invalid, Op: "init", Err: err, Hint: "send a JSON object"}
		}
	}
	if err := process.CheckEnv(body.EnvVars); err != nil {
		return err
	}
	if body.Accounts {
		if err := a.book.Complete(); err != nil {
			a.log.Printf("users have the names of the image alone: %v", err)
		}
	}
	if body.DefaultUser != "" {
		if _, err := a.book.Lookup(body.DefaultUser); err != nil {
			return err
		}
	}
	if err := a.table.SetLimits(body.Ulimits); err != nil {
		return err
	}
	if err := a.setCapabilities(body.Capabilities, body.Dropped, body.DefaultUser); err != nil {
		return err
	}
	a.book.SetDefaults(account.Defaults{User: body.DefaultUser, Env: body.EnvVars, Workdir: body.DefaultWorkdir})
	if body.Memory > 0 {
		a.table.SetMemory(outputShare(body.Memory))
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// setCapabilities gives commands capabilities, of which the default user has to have the use,
// and takes others away.
func (a *Agent) setCapabilities(add, drop []string, user string) error {
	uid := os.Geteuid()
	if user != "" {
		found, err := a.book.Lookup(user)
		if err != nil {
			return err
		}
		uid = found.UID
	}
	return a.table.SetCapabilities(add, drop, uid)
}

func writeJSON(w http.ResponseWriter, value any) {
	w.Header().Set("Content-Type", "application/json")
	body, _ := json.Marshal(value) // maps, structs and numbers: it can't fail
	_, _ = w.Write(body)
}

// outputShare is how much of a sandbox's memory the output of its processes may take.
func outputShare(memory int64) int {
	const most = 256 << 20
	return int(min(memory/4, most))
}

// memoryLimit returns how much memory this process and its children may use together, as
// far as it can be seen from here.
func memoryLimit() int64 {
	limit := memoryInfo()["MemTotal"]
	for _, path := range []string{"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"} {
		if value, ok := readNumber(path); ok && value > 0 && value < limit {
			limit = value
		}
	}
	return limit
}

// memoryInfo returns /proc/meminfo, in bytes.
func memoryInfo() map[string]int64 {
	info := map[string]int64{}
	data, _ := os.ReadFile("/proc/meminfo")
	for line := range strings.Lines(string(data)) {
		name, rest, _ := strings.Cut(line, ":")
		if fields := strings.Fields(rest); len(fields) > 0 {
			kilobytes, _ := strconv.ParseInt(fields[0], 10, 64)
			info[name] = kilobytes << 10
		}
	}
	return info
}

func readNumber(path string) (int64, bool) {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, false
	}
	value, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
	return value, err == nil
}

// unbounded is the size from which a disk is not one: gVisor tells such of its overlay.
const unbounded = 1 << 50

// meter measures what the sandbox uses.
type meter struct {
	looking sync.Mutex // one look at all processes at a time: each holds a thread

	mu   sync.Mutex
	at   time.Time
	used time.Duration // processor time at that moment
}

func newMeter() *meter { return &meter{at: time.Now()} }

// serve answers in the words of E2B's agent, and with the number of processes.
func (m *meter) serve(w http.ResponseWriter, _ *http.Request) {
	m.looking.Lock()
	total, resident, processes := usage()
	m.looking.Unlock()
	info := memoryInfo()
	limit := memoryLimit()
	used := resident // /proc/meminfo is about the kernel, which may serve others too
	if current, ok := readNumber("/sys/fs/cgroup/memory.current"); ok {
		used = current
	}
	var disk unix.Statfs_t
	_ = unix.Statfs("/", &disk)
	size := uint64(disk.Bsize)
	if disk.Blocks > unbounded/max(size, 1) {
		disk = unix.Statfs_t{}
	}
	writeJSON(w, map[string]any{
		"ts":           time.Now().Unix(),
		"cpu_count":    runtime.NumCPU(),
		"cpu_used_pct": m.percent(total),
		"cpu_time_ms":  total.Milliseconds(),
		"mem_total":    limit, "mem_used": used, "mem_cache": info["Cached"],
		"mem_total_mib": limit >> 20, "mem_used_mib": used >> 20,
		"disk_used": (disk.Blocks - disk.Bfree) * size, "disk_total": disk.Blocks * size,
		"processes": processes,
	})
}

// percent returns how much of one processor was used since the call before.
func (m *meter) percent(used time.Duration) float64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	elapsed := now.Sub(m.at)
	if elapsed <= 0 || used < m.used {
		return 0
	}
	share := float64(used-m.used) / float64(elapsed)
	m.at, m.used = now, used
	return float64(int(share*10000)) / 100
}

// usage adds up what all processes use: processor time, with that of the dead, whom this
// process collected, and resident memory, in which shared pages count for each.
func usage() (processor time.Duration, resident int64, processes int) {
	var children unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_CHILDREN, &children); err == nil {
		processor = time.Duration(children.Utime.Nano() + children.Stime.Nano())
	}
	entries, _ := os.ReadDir("/proc")
	for _, entry := range entries {
		if _, err := strconv.Atoi(entry.Name()); err != nil {
			continue
		}
		data, err := os.ReadFile("/proc/" + entry.Name() + "/stat")
		if err != nil {
			continue
		}
		fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
		if len(fields) < 22 {
			continue
		}
		processes++
		for _, i := range []int{11, 12} { // utime, stime, in hundredths of a second
			ticks, _ := strconv.ParseInt(fields[i], 10, 64)
			processor += time.Duration(ticks) * 10 * time.Millisecond
		}
		pages, _ := strconv.ParseInt(fields[21], 10, 64)
		resident += pages * int64(os.Getpagesize())
	}
	return processor, resident, processes
}
