package docker

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/system"

	"github.com/covehq/cove"
	"github.com/covehq/cove/runtime/internal/bundle"
)

func TestT06PodmanGetsNoMountThatItWouldReadAsAnother(t *testing.T) {
	d := open(t, "unix:///nowhere")
	f := &facts{runtime: "runc", kernel: bundle.SharedKernel, local: true, near: true, podman: true}
	for name, test := range map[string]struct {
		mount cove.Mount
		fine  bool
	}{
		"a plain target":                {cove.Mount{Type: cove.MountTmpfs, Target: "/data dir"}, true},
		"a volume":                      {cove.Mount{Type: cove.MountVolume, Source: "cache", Target: "/cache"}, true},
		"a target with another source":  {cove.Mount{Type: cove.MountVolume, Source: "cache", Target: "/x,source=/etc"}, false},
		"a target in quotes":            {cove.Mount{Type: cove.MountVolume, Source: "cache", Target: `/x",source=/etc"`}, false},
		"a bind's target with options":  {cove.Mount{Type: cove.MountBind, Source: "/place/0", Target: "/x,rw", ReadOnly: true}, false},
		"a source of a bind with comma": {cove.Mount{Type: cove.MountBind, Source: "/place,rw/0", Target: "/x", ReadOnly: true}, false},
		"memory with options":           {cove.Mount{Type: cove.MountTmpfs, Target: "/x:suid,dev"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := spec()
			s.Mounts = []cove.Mount{test.mount}
			if err := os.MkdirAll(d.dir("x"), 0o700); err != nil {
				t.Fatal(err)
			}
			_, err := d.hostConfig("x", s, f, &source{id: "sha256:1"})
			if test.fine && err != nil || !test.fine && !errors.Is(err, cove.NotSupported) {
				t.Errorf("got %v, want it taken: %v", err, test.fine)
			}
		})
	}
}

func TestPodmanGetsItsProfileByTheNameOfAFile(t *testing.T) {
	d := open(t, "unix:///nowhere")
	if err := os.MkdirAll(d.dir("x"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, local := range map[string]bool{"here": true, "elsewhere": false} {
		t.Run(name, func(t *testing.T) {
			f := &facts{runtime: "runc", kernel: bundle.SharedKernel, local: local, near: local, podman: true, processes: 1000}
			config, err := d.hostConfig("x", spec(), f, &source{id: "sha256:1", agent: "agent"})
			if err != nil {
				t.Fatal(err)
			}
			file := ""
			for _, option := range config.SecurityOpt {
				if rest, ok := strings.CutPrefix(option, "seccomp="); ok {
					file = rest
				}
			}
			if content, _ := os.ReadFile(file); local != strings.Contains(string(content), "defaultAction") {
				t.Errorf("options %v: want a file with the profile: %v", config.SecurityOpt, local)
			}
			if !slices.Contains(config.SecurityOpt, "no-new-privileges") {
				t.Errorf("options %v: want no new privileges", config.SecurityOpt)
			}
			if !slices.ContainsFunc(config.Ulimits, func(l *container.Ulimit) bool { return l.Name == "nproc" && l.Hard == 1000 }) {
				t.Error("no limit on processes, want the engine's own: it gives more than it has")
			}
		})
	}
}

func TestPodmanIsAskedForNoOtherRuntimeThanItsOwn(t *testing.T) {
	for _, test := range []struct {
		runtime, podman string
		want            bool
	}{
		{"docker", "/usr/bin/crun", true},
		{"docker", "runc", true},
		{"docker:crun", "crun", true},
		{"docker:runc", "crun", false},
		{"docker:gvisor", "crun", false},
		{"docker:gvisor", "/usr/local/bin/runsc", true},
		{"docker", "runsc", false},
	} {
		d, err := rig{t.TempDir(), t.TempDir(), "unix:///nowhere", test.runtime}.open()
		if err != nil {
			t.Fatal(err)
		}
		info := &system.Info{DefaultRuntime: test.podman, Runtimes: map[string]system.RuntimeWithStatus{"crun": {}, "runc": {}, "runsc": {}}}
		if name, ok := d.choosePodman(info); ok != test.want || name != filepath.Base(test.podman) {
			t.Errorf("%s where the default is %s: got %s, %v; want it to be found: %v", test.runtime, test.podman, name, ok, test.want)
		}
	}
}

func TestPodmanPutsNoMemoryOnAReadOnlyRoot(t *testing.T) {
	d := open(t, "unix:///nowhere")
	if err := os.MkdirAll(d.dir("x"), 0o700); err != nil {
		t.Fatal(err)
	}
	s := spec()
	s.ReadOnly, s.Mounts = true, []cove.Mount{{Type: cove.MountVolume, Source: "run", Target: "/run"}}
	f := &facts{runtime: "runc", kernel: bundle.SharedKernel, local: true, near: true, podman: true}
	config, err := d.hostConfig("x", s, f, &source{id: "sha256:1"})
	if err != nil {
		t.Fatal(err)
	}
	if !config.ReadonlyRootfs || !strings.Contains(config.Tmpfs["/var/tmp"], ",ro,") {
		t.Errorf("read-only %v, /var/tmp %q: want both read-only", config.ReadonlyRootfs, config.Tmpfs["/var/tmp"])
	}
	if got := config.Tmpfs["/workspace"]; strings.Contains(got, "uid=") || !strings.HasSuffix(got, "mode=1777,notmpcopyup") {
		t.Errorf("/workspace: got %q, want no owner, which it does not know", got)
	}
	if _, ok := config.Tmpfs["/run"]; ok || !slices.ContainsFunc(config.Mounts, func(m mount.Mount) bool { return m.Target == "/run" }) {
		t.Errorf("/run: got %v, want the volume that was asked for", config.Tmpfs)
	}
}
