package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/covehq/cove"
)

// TestTenThousandConnectionsInTurnLeaveNothing has a program connect over and over, and
// counts what the daemon and all of the sandbox's processes have before and after.
func TestTenThousandConnectionsInTurnLeaveNothing(t *testing.T) {
	binaries(t)
	program := builtFrom(t, "./testdata/turns")
	oneByOne(t, tested, func(t *testing.T, runtime string) {
		for _, c := range []struct {
			name  string
			rule  []string
			fetch []string
			count int
		}{
			{"that pass untouched", []string{"--allow", "api.outer.test:80"}, []string{"http://api.outer.test/x"}, 10_000},
			{"that are looked into", []string{"--request", "allow api.outer.test"}, []string{"-ca", "/dev/cove/bundle.pem", "https://api.outer.test/x"}, 500},
		} {
			t.Run(c.name, func(t *testing.T) {
				m := onMachine(t, newInternet(t), runtime, "")
				id := m.create(t, c.rule...)
				m.output(t, "cp", program, id+":/workspace/turns")
				turns := func(n int) {
					t.Helper()
					const atOnce = 1000 // that a command comes to its end in time
					for ; n > 0; n -= atOnce {
						command := append([]string{"exec", id, "--", "/workspace/turns", "-n", strconv.Itoa(min(n, atOnce))}, c.fetch...)
						output, err := m.command(t, command...).CombinedOutput()
						if err != nil || !strings.Contains(string(output), "all came back") {
							t.Fatalf("%d connections: %v: %s", n, err, output)
						}
					}
				}
				turns(c.count / 10) // caches and pools are filled
				before := m.settled(t, id)
				turns(c.count)
				const (
					spares = 16       // a daemon keeps as many, at most, from a busy moment to the next
					memory = 20 << 10 // KiB: what 10,000 goroutines take at least
				)
				after := before
				defer func() { t.Logf("before %+v, after %+v", before, after) }()
				eventually(t, 60*time.Second, "they are gone from the daemon, the sandbox and the agent", func() bool {
					after = m.census(t, id)
					return after.open == 0 && after.daemon <= before.daemon+spares && after.sandbox <= before.sandbox+spares &&
						after.inside <= before.inside+spares && after.memory <= before.memory+memory && after.agent <= before.agent+memory
				})
				if log := m.output(t, "network", "log", "--json", id); strings.Count(log, "\n") > 4096 {
					t.Errorf("the log has %d events, want 4096 at most", strings.Count(log, "\n"))
				}
			})
		}
	})
}

// census is what the daemon and a sandbox have.
type census struct {
	open int // connections, as the daemon says
	// Open files: of the daemon, of the sandbox's process on this machine that has most, and of
	// the agent where it has a kernel of its own.
	daemon, sandbox, inside int
	memory, agent           int // of the daemon and of the agent, in KiB
}

// settled returns a census that is the same twice in a row, with no connection open.
func (m *machine) settled(t *testing.T, id string) (last census) {
	t.Helper()
	eventually(t, 60*time.Second, "no connection is open", func() bool {
		now := m.census(t, id)
		same := now.open == 0 && now.daemon == last.daemon && now.sandbox == last.sandbox && now.inside == last.inside
		last = now
		return same
	})
	return last
}

func (m *machine) census(t *testing.T, id string) (c census) {
	t.Helper()
	var status cove.NetworkStatus
	if err := json.Unmarshal([]byte(m.output(t, "network", "show", "--json", id)), &status); err != nil {
		t.Fatal(err)
	}
	c.open = status.Open
	daemon := filepath.Join("/proc", strconv.Itoa(m.daemon()))
	groups, err := filepath.Glob("/proc/[0-9]*/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	for _, group := range groups {
		process := filepath.Dir(group)
		text, err := os.ReadFile(group)
		if process != daemon && (err != nil || !bytes.Contains(text, []byte(id))) {
			continue
		}
		open, _ := os.ReadDir(filepath.Join(process, "fd"))
		if process == daemon {
			c.daemon = len(open)
		} else {
			c.sandbox = max(c.sandbox, len(open))
		}
	}
	content, err := os.ReadFile(filepath.Join(daemon, "status"))
	if err != nil {
		t.Fatal(err)
	}
	c.memory, c.agent = resident(t, string(content)), resident(t, m.output(t, "exec", id, "--", "cat", "/proc/1/status"))
	if strings.Contains(m.runtime, "gvisor") {
		output := m.output(t, "exec", "--user", "root", id, "--", "sh", "-c", "ls /proc/1/fd | wc -l")
		if c.inside, err = strconv.Atoi(strings.TrimSpace(output)); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// resident returns how much memory a process has, by its status.
func resident(t *testing.T, status string) (size int) {
	t.Helper()
	_, rest, _ := strings.Cut(status, "VmRSS:")
	if _, err := fmt.Sscan(rest, &size); err != nil {
		t.Fatalf("the memory of a process: %v", err)
	}
	return size
}

// builtFrom builds a program for sandboxes.
func builtFrom(t *testing.T, source string) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "program")
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "build", "-o", program, source)
	cmd.Env, cmd.WaitDelay = append(os.Environ(), "CGO_ENABLED=0"), time.Second
	if output, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v: %s", err, output)
	}
	return program
}
