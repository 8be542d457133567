// Package ordinary runs tests again as a user without privileges, who is nobody in
// particular: what works for root may work for nobody else.
package ordinary

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// ID is the uid and gid of that user. No account has it.
const ID = 54321

// Options says what to run, and what that needs.
type Options struct {
	// Run is the test as in go test -run, without ^ and $: "TestX/y".
	Run string
	// Programs are copied, by the name that they get, into a directory that the user may
	// enter, of which COVE_BIN tells.
	Programs map[string]string
	// Tree is a directory of which the test's working directory gets a copy, of the same
	// name; "" is none.
	Tree string
	// Groups are cgroup directories that the process enters first.
	Groups []string
	Env    []string
}

// Test runs a test of this program as an ordinary user, fails t when it fails, and returns
// what it printed. It skips t where this process is not root.
func Test(t *testing.T, o Options) string {
	t.Helper()
	if testing.Short() {
		t.Skip("boots sandboxes: run without -short")
	}
	if os.Geteuid() != 0 {
		t.Skip("this is an ordinary user's process already")
	}
	dir, err := os.MkdirTemp("", "cove-user")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	home, self := filepath.Join(dir, "home"), filepath.Join(dir, "tests")
	executable, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	programs := map[string]string{"tests": executable}
	for name, source := range o.Programs {
		programs[name] = source
	}
	for name, source := range programs {
		if err := copyFile(source, filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := prepare(dir, home, o.Tree); err != nil {
		t.Fatal(err)
	}
	const script = `for group in $GROUPS_TO_ENTER; do echo $$ > $group/cgroup.procs; done; unset GROUPS_TO_ENTER; exec setpriv --reuid $USER_ID --regid $USER_ID --clear-groups "$@"`
	cmd := exec.CommandContext(t.Context(), "sh", "-c", script, "sh",
		self, "-test.v", "-test.timeout=10m", "-test.run=^"+strings.ReplaceAll(o.Run, "/", "$/^")+"$")
	cmd.Dir, cmd.WaitDelay = home, 10*time.Second
	cmd.Env = append([]string{
		"PATH=/usr/bin:/bin:/usr/sbin:/sbin", "HOME=" + home, "TMPDIR=" + home, "COVE_BIN=" + dir, "COVE_REQUIRE=" + os.Getenv("COVE_REQUIRE"),
		"GROUPS_TO_ENTER=" + strings.Join(o.Groups, " "), fmt.Sprintf("USER_ID=%d", ID),
	}, o.Env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	output, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("as an ordinary user: %v\n%s", err, failures(string(output)))
	}
	return string(output)
}

// prepare makes the user's home, with a copy of a tree in it.
func prepare(dir, home, tree string) error {
	if err := os.Mkdir(home, 0o700); err != nil {
		return err
	}
	if tree != "" {
		if err := os.CopyFS(filepath.Join(home, filepath.Base(tree)), os.DirFS(tree)); err != nil {
			return err
		}
	}
	err := filepath.WalkDir(home, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, ID, ID)
	})
	if err != nil {
		return err
	}
	return os.Chmod(dir, 0o755)
}

func copyFile(source, target string, mode os.FileMode) error {
	in, err := os.Open(source)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(target, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}

// failures returns what a run of tests printed, without the tests that passed.
func failures(output string) string {
	var kept []string
	for line := range strings.Lines(output) {
		if text := strings.TrimSpace(line); !strings.HasPrefix(text, "=== ") && !strings.HasPrefix(text, "--- PASS") {
			kept = append(kept, line)
		}
	}
	return strings.Join(kept, "")
}
