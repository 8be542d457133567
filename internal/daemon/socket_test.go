package daemon

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/covehq/cove"
)

// prepared returns directories whose paths are short enough for a socket.
func prepared(t *testing.T) Dirs {
	t.Helper()
	base, err := os.MkdirTemp("", "cove")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(base) })
	dirs := Dirs{State: base + "/s", Data: base + "/d"}
	if err := dirs.Prepare(); err != nil {
		t.Fatal(err)
	}
	return dirs
}

// serve answers on the socket until the test ends.
func serve(t *testing.T, dirs Dirs, handler http.Handler) {
	t.Helper()
	serveOn(t, dirs, handler, new(Activity))
}

func serveOn(t *testing.T, dirs Dirs, handler http.Handler, activity *Activity) {
	t.Helper()
	listener, err := dirs.Listen(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	listener = activity.Listen(listener)
	server := &http.Server{Handler: handler}
	done := make(chan struct{})
	go func() {
		defer close(done)
		server.Serve(listener)
	}()
	t.Cleanup(func() {
		server.Close()
		<-done
	})
}

var healthy = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })

func answers(t *testing.T, dirs Dirs) bool {
	t.Helper()
	there, err := dirs.Answers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return there
}

func TestSocketIsItsOwnersAlone(t *testing.T) {
	dirs := prepared(t)
	serve(t, dirs, healthy)
	info, err := os.Stat(dirs.Socket())
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v, want 0600", info.Mode(), err)
	}
	if !answers(t, dirs) {
		t.Error("nobody answers")
	}
}

func TestNobodyAnswers(t *testing.T) {
	tests := map[string]func(t *testing.T, dirs Dirs){
		"where there is no socket":              func(*testing.T, Dirs) {},
		"where the daemon died":                 leaveStale,
		"where the daemon drops its last calls": dropCalls,
	}
	for name, prepare := range tests {
		t.Run(name, func(t *testing.T) {
			dirs := prepared(t)
			prepare(t, dirs)
			if answers(t, dirs) {
				t.Error("somebody answers")
			}
		})
	}
}

// leaveStale leaves a socket behind as a killed daemon does.
func leaveStale(t *testing.T, dirs Dirs) {
	t.Helper()
	listener, err := net.Listen("unix", dirs.Socket())
	if err != nil {
		t.Fatal(err)
	}
	listener.(*net.UnixListener).SetUnlinkOnClose(false)
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
}

func dropCalls(t *testing.T, dirs Dirs) {
	var activity Activity
	if !activity.leave(0) {
		t.Fatal("does not leave")
	}
	serveOn(t, dirs, healthy, &activity)
}

func TestASilentDaemonIsAnError(t *testing.T) {
	dirs := prepared(t)
	release := make(chan struct{})
	serve(t, dirs, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	defer close(release)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if there, err := dirs.Answers(ctx); there || !errors.Is(err, cove.Unavailable) || cove.HintOf(err) == "" {
		t.Errorf("Answers = %v, %v, want an error with a hint", there, err)
	}
}

func TestListenReplacesOnlyWhatADeadDaemonLeft(t *testing.T) {
	t.Run("a stale socket", func(t *testing.T) {
		dirs := prepared(t)
		leaveStale(t, dirs)
		serve(t, dirs, healthy)
		if !answers(t, dirs) {
			t.Error("nobody answers")
		}
	})
	t.Run("a socket that answers", func(t *testing.T) {
		dirs := prepared(t)
		serve(t, dirs, healthy)
		if _, err := dirs.Listen(t.Context()); !errors.Is(err, cove.Conflict) {
			t.Errorf("Listen = %v, want a conflict", err)
		}
		if !answers(t, dirs) {
			t.Error("the other one does not answer any more")
		}
	})
	t.Run("a file", func(t *testing.T) {
		dirs := prepared(t)
		if err := os.WriteFile(dirs.Socket(), []byte("mine"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := dirs.Listen(t.Context()); !errors.Is(err, cove.Conflict) {
			t.Errorf("Listen = %v, want a conflict", err)
		}
		if content, _ := os.ReadFile(dirs.Socket()); string(content) != "mine" {
			t.Error("the file is gone")
		}
	})
	t.Run("a path that is too long", func(t *testing.T) {
		dirs := Dirs{State: "/tmp/" + strings.Repeat("x", 120)}
		if _, err := dirs.Listen(t.Context()); !errors.Is(err, cove.Invalid) || cove.HintOf(err) == "" {
			t.Errorf("Listen = %v, want an error with a hint", err)
		}
		if _, err := dirs.Answers(t.Context()); !errors.Is(err, cove.Invalid) {
			t.Errorf("Answers = %v, want an error", err)
		}
	})
}

func TestOneDaemonOwnsItsDirectories(t *testing.T) {
	dirs := prepared(t)
	first, err := dirs.Own(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	_, err = dirs.Own(ctx)
	if !errors.Is(err, cove.Conflict) || !strings.Contains(err.Error(), "process ") {
		t.Errorf("Own = %v, want a conflict that names the process", err)
	}
	got := make(chan error, 1)
	go func() {
		second, err := dirs.Own(t.Context())
		if err == nil {
			err = second.Release()
		}
		got <- err
	}()
	if err := first.Release(); err != nil {
		t.Fatal(err)
	}
	if err := <-got; err != nil {
		t.Errorf("after the first has left: %v", err)
	}
}

func TestADaemonThatAnswersIsNotWaitedFor(t *testing.T) {
	dirs := prepared(t)
	lock, err := dirs.Own(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Release()
	serve(t, dirs, healthy)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := dirs.Own(ctx); !errors.Is(err, cove.Conflict) || ctx.Err() != nil {
		t.Errorf("Own = %v, want a conflict at once", err)
	}
}
