package sandbox

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/policy"
	"github.com/covehq/cove/sandbox/driver/bind"
)

// allFeatures is what a runtime has that knows every part of a spec.
var allFeatures = []cove.Feature{
	cove.FeatureBind, cove.FeatureVolume, cove.FeatureTmpfs, cove.FeatureUlimits, cove.FeatureHosts, cove.FeatureShm, cove.FeatureCapAdd,
	cove.FeatureCapDrop, cove.FeaturePrivileged, cove.FeatureDevices, cove.FeatureNetworkMode, cove.FeatureDNS, cove.FeaturePlatform,
}

// policedRig is a host with a policy, in a world with every feature.
func policedRig(t *testing.T, text string) *rig { return policedWith(t, text, allFeatures) }

func policedWith(t *testing.T, text string, features []cove.Feature) *rig {
	t.Helper()
	operator, err := policy.Parse([]byte(text), "/etc/cove/policy.yaml")
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld()
	w.info.Features = features
	return openRig(t, w, filepath.Join(t.TempDir(), "state"), Options{Policy: func() *policy.Policy { return operator }})
}

func TestT08WhatReachesTheHostIsForbiddenWithoutAPolicy(t *testing.T) {
	r := policedRig(t, "")
	for name, spec := range map[string]cove.Spec{
		"privileged":            {Options: cove.Options{Privileged: true}},
		"a capability":          {Options: cove.Options{CapAdd: []string{"net_admin"}}},
		"a device":              {Options: cove.Options{Devices: []string{"/dev/fuse"}}},
		"the host's network":    {Options: cove.Options{NetworkMode: "host"}},
		"an engine's network":   {Options: cove.Options{NetworkMode: "bridge", DNS: []string{"192.0.2.1"}}},
		"another's network":     {Options: cove.Options{NetworkMode: "container:other"}},
		"a directory":           {Mounts: []cove.Mount{{Type: cove.MountBind, Source: "/srv", Target: "/data", ReadOnly: true}}},
		"the engine's socket":   {Mounts: []cove.Mount{{Type: cove.MountBind, Source: "/var/run/docker.sock", Target: "/data"}}},
		"a port for the world":  {Ports: []cove.Port{{Port: 80, Address: "0.0.0.0"}}},
		"a port for the world6": {Ports: []cove.Port{{Port: 80, Address: "::"}}},
		"with best effort too":  {Options: cove.Options{Privileged: true}, BestEffort: true},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := r.Create(t.Context(), spec, CreateOptions{})
			wantError(t, err, cove.Forbidden)
			if hint := cove.HintOf(err); !strings.Contains(hint, "/etc/cove/policy.yaml") {
				t.Errorf("hint = %q, want the file that would allow it", hint)
			}
		})
	}
	r.empty()
	if log := r.log.String(); strings.Count(log, "forbidden by the operator's policy") != 11 {
		t.Errorf("refusals are not logged, one each:\n%s", log)
	}
}

func TestWhatIsForbiddenIsSaidBesideEverythingElse(t *testing.T) {
	r := policedWith(t, "", nil)
	_, err := r.Create(t.Context(), cove.Spec{Options: cove.Options{Privileged: true}, Limits: cove.Limits{Pids: -1}}, CreateOptions{})
	wantError(t, err, cove.Invalid, "no privileged", "pids -1", "test does not know options.privileged")
	_, err = r.Create(t.Context(), cove.Spec{Options: cove.Options{Privileged: true, CapDrop: []string{"ALL"}}}, CreateOptions{})
	wantError(t, err, cove.Forbidden, "no privileged", "test does not know options.cap_drop")
}

func TestPolicyAllows(t *testing.T) {
	r := policedRig(t, "privileged: true\ncapabilities: [NET_ADMIN]\ndevices: [/dev/fuse]\nnetworks: [bridge]\nlimits: {memory: 1g}")
	var got cove.Spec
	r.world.made = func(spec *cove.Spec) error { got = *spec; return nil }
	r.create(cove.Spec{Options: cove.Options{
		Privileged: true, CapAdd: []string{"cap_net_admin"}, Devices: []string{"/dev/fuse"}, NetworkMode: "bridge", DNS: []string{"192.0.2.1"},
	}})
	want := cove.Options{
		Privileged: true, CapAdd: []string{"NET_ADMIN"}, Devices: []string{"/dev/fuse:/dev/fuse:rwm"}, NetworkMode: "bridge", DNS: []string{"192.0.2.1"},
	}
	if !slices.Equal(got.Options.CapAdd, want.CapAdd) || !slices.Equal(got.Options.Devices, want.Devices) || got.Options.NetworkMode != "bridge" {
		t.Errorf("the driver got %+v, want %+v", got.Options, want)
	}
	_, err := r.Create(t.Context(), cove.Spec{Limits: cove.Limits{Memory: 2 * cove.GiB}}, CreateOptions{})
	wantError(t, err, cove.Forbidden, "memory 2GiB is above 1GiB")
}

