package process

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/guest/account"
	wire "github.com/covehq/cove/guest/wire/gen/process"
)

// standardPath is a command's PATH when neither the sandbox nor the request has one.
const standardPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// maxTerminal is the largest width and height of a terminal.
const maxTerminal = 1 << 12

// commandOf completes a request to a command of a.
func commandOf(request *wire.StartRequest, a account.Account, defaults account.Defaults) (Command, error) {
	config := request.GetProcess()
	c := Command{
		Argv:    append([]string{config.GetCmd()}, config.GetArgs()...),
		Account: a,
		Stdin:   request.Stdin == nil || *request.Stdin,
		Tag:     request.GetTag(),
		Timeout: time.Duration(min(request.GetTimeoutMs(), maxTimeoutMs)) * time.Millisecond,
		Asked:   Asked{Env: config.GetEnvs(), Cwd: config.Cwd},
	}
	if request.Pty != nil {
		size, err := sizeOf(request.Pty)
		if err != nil {
			return Command{}, err
		}
		c.Terminal = &size
	}
	if err := check(c.Argv, config.GetEnvs()); err != nil {
		return Command{}, err
	}
	c.Env = environment(config.GetEnvs(), a, defaults, c.Terminal != nil)
	dir, err := directory(config.GetCwd(), a, defaults)
	c.Dir = dir
	return c, err
}

// maxTimeoutMs is a century, which fits a time.Duration.
const maxTimeoutMs = 100 * 365 * 24 * 3600 * 1000

// check refuses what the kernel can't pass to a program.
func check(argv []string, env map[string]string) error {
	problem := ""
	switch {
	case argv[0] == "":
		problem = "the command is empty"
	case slices.ContainsFunc(argv, func(s string) bool { return strings.ContainsRune(s, 0) }):
		problem = "the command contains a zero byte"
	}
	if problem != "" {
		return cove.Errorf(cove.Invalid, "start", "", problem, "correct it")
	}
	return CheckEnv(env)
}

// CheckEnv refuses an environment that no program can have.
func CheckEnv(env map[string]string) error {
	for key, value := range env {
		if key == "" || strings.ContainsAny(key, "=\x00") || strings.ContainsRune(value, 0) {
			return cove.Errorf(cove.Invalid, "", "", fmt.Sprintf("the environment variable %q can't be set", key), "leave it out or correct it")
		}
	}
	return nil
}

// environment returns a command's environment: what every user has, then the sandbox's,
// who the user is, and what was asked for; the later counts.
func environment(asked map[string]string, a account.Account, defaults account.Defaults, terminal bool) []string {
	env := map[string]string{"PATH": standardPath}
	if terminal {
		env["TERM"] = "xterm-256color"
	}
	maps.Copy(env, defaults.Env)
	env["HOME"], env["USER"], env["LOGNAME"], env["SHELL"] = a.Home, a.Name, a.Name, a.Shell
	maps.Copy(env, asked)
	delete(env, markerVariable)
	list := make([]string, 0, len(env))
	for key, value := range env {
		list = append(list, key+"="+value)
	}
	slices.Sort(list)
	return list
}

// directory returns the absolute working directory. Only a directory that was asked for
// must exist: the default falls back to the root.
func directory(asked string, a account.Account, defaults account.Defaults) (string, error) {
	if asked == "" {
		fallback := defaults.Workdir
		if fallback == "" {
			fallback = a.Home
		}
		fallback = a.Resolve(fallback)
		if isDirectory(fallback) {
			return fallback, nil
		}
		return "/", nil
	}
	if strings.ContainsRune(asked, 0) {
		return "", cove.Errorf(cove.Invalid, "start", "", "the working directory contains a zero byte", "correct it")
	}
	// A link in /proc could lead to what the agent has open, which the child has too until it
	// executes: where it leads is found out here, and the child goes there by name.
	dir, err := filepath.EvalSymlinks(a.Resolve(asked))
	if err != nil {
		dir = a.Resolve(asked)
	}
	if !isDirectory(dir) {
		return "", cove.Errorf(cove.Invalid, "start", "", fmt.Sprintf("working directory %q is no directory", dir), "make it first")
	}
	return dir, nil
}

func isDirectory(path string) bool {
	info, err := os.Stat(filepath.Clean(path))
	return err == nil && info.IsDir()
}

func sizeOf(p *wire.PTY) (Size, error) {
	cols, rows := p.GetSize().GetCols(), p.GetSize().GetRows()
	if cols > maxTerminal || rows > maxTerminal {
		return Size{}, cove.Errorf(cove.Invalid, "terminal", "", fmt.Sprintf("a terminal of %d by %d is too large", cols, rows),
			fmt.Sprintf("use at most %d by %d", maxTerminal, maxTerminal))
	}
	return Size{Cols: uint16(cols), Rows: uint16(rows)}, nil
}
