package preset

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/covehq/cove"
)

// machine is where clients are found and run.
type machine struct {
	home     string
	lookPath func(string) (string, error)
	run      func(ctx context.Context, dir string, env, argv []string) ([]byte, error)
	fetch    func(ctx context.Context, url string) ([]byte, error)
}

// maxOutput bounds what a client may say.
const maxOutput = 1 << 20

// find returns the path of the first of these programs that is here.
func (m machine) find(names ...string) (string, error) {
	for _, name := range names {
		if path, err := m.lookPath(name); err == nil {
			return path, nil
		}
	}
	return "", cove.Errorf(cove.Unavailable, "", "", names[0]+" is not installed on the daemon's machine", "install it")
}

// ask runs a client outside of any project, with those variables alone that are meant for
// it: names, beginnings that end in *, or NAME=VALUE. What it writes to standard error is not kept, as
// it may have credentials of an URL in it.
func (m machine) ask(ctx context.Context, variables []string, argv ...string) ([]byte, error) {
	output, err := m.run(ctx, "/", m.environment(variables), argv)
	if err != nil {
		return nil, &cove.Error{
			Code: cove.Unavailable, Err: fmt.Errorf("it can't be asked: %w", err),
			Hint: "run " + strings.Join(argv, " ") + " as the daemon's user to see why",
		}
	}
	return output, nil
}

func (m machine) environment(variables []string) []string {
	env := []string{"HOME=" + m.home, "LC_ALL=C.UTF-8"}
	variables = append([]string{"PATH", "TMPDIR", "XDG_CONFIG_HOME", "XDG_CONFIG_DIRS"}, variables...)
	for _, entry := range os.Environ() {
		name, _, _ := strings.Cut(entry, "=")
		for _, wanted := range variables {
			if prefix, open := strings.CutSuffix(wanted, "*"); name == wanted || open && strings.HasPrefix(name, prefix) {
				env = append(env, entry)
				break
			}
		}
	}
	for _, variable := range variables {
		if strings.Contains(variable, "=") {
			env = append(env, variable)
		}
	}
	return env
}

// lookPath finds a program, never in a directory that depends on where one is.
func lookPath(name string) (string, error) {
	path, err := exec.LookPath(name)
	if errors.Is(err, exec.ErrDot) {
		return "", exec.ErrNotFound
	}
	return path, err
}

// run runs a program and returns what it wrote to standard output. With the context, its
// whole process group ends.
func run(ctx context.Context, dir string, env, argv []string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir, cmd.Env = dir, env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	var output capped
	cmd.Stdout = &output
	err := cmd.Run()
	if ctx.Err() != nil {
		return nil, errors.New("it does not answer")
	}
	return output.Bytes(), err
}

// capped keeps what fits, and is no reason for the program to fail.
type capped struct{ bytes.Buffer }

// Write implements io.Writer.
func (c *capped) Write(p []byte) (int, error) {
	c.Buffer.Write(p[:min(len(p), maxOutput-c.Len())])
	return len(p), nil
}

// fetch gets a small document. Errors never have its URL.
func fetch(ctx context.Context, url string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, errors.New("its URL can't be read")
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, errors.New("it can't be reached")
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, errors.New(response.Status)
	}
	return io.ReadAll(io.LimitReader(response.Body, maxOutput))
}

// readFile reads a file of a client's, which is small.
func readFile(path string) ([]byte, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a pipe does not hang
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return io.ReadAll(io.LimitReader(file, maxOutput))
}
