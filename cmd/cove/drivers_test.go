package main

import (
	"errors"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/covehq/cove"
	"github.com/covehq/cove/image"
	"github.com/covehq/cove/internal/daemon"
)

func TestHelpersLieBesideTheProgram(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if self, err = filepath.EvalSymlinks(self); err != nil {
		t.Fatal(err)
	}
	t.Setenv("COVE_AGENT", "")
	if got, err := helper("cove-agent", "COVE_AGENT"); err != nil || got != filepath.Join(filepath.Dir(self), "cove-agent") {
		t.Errorf("got %s, %v", got, err)
	}
	t.Setenv("COVE_AGENT", "/elsewhere/agent")
	if got, err := helper("cove-agent", "COVE_AGENT"); err != nil || got != "/elsewhere/agent" {
		t.Errorf("got %s, %v", got, err)
	}
}

func TestEveryRuntimeFamilyOpens(t *testing.T) {
	images, err := image.Open(filepath.Join(t.TempDir(), "images"))
	if err != nil {
		t.Fatal(err)
	}
	openers, err := drivers(daemon.Dirs{State: t.TempDir(), Data: t.TempDir()}, images, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"containerd", "crun", "docker", "gvisor", "kata", "oci", "runc"}, slices.Sorted(maps.Keys(openers))); diff != "" {
		t.Errorf("families (-want +got):\n%s", diff)
	}
	if _, ok := openers[cove.DefaultRuntime]; !ok {
		t.Errorf("the default runtime %s is not among them", cove.DefaultRuntime)
	}
	for _, name := range []string{"gvisor", "runc", "crun", "containerd", "kata", "docker"} {
		if _, err := openers[name](""); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := openers["oci"](""); !errors.Is(err, cove.Invalid) {
		t.Errorf("oci without a program: %v, want an error that is invalid", err)
	}
}
