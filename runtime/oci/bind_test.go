package oci

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/covehq/cove"
	"github.com/covehq/cove/guest/dial"
	"github.com/covehq/cove/runtime/internal/bundle"
	"github.com/covehq/cove/sandbox/driver/bind"
	"github.com/covehq/cove/sandbox/drivertest"
)

// TestBindMounts runs as an ordinary user too: see TestBindMountsOfAnOrdinaryUser.
func TestBindMounts(t *testing.T) {
	if testing.Short() {
		t.Skip("boots sandboxes: run without -short")
	}
	bin := binaries(t)
	for _, name := range []string{"gvisor", "runc"} {
		t.Run(name, func(t *testing.T) {
			d, err := rig{Dir: t.TempDir(), Bin: bin, Runtime: name}.open()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := d.Probe(t.Context()); err != nil {
				t.Skip(err)
			}
			bindMounts(t, d.(*Driver))
			if err := Release(d.(*Driver).options); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestBindMountsOfAnOrdinaryUser(t *testing.T) {
	if output := asOrdinaryUser(t, "TestBindMounts/gvisor", nil); !strings.Contains(output, "PASS: TestBindMounts/gvisor") {
		t.Errorf("it did not run:\n%s", output)
	}
}

// bindMounts shows a sandbox a directory to write to, one to read, and a file; changes what
// their names lead to; and removes the sandbox.
func bindMounts(t *testing.T, d *Driver) {
	host := t.TempDir()
	for _, dir := range []string{"writable", "readable"} {
		if err := os.Mkdir(filepath.Join(host, dir), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Join(host, dir), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(host, dir, "old"), []byte(dir+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	source := func(name string) string {
		file, err := bind.Rules{Prefixes: []string{host}}.Resolve(filepath.Join(host, name))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { file.Close() })
		return bind.Path(file)
	}
	spec := cove.Spec{Runtime: d.name, Mounts: []cove.Mount{
		{Type: cove.MountBind, Source: source("writable"), Target: "/mnt/w"},
		{Type: cove.MountBind, Source: source("readable"), Target: "/mnt/r", ReadOnly: true},
		{Type: cove.MountBind, Source: source("readable/old"), Target: "/workspace/file", ReadOnly: true},
	}}.WithDefaults()
	m, err := d.Create(t.Context(), "bindmounts", &spec)
	if err != nil {
		t.Fatal(err)
	}
	client := dial.New(m.Dial)
	defer client.Close()
	if err := client.Init(t.Context(), dial.Init{User: "user"}); err != nil {
		t.Fatal(err)
	}
	stream, err := client.Start(t.Context(), dial.Start{Argv: []string{"sh", "-c", `
		cat /mnt/w/old /mnt/r/old /workspace/file; echo new > /mnt/w/new && stat -c %U /mnt/w/new
		for f in /mnt/r/x /workspace/file; do (echo x > $f) 2>/dev/null && echo "wrote $f"; done; rm -f /mnt/r/old /mnt/w/../r/old 2>/dev/null; ls /mnt/r`}})
	if err != nil {
		t.Fatal(err)
	}
	var output bytes.Buffer
	for {
		o, err := stream.Next()
		if err != nil {
			break
		}
		output.Write(o.Data)
	}
	if want := "writable\nreadable\nreadable\nuser\nold\n"; output.String() != want {
		t.Errorf("inside: %q, want %q", output.String(), want)
	}
	for range 2 {
		if err := m.Destroy(t.Context()); err != nil {
			t.Errorf("destroy: %v", err)
		}
	}
	for name, want := range map[string]string{"writable/old": "writable\n", "readable/old": "readable\n", "writable/new": "new\n"} {
		if content, err := os.ReadFile(filepath.Join(host, name)); err != nil || string(content) != want {
			t.Errorf("on the host %s has %q, %v, want %q: removing a sandbox removes nothing of the host", name, content, err, want)
		}
	}
	if info, err := os.Stat(filepath.Join(host, "writable/new")); err == nil && os.Geteuid() != 0 {
		if uid := int(info.Sys().(*syscall.Stat_t).Uid); uid != os.Geteuid() {
			t.Errorf("what was written inside belongs to %d outside, want the user that runs cove, %d", uid, os.Geteuid())
		}
	}
	if left := drivertest.MountsBelow(d.state); d.kind == kindLinux && len(left) > 0 {
		t.Errorf("mounted after all: %v", left)
	}
}

func TestT06AStageBindsOnlyWhatWasAllowed(t *testing.T) {
	dir := t.TempDir()
	if os.Geteuid() != 0 {
		t.Skip("mounting outside a namespace of one's own is root's")
	}
	for _, name := range []string{"allowed", "other", "place"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	file, err := bind.Rules{Prefixes: []string{dir}}.Resolve(filepath.Join(dir, "allowed"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	path := bind.Path(file)
	order, err := stageBind(bundle.Bind{Source: path, Place: filepath.Join(dir, "place")})
	if err != nil {
		t.Fatal(err)
	}
	if err := order.mount(); err != nil {
		t.Fatalf("what was allowed is not mounted: %v", err)
	}
	if err := syscall.Unmount(order.Target, 0); err != nil {
		t.Fatal(err)
	}
	for how, swap := range map[string]func() error{
		"another directory": func() error { return os.Rename(filepath.Join(dir, "other"), order.Source) },
		"a symlink":         func() error { return os.Symlink("/", order.Source) },
		"nothing":           func() error { return nil },
	} {
		if err := os.RemoveAll(order.Source); err != nil {
			t.Fatal(err)
		}
		if err := swap(); err != nil {
			t.Fatal(err)
		}
		if err := order.mount(); err == nil {
			t.Errorf("%s in its place was mounted", how)
			_ = syscall.Unmount(order.Target, 0)
		}
	}
}
