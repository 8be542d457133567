package containerd

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/runtime/internal/agent"
	"github.com/covehq/cove/runtime/internal/bundle"
)

// containerd's shim for runc drives any program with runc's command line, and gVisor's has
// it. Every containerd brings that shim, while gVisor's own one speaks to releases from 1.7
// on. The shim has no place for flags of the program, so that what it is told to run is a
// script with the sandbox's own.

// wrapper is the script of a sandbox. It is on the disk and not in StateDir, since nothing
// in /run may be executed on many machines.
func (d *Driver) wrapper(id string) string { return filepath.Join(d.disk(id), "runsc") }

// filestore is where gVisor keeps what a sandbox writes.
func (d *Driver) filestore(id string) string { return filepath.Join(d.disk(id), "files") }

// runscRoot is where gVisor keeps its state, in a directory for each namespace.
func (d *Driver) runscRoot() string { return filepath.Join(d.state, "runsc") }

// makeDisk makes what gVisor needs on the disk for a sandbox.
func (d *Driver) makeDisk(id string, spec *cove.Spec) error {
	for _, dir := range []string{d.disk(id), d.filestore(id)} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
	}
	words := []string{"exec", quote(d.options.Runsc)}
	for _, flag := range append(d.gvisorFlags(), fmt.Sprintf("--overlay2=root:dir=%s,size=%d", d.filestore(id), spec.Limits.Disk)) {
		words = append(words, quote(flag))
	}
	script := "#!/bin/sh\n" + strings.Join(words, " ") + " \"$@\"\n"
	return os.WriteFile(d.wrapper(id), []byte(script), 0o700)
}

// quote makes one word of text for the shell.
func quote(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }

// gvisorFlags are the flags of every sandbox. What gVisor would allow by an annotation or a
// default is said again: the defaults are upstream's to change.
func (d *Driver) gvisorFlags() []string { return slices.Clone(bundle.GvisorFlags) }

// openDoor gives the agent of a running gVisor sandbox a door: a process that gVisor starts
// inside hands over its standard input and exits. It goes past the engine.
func (d *Driver) openDoor(ctx context.Context, id string) (*agent.Door, error) {
	door, theirs, err := agent.NewDoor()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	args := append(d.gvisorFlags(), "--root="+filepath.Join(d.runscRoot(), namespace), "exec", "--user", "0:0", "--cwd", "/",
		d.container(id), bundle.AgentPath, "connect")
	if err := d.runsc(ctx, theirs, args...); err != nil {
		door.Close()
		return nil, err
	}
	return door, nil
}

// runsc runs gVisor's program to its end.
func (d *Driver) runsc(ctx context.Context, stdin *os.File, args ...string) error {
	cmd := exec.CommandContext(ctx, d.options.Runsc, args...)
	cmd.Env, cmd.Dir, cmd.WaitDelay = bundle.HelperEnv, "/", 2*time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	var said bundle.Said
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &said, &said
	err := cmd.Run()
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	if text := said.String(); err != nil && text != "" {
		return fmt.Errorf("%w: %s", err, text)
	}
	return err
}
