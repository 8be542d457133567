package e2e

import (
	"archive/tar"
	"bytes"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/covehq/cove/internal/ordinary"
)

// everywhere are the runtimes that the one session is held on; COVE_RUNTIME chooses others.
var everywhere = []string{"gvisor", "runc", "docker", "docker:gvisor", "containerd", "containerd:gvisor"}

// TestAnywhere holds the same session on each runtime, from the host's own system and from
// an image that a registry serves.
func TestAnywhere(t *testing.T) {
	runtimes := everywhere
	if chosen := os.Getenv("COVE_RUNTIME"); chosen != "" {
		runtimes = strings.Split(chosen, ",")
	}
	images := map[string]string{"host": "host"}
	if reference := serveBusybox(t); reference != "" {
		images["oci"] = reference
	}
	onRuntimes(t, runtimes, func(t *testing.T, runtime string) {
		for kind, reference := range images {
			t.Run(kind, func(t *testing.T) {
				t.Parallel()
				sessions(t, "testdata/anywhere", runtime, "IMAGE="+reference)
			})
		}
	})
}

// TestAnywhereAsAnOrdinaryUser holds the session on gVisor in a process without privileges,
// whose daemon has none either.
func TestAnywhereAsAnOrdinaryUser(t *testing.T) {
	binaries(t)
	t.Parallel()
	output := ordinary.Test(t, ordinary.Options{
		Run: "TestAnywhere/gvisor", Env: []string{"COVE_RUNTIME=gvisor"}, Tree: "testdata",
		Programs: map[string]string{
			"cove": filepath.Join(bin, "cove"), "cove-agent": filepath.Join(bin, "cove-agent"), "cove-runsc": filepath.Join(bin, "cove-runsc"),
		},
	})
	if want := "PASS: TestAnywhere/gvisor/host"; !t.Failed() && !strings.Contains(output, want) {
		t.Errorf("no %q in the output:\n%s", want, output)
	}
}

// serveBusybox serves an image with one static program from a registry of this test, and
// returns its reference; "" where this machine has no such program.
func serveBusybox(t *testing.T) string {
	t.Helper()
	program, err := os.ReadFile("/bin/busybox")
	if err != nil || bytes.Contains(program, []byte("/ld-linux")) {
		if required("busybox") {
			t.Fatal("busybox is required, and /bin/busybox is not there or not static")
		}
		t.Log("without a static /bin/busybox the session is held from the host's system alone")
		return ""
	}
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(server.Close)
	reference, err := name.ParseReference(strings.TrimPrefix(server.URL, "http://") + "/tools/busybox:1")
	if err != nil {
		t.Fatal(err)
	}
	content := busyboxTree(t, program)
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil })
	if err != nil {
		t.Fatal(err)
	}
	image, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		t.Fatal(err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", "amd64"
	config.Config.Env = []string{"PATH=/bin:/usr/bin"}
	if image, err = mutate.ConfigFile(image, config); err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(reference, image); err != nil {
		t.Fatal(err)
	}
	return reference.String()
}

// busyboxTree is a root filesystem of busybox and its names.
func busyboxTree(t *testing.T, program []byte) []byte {
	t.Helper()
	var content bytes.Buffer
	w := tar.NewWriter(&content)
	add := func(h tar.Header, body []byte) {
		h.Size = int64(len(body))
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(body); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{"bin", "usr", "etc", "tmp"} {
		add(tar.Header{Name: dir + "/", Typeflag: tar.TypeDir, Mode: 0o755}, nil)
	}
	add(tar.Header{Name: "bin/busybox", Typeflag: tar.TypeReg, Mode: 0o755}, program)
	add(tar.Header{Name: "etc/passwd", Typeflag: tar.TypeReg, Mode: 0o644}, []byte("root:x:0:0:root:/root:/bin/sh\n"))
	for _, applet := range strings.Fields("sh cat chmod echo grep id kill ls ps pwd sleep sort touch true") {
		add(tar.Header{Name: "bin/" + applet, Typeflag: tar.TypeSymlink, Linkname: "busybox"}, nil)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return content.Bytes()
}
