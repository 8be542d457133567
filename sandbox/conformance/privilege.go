package conformance

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/covehq/cove"
	"github.com/covehq/cove/guest/dial"
)

// systemDirs are those that a system keeps its programs and configuration in.
const systemDirs = "/ /usr /usr/bin /usr/lib /usr/local/bin /bin /sbin /lib /etc /var /root /home /proc /sys /dev"

func isolationSystem(ctx context.Context, b *bench) error {
	x, err := b.shared(ctx)
	if err != nil {
		return err
	}
	script := "for d in " + systemDirs + "; do (: > $d/cove-canary) 2>/dev/null && echo $d; done; " +
		"for f in /etc/passwd /bin/sh /usr/bin/env; do (: >> $f) 2>/dev/null && echo $f; done; true"
	return x.prints(ctx, "what the user can write to", script, "")
}

func isolationRootWrites(ctx context.Context, b *bench) error {
	x, err := b.create(ctx)
	if err != nil {
		return err
	}
	name := "cove-canary-" + newID()
	dirs := []string{"/usr/bin", "/usr/lib", "/etc", "/root", "/var", "/"}
	_, _ = x.shAs(ctx, "root", fmt.Sprintf("for d in %s; do (: > $d/%s) 2>/dev/null; done", strings.Join(dirs, " "), name)) // refusing is as good
	for _, dir := range dirs {
		path := filepath.Join(dir, name)
		if _, err := os.Lstat(path); err == nil {
			return errors.Join(fmt.Errorf("the host's %s: got the file that root inside wrote, want none", path), os.Remove(path))
		}
	}
	return nil
}

func isolationReadOnly(ctx context.Context, b *bench) error {
	x, err := b.create(ctx, func(s *cove.Spec) { s.ReadOnly = true })
	if err != nil {
		return err
	}
	if err := x.prints(ctx, "places that take files", "for d in /tmp /workspace; do echo yes > $d/file && cat $d/file; done", "yes\nyes"); err != nil {
		return err
	}
	script := "for d in / /home/user /etc /usr /usr/bin /var /var/tmp /root /opt; do [ -d $d ] && (: > $d/cove-canary) 2>/dev/null && echo $d; done; true"
	for _, user := range []string{"", "root"} {
		r, err := x.shAs(ctx, user, script)
		if err != nil && user != "" {
			continue // no root inside
		}
		if err := errors.Join(err, equal("what takes files on a read-only root, as user "+user, string(r.stdout), "")); err != nil {
			return err
		}
	}
	return nil
}

func isolationWritable(ctx context.Context, b *bench) error {
	x, err := b.shared(ctx)
	if err != nil {
		return err
	}
	name := newID()
	return x.prints(ctx, "places that don't take files", fmt.Sprintf("for d in $HOME /workspace /tmp /var/tmp /dev/shm; do (echo > $d/%s && rm $d/%s) || echo $d; done", name, name), "")
}

func isolationCapabilities(ctx context.Context, b *bench) error {
	x, err := b.shared(ctx)
	if err != nil {
		return err
	}
	status, err := x.print(ctx, "cat /proc/self/status")
	if err != nil {
		return err
	}
	seen := 0
	for line := range strings.Lines(status) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		if !slices.Contains([]string{"CapInh", "CapPrm", "CapEff", "CapAmb"}, name) {
			continue
		}
		seen++
		if err := equal(name, strings.Trim(value, "\t 0"), ""); err != nil {
			return err
		}
	}
	if seen < 3 { // gVisor shows no ambient set
		return fmt.Errorf("sets of capabilities in /proc/self/status: got %d, want at least 3", seen)
	}
	return nil
}

func isolationActs(ctx context.Context, b *bench) error {
	x, err := b.shared(ctx)
	if err != nil {
		return err
	}
	dir := "/tmp/" + newID()
	acts := []string{
		"chown 0 " + dir + "/file", "mknod " + dir + "/zero c 1 5", "mount -t tmpfs none " + dir, "chroot / true",
		"date -s '2001-01-01'", "hostname cove-canary", "kill -0 1", "nice -n -5 true 2>&1 | grep -q . && exit 1; false",
	}
	var script strings.Builder
	fmt.Fprintf(&script, "mkdir %s && touch %s/file\n", dir, dir)
	for _, act := range acts {
		fmt.Fprintf(&script, "(%s) >/dev/null 2>&1 && echo '%s'\n", act, strings.ReplaceAll(act, "'", ""))
	}
	script.WriteString("true")
	return x.prints(ctx, "acts that succeed", script.String(), "")
}

