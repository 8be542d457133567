package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/covehq/cove"
)

// startTimeout is how long a started daemon may take until it serves. It attaches every
// sandbox of its predecessor before that.
const startTimeout = 30 * time.Second

// readyFD is the descriptor on which a daemon that a Starter runs says that it serves:
// the first of exec.Cmd.ExtraFiles.
const readyFD = 3

// Starter starts a daemon that outlives the process which needed it.
type Starter struct {
	Dirs Dirs
	Args []string // what to run: the program and its arguments, which make it call InheritReady
	Env  []string // see Environment
}

// Start returns when a daemon serves. When several processes call it at once, one of
// them starts the daemon and the others wait for it. A daemon that can't come up is an
// error that ends with the last lines of its log.
func (s Starter) Start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if err := s.Dirs.Prepare(); err != nil {
		return err
	}
	lock, err := acquire(ctx, filepath.Join(s.Dirs.State, "start.lock"))
	if err != nil {
		return &cove.Error{Code: cove.Unavailable, Op: "start the daemon", Err: fmt.Errorf("wait for another process that is starting it: %w", err), Hint: "look into " + s.Dirs.Log()}
	}
	defer lock.Release()
	if there, err := s.Dirs.Answers(ctx); there || err != nil {
		return err
	}
	return s.launch(ctx)
}

func (s Starter) launch(ctx context.Context) error {
	log, err := OpenLog(s.Dirs.Log())
	if err != nil {
		return err
	}
	defer log.Close()
	ready, tell, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ready.Close()
	// No context: this process is the one that is meant to outlive its parent. It gets a
	// session of its own, so that no terminal's hang-up or Ctrl-C reaches it.
	cmd := &exec.Cmd{
		Path: s.Args[0], Args: s.Args, Env: s.Env, Dir: "/",
		Stdout: log.file, Stderr: log.file, ExtraFiles: []*os.File{tell},
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	err = cmd.Start()
	tell.Close()
	if err != nil {
		return &cove.Error{Code: cove.Unavailable, Op: "start the daemon", Err: err, Hint: "start it yourself with cove serve"}
	}
	err = awaitReady(ctx, ready)
	if err == nil {
		return cmd.Process.Release()
	}
	if !errors.Is(err, io.EOF) {
		// Slow, not dead: what it is busy with is left to be finished.
		_ = cmd.Process.Release()
		return &cove.Error{Code: cove.Unavailable, Op: "start the daemon", Err: err, Hint: "it goes on coming up: try again, or look into " + s.Dirs.Log()}
	}
	// The pipe's other end is closed, so it is ending; Kill only makes sure of that.
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	why := cmd.ProcessState.String()
	if text := tail(s.Dirs.Log(), log.size, 10); text != "" {
		why += "\n" + text
	}
	return cove.Errorf(cove.Unavailable, "start the daemon", "", why, "the whole log is in "+s.Dirs.Log())
}

// awaitReady returns nil when a byte arrives, io.EOF when the other end closes without.
func awaitReady(ctx context.Context, ready *os.File) error {
	stop := context.AfterFunc(ctx, func() { ready.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	_, err := ready.Read(make([]byte, 1))
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// InheritReady returns the function with which a daemon says that it serves, to the
// process that started it with a Starter.
func InheritReady() (func() error, error) {
	var stat unix.Stat_t
	if err := unix.Fstat(readyFD, &stat); err != nil || stat.Mode&unix.S_IFMT != unix.S_IFIFO {
		return nil, errors.New("--ready is for daemons that a client starts: descriptor 3 is not a pipe")
	}
	// What the daemon runs must not keep the pipe open: its end means death.
	unix.CloseOnExec(readyFD)
	pipe := os.NewFile(readyFD, "ready")
	return func() error {
		_, err := pipe.Write([]byte{'\n'})
		return errors.Join(err, pipe.Close())
	}, nil
}

// Environment returns those of a user's variables that a daemon has use for. The rest,
// where people keep their tokens, has no place in a process that lives on.
func Environment(environ []string) []string {
	keep := []string{
		"PATH", "HOME", "USER", "LOGNAME", "TMPDIR", "LANG", "TZ", "DBUS_SESSION_BUS_ADDRESS",
		// Where images come from: registries' logins, engines, and how the network is reached.
		"DOCKER_CONFIG", "DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH", "DOCKER_API_VERSION", "CONTAINERD_ADDRESS",
		"REGISTRY_AUTH_FILE", "SSH_AUTH_SOCK", "SSL_CERT_FILE", "SSL_CERT_DIR",
		"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
	}
	return slices.DeleteFunc(slices.Clone(environ), func(variable string) bool {
		name, _, _ := strings.Cut(variable, "=")
		if name == "COVE_API_KEY" { // the caller's, for another daemon
			return true
		}
		return !slices.Contains(keep, name) && !strings.HasPrefix(name, "XDG_") && !strings.HasPrefix(name, "COVE_")
	})
}
