package daemon

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/covehq/cove"
)

// TestMain lets the test program be the daemon that it starts.
func TestMain(m *testing.M) {
	if mode := os.Getenv("COVE_TEST_DAEMON"); mode != "" {
		if err := beDaemon(mode, Dirs{State: os.Args[1], Data: os.Args[2]}); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func beDaemon(mode string, dirs Dirs) error {
	ready, err := InheritReady()
	if err != nil {
		return err
	}
	if mode == "broken" {
		return errors.New("first line\nthe store is on fire")
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	lock, err := dirs.Own(ctx)
	if err != nil {
		return err
	}
	defer lock.Release()
	listener, err := dirs.Listen(ctx)
	if err != nil {
		return err
	}
	if mode == "silent" {
		<-ctx.Done()
		return nil
	}
	server := &http.Server{Handler: healthy}
	go server.Serve(listener)
	if err := ready(); err != nil {
		return err
	}
	<-ctx.Done()
	return server.Close()
}

func starter(t *testing.T, mode string) Starter {
	t.Helper()
	t.Setenv("COVE_TEST_DAEMON", mode)
	dirs := prepared(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { end(t, dirs) })
	return Starter{Dirs: dirs, Args: []string{self, dirs.State, dirs.Data}, Env: Environment(os.Environ())}
}

// daemonOf returns the process that owns dirs, or 0.
func daemonOf(dirs Dirs) int {
	content, _ := os.ReadFile(dirs.State + "/cove.lock")
	pid, _ := strconv.Atoi(strings.TrimSpace(string(content)))
	return pid
}

func end(t *testing.T, dirs Dirs) {
	t.Helper()
	pid := daemonOf(dirs)
	if pid == 0 {
		return
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
		t.Error(err)
	}
	// Whoever holds the lock then has seen it end.
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	lock, err := acquire(ctx, dirs.State+"/cove.lock")
	if err != nil {
		t.Error(err)
		return
	}
	lock.Release()
}

func TestStartReturnsWhenTheDaemonServes(t *testing.T) {
	s := starter(t, "good")
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !answers(t, s.Dirs) {
		t.Error("nobody answers")
	}
	pid := daemonOf(s.Dirs)
	if sid, err := getsid(pid); err != nil || sid != pid {
		t.Errorf("the daemon's session is %d, %v, want its own, %d", sid, err, pid)
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if again := daemonOf(s.Dirs); again != pid {
		t.Errorf("another daemon was started: %d after %d", again, pid)
	}
}

func getsid(pid int) (int, error) {
	sid, _, errno := syscall.RawSyscall(syscall.SYS_GETSID, uintptr(pid), 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(sid), nil
}

func TestStartHammer(t *testing.T) {
	s := starter(t, "good")
	leaveStale(t, s.Dirs)
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			if err := s.Start(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if !answers(t, s.Dirs) {
		t.Error("nobody answers")
	}
}

func TestADaemonThatCannotComeUpSaysWhy(t *testing.T) {
	s := starter(t, "broken")
	err := s.Start(t.Context())
	if !errors.Is(err, cove.Unavailable) || !strings.Contains(err.Error(), "exit status 1") || !strings.Contains(err.Error(), "the store is on fire") {
		t.Errorf("Start = %v, want the last lines of the log", err)
	}
	if hint := cove.HintOf(err); !strings.Contains(hint, s.Dirs.Log()) {
		t.Errorf("hint = %q, want the log's path", hint)
	}
}

func TestADaemonThatIsNotThereSaysWhy(t *testing.T) {
	s := starter(t, "good")
	s.Args = []string{"/does/not/exist"}
	if err := s.Start(t.Context()); !errors.Is(err, cove.Unavailable) || cove.HintOf(err) == "" {
		t.Errorf("Start = %v, want an error with a hint", err)
	}
}

func TestASlowDaemonIsNotWaitedForForEver(t *testing.T) {
	s := starter(t, "silent")
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	err := s.Start(ctx)
	if !errors.Is(err, cove.Unavailable) || !strings.Contains(cove.HintOf(err), "try again") {
		t.Errorf("Start = %v, hint %q", err, cove.HintOf(err))
	}
	for daemonOf(s.Dirs) == 0 { // so that it is found and ended
		time.Sleep(time.Millisecond)
	}
}

func TestOnlyWhatADaemonNeedsIsPassedOn(t *testing.T) {
	got := Environment([]string{"PATH=/bin", "HOME=/h", "AWS_SECRET_ACCESS_KEY=x", "COVE_AGENT=/a", "XDG_DATA_HOME=/d", "GITHUB_TOKEN=y", "PATHOLOGY=z", "odd"})
	if diff := cmp.Diff([]string{"PATH=/bin", "HOME=/h", "COVE_AGENT=/a", "XDG_DATA_HOME=/d"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
