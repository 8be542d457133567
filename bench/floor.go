package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// bare is a runtime program without Cove around it.
type bare struct {
	name, path string
	flags      []string
	bundle     string
}

// bareRuntime prepares a bundle that runs /bin/true of this machine's own system
// directories, with the namespaces that Cove uses and nothing else.
func (b *bench) bareRuntime(name string) (*bare, error) {
	r := &bare{name: name, path: name, bundle: filepath.Join(b.dir, "bare-"+name)}
	r.flags = []string{"--root=" + filepath.Join(b.dir, "bare-root-"+name)}
	if name == "gvisor" {
		r.name, r.path = "runsc", filepath.Join(b.bin, "cove-runsc")
		r.flags = append(r.flags, "--network=none", "--platform=systrap")
	}
	rootfs := filepath.Join(r.bundle, "rootfs")
	type mount = map[string]any
	mounts := []mount{{"destination": "/proc", "type": "proc", "source": "proc"}}
	for _, dir := range []string{"bin", "lib", "lib64", "usr"} {
		if _, err := os.Stat("/" + dir); err != nil {
			continue
		}
		if err := os.MkdirAll(filepath.Join(rootfs, dir), 0o755); err != nil {
			return nil, err
		}
		mounts = append(mounts, mount{"destination": "/" + dir, "type": "bind", "source": "/" + dir, "options": []string{"rbind", "ro"}})
	}
	if err := os.MkdirAll(filepath.Join(rootfs, "proc"), 0o755); err != nil {
		return nil, err
	}
	var namespaces []mount
	for _, kind := range []string{"pid", "network", "ipc", "uts", "mount"} {
		namespaces = append(namespaces, mount{"type": kind})
	}
	config, err := json.Marshal(mount{
		"ociVersion": "1.0.2",
		"process":    mount{"args": []string{"/bin/true"}, "cwd": "/", "env": []string{"PATH=/usr/bin:/bin"}, "user": mount{"uid": 0, "gid": 0}},
		"root":       mount{"path": rootfs},
		"mounts":     mounts,
		"linux":      mount{"namespaces": namespaces, "cgroupsPath": "/cove-bench/" + name},
	})
	if err != nil {
		return nil, err
	}
	return r, os.WriteFile(filepath.Join(r.bundle, "config.json"), config, 0o600)
}

// runTrue runs the bundle once and returns how long that took.
func (r *bare) runTrue(ctx context.Context, i int) (time.Duration, error) {
	id := fmt.Sprintf("bare%d", i)
	at := time.Now()
	output, err := r.command(ctx, "run", "--bundle", r.bundle, id).CombinedOutput()
	took := time.Since(at)
	if err != nil {
		return 0, fmt.Errorf("%s run true: %w: %s", r.name, err, output)
	}
	_ = r.command(ctx, "delete", "--force", id).Run() // where the program has not done so itself
	return took, nil
}

func (r *bare) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, r.path, append(append([]string{}, r.flags...), args...)...)
	cmd.WaitDelay = time.Second
	return cmd
}

// unmountBelow detaches what a runtime program mounted below dir and keeps for its next run.
func unmountBelow(dir string) {
	file, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return
	}
	defer file.Close()
	var mounts []string
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if fields := strings.Fields(lines.Text()); len(fields) > 4 && strings.HasPrefix(fields[4], dir+"/") {
			mounts = append(mounts, fields[4])
		}
	}
	for i := len(mounts) - 1; i >= 0; i-- {
		_ = syscall.Unmount(mounts[i], syscall.MNT_DETACH)
	}
}
