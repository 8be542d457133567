package cove_test

import (
	"slices"
	"testing"

	"github.com/covehq/cove"
)

func TestASpecSaysWhichFeaturesItUses(t *testing.T) {
	plain := cove.Spec{}.WithDefaults()
	if used := plain.Features(); len(used) != 0 {
		t.Errorf("the default spec uses %q, want nothing", used)
	}
	tests := map[cove.Feature]func(s *cove.Spec){
		cove.FeatureOCI:         func(s *cove.Spec) { s.Image = "python:3.12" },
		cove.FeaturePlatform:    func(s *cove.Spec) { s.Platform = "linux/arm64" },
		cove.FeatureBind:        func(s *cove.Spec) { s.Mounts = []cove.Mount{{Type: cove.MountBind}, {Type: cove.MountBind}} },
		cove.FeatureVolume:      func(s *cove.Spec) { s.Mounts = []cove.Mount{{Type: cove.MountVolume}} },
		cove.FeatureTmpfs:       func(s *cove.Spec) { s.Mounts = []cove.Mount{{Type: cove.MountTmpfs}} },
		cove.FeatureUlimits:     func(s *cove.Spec) { s.Ulimits = []cove.Ulimit{{Name: "nofile"}} },
		cove.FeatureHosts:       func(s *cove.Spec) { s.Hosts = map[string]string{"db": "127.0.0.1"} },
		cove.FeatureShm:         func(s *cove.Spec) { s.Limits.Shm = cove.GiB },
		cove.FeatureCapAdd:      func(s *cove.Spec) { s.Options.CapAdd = []string{"NET_ADMIN"} },
		cove.FeatureCapDrop:     func(s *cove.Spec) { s.Options.CapDrop = []string{"ALL"} },
		cove.FeaturePrivileged:  func(s *cove.Spec) { s.Options.Privileged = true },
		cove.FeatureDevices:     func(s *cove.Spec) { s.Options.Devices = []string{"/dev/fuse"} },
		cove.FeatureNetworkMode: func(s *cove.Spec) { s.Options.NetworkMode = "bridge" },
		cove.FeatureDNS:         func(s *cove.Spec) { s.Options.DNS = []string{"10.0.0.1"} },
	}
	for feature, use := range tests {
		spec := cove.Spec{}.WithDefaults()
		use(&spec)
		if used := spec.Features(); !slices.Equal(used, []cove.Feature{feature}) {
			t.Errorf("a spec with %s uses %q, want that alone", feature, used)
		}
	}
}
