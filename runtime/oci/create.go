package oci

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/image"
	"github.com/covehq/cove/runtime/internal/agent"
	"github.com/covehq/cove/runtime/internal/bundle"
	"github.com/covehq/cove/runtime/internal/life"
	"github.com/covehq/cove/runtime/internal/process"
	"github.com/covehq/cove/sandbox/driver"
)

// bundle is the directory of one sandbox; it exists as long as anything of it does.
func (d *Driver) bundle(id string) string { return filepath.Join(d.state, "bundles", id) }

// disk is where gVisor keeps what a sandbox writes.
func (d *Driver) disk(id string) string { return filepath.Join(d.data, id) }

// root is the runtime program's own state directory.
func (d *Driver) root() string { return filepath.Join(d.state, "root") }

// Create implements driver.Driver.
func (d *Driver) Create(ctx context.Context, id string, spec *cove.Spec) (driver.Machine, error) {
	if err := driver.CheckID("create", id); err != nil {
		return nil, err
	}
	root, err := d.options.Images.Resolve(ctx, spec.Image)
	if err != nil {
		return nil, err
	}
	machine, err := d.create(ctx, id, spec, root)
	if err == nil {
		return machine, nil
	}
	life.Undo(ctx, d.log, id, removeTimeout, d.Remove)
	return nil, err
}

// removeTimeout bounds the removal of one sandbox.
const removeTimeout = 20 * time.Second

func (d *Driver) create(ctx context.Context, id string, spec *cove.Spec, root *image.Root) (*machine, error) {
	d.held.Take(d.cgroups)
	directory := d.bundle(id)
	for _, dir := range []string{filepath.Dir(directory), d.root(), d.data} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
	}
	if err := os.Mkdir(directory, 0o700); err != nil {
		return nil, err
	}
	rootfs, err := d.prepareRootfs(ctx, id, root, spec)
	if err != nil {
		return nil, err
	}
	spec, binds, err := d.mountBinds(directory, spec)
	if err != nil {
		return nil, err
	}
	if err := d.writeBundle(id, rootfs, spec); err != nil {
		return nil, err
	}
	if err := d.cgroups.Make(id, d.resources(spec.Limits)); err != nil {
		return nil, err
	}
	stage, err := d.stageOf(id, rootfs, binds, spec)
	if err != nil {
		return nil, err
	}
	door, err := d.boot(ctx, id, stage, spec)
	if err != nil {
		return nil, err
	}
	m, err := d.machine(id, door, handle{}, spec.Limits.Memory)
	if err != nil {
		door.Close()
		return nil, err
	}
	if err := life.Ready(ctx, m.Dial, m.End); err != nil {
		m.release()
		return nil, err
	}
	return m, nil
}

// boot runs the sandbox and returns the door to its agent.
func (d *Driver) boot(ctx context.Context, id string, s stage, spec *cove.Spec) (*agent.Door, error) {
	door, theirs, err := agent.NewDoor()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	stderr, output, err := os.Pipe() // the agent's, should it fail to start
	if err != nil {
		door.Close()
		return nil, err
	}
	defer stderr.Close()
	args := append(d.globalFlags(id, spec), "run", "--detach", "--bundle", d.bundle(id), "--pid-file", d.pidFile(id), id)
	err = d.runAt(ctx, s, theirs, output, args...)
	output.Close()
	if err != nil {
		door.Close()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, bundle.Refusal(fmt.Errorf("%s did not start the sandbox: %w%s", d.name, err, d.complaint(id, stderr)))
	}
	return door, nil
}

func (d *Driver) pidFile(id string) string { return filepath.Join(d.bundle(id), "pid") }
func (d *Driver) logFile(id string) string { return filepath.Join(d.bundle(id), "log") }

// globalFlags are the program's flags before its verb.
func (d *Driver) globalFlags(id string, spec *cove.Spec) []string {
	flags := []string{"--root=" + d.root(), "--log=" + d.logFile(id), "--log-format=json"}
	if d.kind != kindGvisor {
		return flags
	}
	flags = append(flags, bundle.GvisorFlags...)
	if d.rootless {
		flags = append(flags, "--rootless", "--ignore-cgroups")
	}
	if spec != nil {
		flags = append(flags, fmt.Sprintf("--overlay2=root:dir=%s,size=%d", d.disk(id), spec.Limits.Disk))
	}
	return flags
}

// complaint returns what the runtime program and the agent said last, for an error's text.
func (d *Driver) complaint(id string, stderr *os.File) string {
	var said []string
	if last := lastMessage(d.logFile(id)); last != "" {
		said = append(said, last)
	}
	if err := stderr.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err == nil {
		text := make([]byte, 2048)
		if n, _ := stderr.Read(text); n > 0 && len(said) == 0 {
			said = append(said, strings.TrimSpace(string(text[:n])))
		}
	}
	if len(said) == 0 {
		return ""
	}
	return ": " + strings.Join(said, ": ")
}

// lastMessage returns the last error in the end of a runtime program's JSON log.
func lastMessage(path string) string {
	const end = 64 << 10
	file, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer file.Close()
	_, _ = file.Seek(-end, io.SeekEnd) // a shorter log is read from its begin
	content, _ := io.ReadAll(io.LimitReader(file, end))
	last := ""
	for line := range bytes.Lines(content) {
		var entry struct{ Level, Msg string }
		if json.Unmarshal(line, &entry) == nil && (entry.Level == "error" || entry.Level == "fatal" || entry.Level == "warning" && last == "") {
			last = entry.Msg
		}
	}
	if len(last) > 500 {
		last = last[:500]
	}
	return last
}

// machine makes the handle on a sandbox that runs: the one named by known, or by the pid
// file of a fresh one.
func (d *Driver) machine(id string, door *agent.Door, known handle, memory cove.Bytes) (*machine, error) {
	if known.PID == 0 {
		content, err := os.ReadFile(d.pidFile(id))
		if err != nil {
			return nil, err
		}
		if known.PID, err = strconv.Atoi(strings.TrimSpace(string(content))); err != nil {
			return nil, fmt.Errorf("pid file of %s: %w", d.name, err)
		}
		known.Version, known.Boot, known.Memory = handleVersion, process.BootID(), memory
	}
	first, err := process.Open(known.PID, known.Started)
	if err != nil {
		return nil, fmt.Errorf("the sandbox ended at its start: %w", err)
	}
	known.Started = first.Started
	oom, err := d.watch(id)
	if err != nil {
		first.Close()
		return nil, fmt.Errorf("memory watch: %w", err)
	}
	m := &machine{driver: d, id: id, door: door, process: first, oom: oom, known: known, End: life.NewEnd()}
	m.background.Go(m.watchProcess)
	if oom != nil {
		m.background.Go(m.watchMemory)
	}
	if d.rootless && !d.cgroups.Has("memory") {
		m.background.Go(m.sampleMemory)
	}
	return m, nil
}

// watch returns the memory watch of a sandbox that has no kernel of its own: gVisor's dies
// whole when it is short of memory, and the counter tells.
func (d *Driver) watch(id string) (*os.File, error) {
	if d.kind == kindGvisor {
		return nil, nil
	}
	return d.cgroups.WatchOOM(id)
}