func TestPolicyHoldsForWhatComesLater(t *testing.T) {
	r := policedRig(t, "users: [user]\nlimits: {ttl: 1h}\nmax_sandboxes: 1\nimages: [host]")
	s := r.create(cove.Spec{})
	_, err := s.Exec(t.Context(), cove.ExecRequest{Command: cove.Command{Argv: []string{"true"}}, User: "root"})
	wantError(t, err, cove.Forbidden, `user "root"`)
	_, err = s.Files().Stat(t.Context(), "/etc/shadow", "root")
	wantError(t, err, cove.Forbidden, `user "root"`)
	long := cove.Duration(2 * time.Hour)
	_, err = s.Update(t.Context(), cove.SandboxUpdate{TTL: &long})
	wantError(t, err, cove.Forbidden, "ttl 2h0m0s")
	_, err = r.Create(t.Context(), cove.Spec{}, CreateOptions{})
	wantError(t, err, cove.Exhausted, "1 sandboxes")
	_, err = r.ImportImage(t.Context(), "", "host", strings.NewReader(""), nil)
	wantError(t, err, cove.Forbidden, "lets nobody import")
	_, err = r.PullImage(t.Context(), cove.ImagePull{Reference: "python:3"}, nil)
	wantError(t, err, cove.Forbidden, `image "python:3"`)
}

func TestT06TheDriverGetsABindByItsDescriptor(t *testing.T) {
	top, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	srv, secret := filepath.Join(top, "srv"), filepath.Join(top, "secret")
	for _, dir := range []string{srv + "/data", secret} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.WriteFile(srv+"/data/file", []byte("fine"), 0o600), os.WriteFile(secret+"/file", []byte("secret"), 0o600)); err != nil {
		t.Fatal(err)
	}
	r := policedRig(t, "mounts: [{path: "+srv+", write: true}]")
	var seen string
	r.world.made = func(spec *cove.Spec) error {
		// Between the check and the mount, somebody puts a symlink in its place.
		err := errors.Join(os.Rename(srv+"/data", srv+"/was"), os.Symlink(secret, srv+"/data"))
		content, readErr := os.ReadFile(spec.Mounts[0].Source + "/file")
		seen = string(content)
		return errors.Join(err, readErr)
	}
	mounts := []cove.Mount{{Type: cove.MountBind, Source: srv + "/data", Target: "/data"}}
	s := r.create(cove.Spec{Mounts: mounts})
	if seen != "fine" {
		t.Errorf("the driver found %q behind its path, want what was checked", seen)
	}
	if got := s.View().Spec.Mounts[0].Source; got != srv+"/data" {
		t.Errorf("the sandbox says that its source is %s", got)
	}
	r.world.made = nil
	_, err = r.Create(t.Context(), cove.Spec{Mounts: mounts}, CreateOptions{})
	wantError(t, err, cove.Forbidden, "a symlink is part of the path")
	_, err = r.Create(t.Context(), cove.Spec{Mounts: []cove.Mount{{Type: cove.MountBind, Source: srv + "/none", Target: "/data"}}}, CreateOptions{})
	wantError(t, err, cove.NotFound, "no such file")
	if n := openBinds(t, srv); n != 0 {
		t.Errorf("%d descriptors of sources are still open", n)
	}
}

func TestT07TheDaemonsOwnDirectoriesAreNeverASource(t *testing.T) {
	r := policedRig(t, "mounts: [{path: /, write: true, sockets: true}]")
	r.Host.private = []string{r.dir}
	for _, source := range []string{r.dir, filepath.Dir(r.dir), "/", "/proc", "/dev", "/sys", "/run"} {
		_, err := r.Create(t.Context(), cove.Spec{Mounts: []cove.Mount{{Type: cove.MountBind, Source: source, Target: "/data"}}}, CreateOptions{})
		if errors.Is(err, cove.NotFound) {
			continue // this machine has none
		}
		wantError(t, err, cove.Forbidden, source+" can't be mounted")
	}
	r.empty()
}

// openBinds counts the descriptors of this process at or beneath a directory.
func openBinds(t *testing.T, directory string) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	for _, entry := range entries {
		if name, err := os.Readlink("/proc/self/fd/" + entry.Name()); err == nil && bind.Beneath(directory, name) {
			count++
		}
	}
	return count
}
