package e2e

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/covehq/cove/client"
	"github.com/covehq/cove/internal/daemon"
)

// world is a machine's Cove that one test has for itself: directories, and so a daemon.
type world struct {
	dirs  daemon.Dirs
	env   []string
	enter []string // the beginning of every command line

	programs string // where cove is, if not in bin
}

// newWorld makes a world whose sandboxes run on a runtime unless they ask for another.
// At the end of the test it is taken down, and must have left nothing behind.
func newWorld(t testing.TB, runtime string) *world {
	t.Helper()
	// Not t.TempDir, which is too long for a socket's path.
	base, err := os.MkdirTemp("", "cove-e2e-")
	if err != nil {
		t.Fatal(err)
	}
	w := &world{dirs: daemon.Dirs{State: filepath.Join(base, "s"), Data: filepath.Join(base, "d")}}
	config := filepath.Join(base, "cove.yaml")
	if err := os.WriteFile(config, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	w.env = []string{
		"PATH=" + bin + ":" + os.Getenv("PATH"),
		"COVE_STATE_DIR=" + w.dirs.State, "COVE_DATA_DIR=" + w.dirs.Data,
		"COVE_CONFIG=" + config, "COVE_DEFAULT_RUNTIME=" + runtime, "COVE_URL=", "COVE_IDLE_EXIT=",
		// Somewhere that hides nothing from what a sandbox must not see.
		"HOME=" + base, "TMPDIR=" + os.TempDir(),
	}
	for _, engine := range []string{"CONTAINERD_ADDRESS", "DOCKER_HOST"} {
		if address := os.Getenv(engine); address != "" {
			w.env = append(w.env, engine+"="+address)
		}
	}
	t.Cleanup(func() {
		w.close(t)
		netns, _ := filepath.Glob(filepath.Join(w.dirs.State, "oci", "*", "root", "null-netns"))
		engines, _ := filepath.Glob(filepath.Join(w.dirs.State, "containerd", "*", "runsc", "*", "null-netns"))
		for _, mount := range append(netns, engines...) {
			syscall.Unmount(mount, syscall.MNT_DETACH)
		}
		if err := os.RemoveAll(base); err != nil {
			t.Errorf("remove what the daemon kept: %v", err)
		}
	})
	return w
}

// command is a cove of this world, yet to be run.
func (w *world) command(t testing.TB, args ...string) *exec.Cmd {
	t.Helper()
	// The longest that anything here takes, on a busy machine; a hang fails by it.
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	line := append(slices.Clone(w.enter), filepath.Join(cmp.Or(w.programs, bin), "cove"))
	line = append(line, args...)
	cmd := exec.CommandContext(ctx, line[0], line[1:]...)
	cmd.Env = append(os.Environ(), w.env...)
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// output runs a cove that must succeed, and returns what it printed, without the newline.
func (w *world) output(t testing.TB, args ...string) string {
	t.Helper()
	var stderr bytes.Buffer
	cmd := w.command(t, args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("cove %s: %v\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return strings.TrimSuffix(string(out), "\n")
}

// client speaks to this world's daemon, which must run.
func (w *world) client(t testing.TB) *client.Client {
	t.Helper()
	c, err := client.New(client.Options{URL: w.dirs.URL()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// daemon returns the process that is the daemon, or 0.
func (w *world) daemon() int {
	content, err := os.ReadFile(filepath.Join(w.dirs.State, "cove.lock"))
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(content)))
	if err != nil || !runs(pid) {
		return 0
	}
	return pid
}

// runs reports whether a process is there and a cove; a dead one that nobody has waited
// for yet has no command line.
func runs(pid int) bool {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return err == nil && bytes.Contains(line, []byte("cove\x00serve"))
}

// stop ends the daemon with a signal and returns when it is gone.
func (w *world) stop(t testing.TB, signal syscall.Signal) {
	t.Helper()
	pid := w.daemon()
	if pid == 0 {
		return
	}
	if err := syscall.Kill(pid, signal); err != nil && !errors.Is(err, syscall.ESRCH) {
		t.Errorf("end the daemon: %v", err)
	}
	eventually(t, 30*time.Second, "the daemon ends", func() bool { return !runs(pid) })
}

func (w *world) close(t testing.TB) {
	t.Helper()
	if _, err := os.Stat(w.dirs.State); errors.Is(err, fs.ErrNotExist) {
		return
	}
	if output, err := w.command(t, "rm", "--all").CombinedOutput(); err != nil {
		t.Errorf("cove rm --all: %v\n%s", err, output)
	}
	w.stop(t, syscall.SIGTERM)
	for _, left := range slices.Concat(w.leftovers(t), w.cgroups(t)) {
		t.Errorf("left behind: %s", left)
	}
	if t.Failed() {
		if log, err := os.ReadFile(w.dirs.Log()); err == nil {
			t.Logf("the daemon's log:\n%s", log)
		}
	}
}

// cgroups lists the groups of this world's instances. A daemon of root's that leaves takes
// them along; what an engine has made for an ordinary user's, that one can't remove.
func (w *world) cgroups(t testing.TB) []string {
	t.Helper()
	if info, err := os.Stat(w.dirs.State); err != nil || info.Sys().(*syscall.Stat_t).Uid != 0 {
		return nil
	}
	owners := []string{filepath.Join(w.dirs.State, "oci"), filepath.Join(w.dirs.State, "docker")}
	runtimes, err := filepath.Glob(filepath.Join(w.dirs.State, "containerd", "*"))
	if err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, owner := range append(owners, runtimes...) {
		sum := sha256.Sum256([]byte(owner))
		for _, pattern := range []string{"/sys/fs/cgroup/cove/", "/sys/fs/cgroup/*/cove/"} {
			for _, size := range []int{4, 8} { // bytes of the sum that drivers name their instance by
				groups, err := filepath.Glob(pattern + hex.EncodeToString(sum[:size]))
				if err != nil {
					t.Fatal(err)
				}
				left = append(left, groups...)
			}
		}
	}
	return left
}

// leftovers lists processes and mounts that carry this world's directories in their
// names. There are none without a daemon and sandboxes.
func (w *world) leftovers(t testing.TB) []string {
	t.Helper()
	base := filepath.Dir(w.dirs.State)
	var left []string
	commands, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range commands {
		line, err := os.ReadFile(name)
		if err == nil && bytes.Contains(line, []byte(base)) {
			left = append(left, name+": "+strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		// runsc keeps one empty network namespace below its root, for all sandboxes that
		// there ever are; it goes with the directory.
		if strings.Contains(line, base) && !strings.Contains(line, "/null-netns ") {
			left = append(left, line)
		}
	}
	return left
}