// isolationSetuid has root inside make a set-user-id program, in every place that may take
// one. Where there is no root inside nobody can.
func isolationSetuid(ctx context.Context, b *bench) error {
	x, err := b.create(ctx)
	if err != nil {
		return err
	}
	_, _ = x.shAs(ctx, "root", "for d in /tmp /workspace /var/tmp /home/user /opt; do cp $(command -v id) $d/become && chmod 4755 $d/become; done")
	r, err := x.sh(ctx, "for d in /tmp /workspace /var/tmp /home/user /opt; do $d/become -u; done 2>/dev/null | sort -u; true")
	if err != nil {
		return err
	}
	if slices.Contains(strings.Fields(string(r.stdout)), "0") {
		return fmt.Errorf("uid by a set-user-id program of root: got 0, want that of the user")
	}
	return nil
}

// isolationSeccomp looks at the processes inside where the kernel is the host's, and at
// those of the sandbox on the host where it is not.
func isolationSeccomp(ctx context.Context, b *bench) error {
	x, err := b.shared(ctx)
	if err != nil {
		return err
	}
	if !ownKernel(b.info.Isolation) {
		return x.prints(ctx, "Seccomp in /proc/self/status, where 2 is a filter", "grep '^Seccomp:' /proc/self/status | tr -cd 0-9", "2")
	}
	pids, err := processes(x.id)
	if err != nil {
		return err
	}
	if grouped := slices.DeleteFunc(slices.Clone(pids), func(pid int) bool { return !inGroup(pid, x.id) }); len(grouped) > 0 {
		pids = grouped // and not what an engine has beside the sandbox, to look after it
	}
	if len(pids) == 0 {
		return fmt.Errorf("processes of the sandbox on the host: got none, want some")
	}
	for _, pid := range pids {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			continue // it has ended
		}
		if !strings.Contains(string(status), "\nSeccomp:\t2\n") {
			line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
			return fmt.Errorf("process %d on the host (%.80q): got no system call filter, want one", pid, line)
		}
	}
	return nil
}

func isolationDescriptors(ctx context.Context, b *bench) error {
	x, err := b.shared(ctx)
	if err != nil {
		return err
	}
	// ls itself opens the directory that it lists.
	return x.descriptors(ctx, dial.Start{Argv: []string{"ls", "-l", "/proc/self/fd"}})
}

func (x *box) descriptors(ctx context.Context, start dial.Start) error {
	r, err := x.run(ctx, start)
	if err != nil {
		return err
	}
	var open []string
	for line := range strings.Lines(string(r.stdout)) {
		before, target, ok := strings.Cut(strings.TrimSpace(line), " -> ")
		if fields := strings.Fields(before); ok && !strings.HasSuffix(target, "/fd") {
			open = append(open, fields[len(fields)-1])
		}
	}
	slices.Sort(open)
	return equal("descriptors", strings.Join(open, " "), "0 1 2")
}

// isolationDescriptorCwd begins commands in what a descriptor of the agent leads to
// (CVE-2024-21626).
func isolationDescriptorCwd(ctx context.Context, b *bench) error {
	x, err := b.shared(ctx)
	if err != nil {
		return err
	}
	for fd := 3; fd < 20; fd++ {
		for _, process := range []string{"self", "1"} {
			cwd := fmt.Sprintf("/proc/%s/fd/%d", process, fd)
			r, err := x.run(ctx, dial.Start{Argv: []string{"/bin/sh", "-c", "pwd -P; ls -a .."}, Cwd: cwd})
			if err == nil && r.exit.Code == 0 {
				return fmt.Errorf("a command in %s: got it in %q, want an error", cwd, r.stdout)
			}
		}
	}
	return nil
}

func isolationAgent(ctx context.Context, b *bench) error {
	x, err := b.create(ctx)
	if err != nil {
		return err
	}
	script := "for act in 'kill -9 1' 'cat /proc/1/environ' 'ls /proc/1/fd' 'cat /proc/1/mem' 'ls /.cove/run' 'touch /.cove/agent' 'rm /.cove/agent' 'mv /.cove /tmp/cove'; do " +
		"(eval $act) >/dev/null 2>&1 && echo $act; done; true"
	return errors.Join(x.prints(ctx, "acts on the agent that succeed", script, ""), x.alive(ctx))
}
