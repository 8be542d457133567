package e2e

import (
	"archive/tar"
	"bytes"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

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
	return serveTree(t, "tools/busybox:1", busyboxTree(t, program))
}

// serveTree serves an image of one layer from a registry of this test, and returns its
// reference.
func serveTree(t *testing.T, repository string, content []byte) string {
	t.Helper()
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(server.Close)
	reference, err := name.ParseReference(strings.TrimPrefix(server.URL, "http://") + "/" + repository)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(reference, imageOf(t, content, v1.Config{Env: []string{"PATH=/bin:/usr/bin"}})); err != nil {
		t.Fatal(err)
	}
	return reference.String()
}

// busyboxTree is a root filesystem of busybox and its names.
func busyboxTree(t *testing.T, program []byte) []byte {
	t.Helper()
	entries := []entry{{tar.Header{Name: "bin/busybox", Mode: 0o755}, program}, {tar.Header{Name: "etc/passwd", Mode: 0o644}, []byte("root:x:0:0:root:/root:/bin/sh\n")}}
	for _, applet := range strings.Fields("sh cat chmod echo grep id kill ls ps pwd sleep sort touch true") {
		entries = append(entries, entry{tar.Header{Name: "bin/" + applet, Typeflag: tar.TypeSymlink, Linkname: "busybox"}, nil})
	}
	return tree(t, entries)
}

// TestAnotherLibc runs a program of musl's from an image that has nothing else.
func TestAnotherLibc(t *testing.T) {
	loaders, _ := filepath.Glob("/lib/ld-musl-*.so.1")
	compiler, err := exec.LookPath("musl-gcc")
	if err != nil || len(loaders) != 1 {
		if required("musl") {
			t.Fatalf("musl is required: got %v, and the loaders %q", err, loaders)
		}
		t.Skip("musl and its compiler are not here")
	}
	binary := filepath.Join(t.TempDir(), "probe")
	if output, err := exec.CommandContext(t.Context(), compiler, "-pthread", "-o", binary, "testdata/musl/probe.c").CombinedOutput(); err != nil {
		t.Fatalf("musl-gcc: %v\n%s", err, output)
	}
	var entries []entry
	for to, from := range map[string]string{"bin/probe": binary, loaders[0][1:]: loaders[0]} {
		content, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		entries = append(entries, entry{tar.Header{Name: to, Mode: 0o755}, content})
	}
	reference := serveTree(t, "tools/musl:1", tree(t, entries))
	onRuntimes(t, everywhere, func(t *testing.T, runtime string) {
		sessions(t, "testdata/musl", runtime, "IMAGE="+reference)
	})
}

// TestT09ImagesWhoseAccountsCannotBeReadWorkOrSayWhy has /etc/passwd be what it can't be. gVisor
// does not read it; engines do, and runc by its version.
func TestT09ImagesWhoseAccountsCannotBeReadWorkOrSayWhy(t *testing.T) {
	shell, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Skip("makes an image with a program: install busybox-static")
	}
	program := entry{tar.Header{Name: "bin/true", Mode: 0o755}, shell}
	odd := map[string]string{}
	for name, passwd := range map[string]entry{
		"directory": {tar.Header{Name: "etc/passwd/", Typeflag: tar.TypeDir, Mode: 0o755}, nil},
		"long-line": {tar.Header{Name: "etc/passwd", Mode: 0o644}, bytes.Repeat([]byte("x"), 3<<20)},
	} {
		odd[name] = serveTree(t, "tools/"+name+":1", tree(t, []entry{program, passwd}))
	}
	onRuntimes(t, everywhere, func(t *testing.T, runtime string) {
		w := newWorld(t, runtime)
		for name, reference := range odd {
			output, err := w.command(t, "run", "--image", reference, "--", "/bin/true").CombinedOutput()
			said := strings.Contains(string(output), "/etc/passwd") && strings.Contains(string(output), "hint: mend the image")
			if err != nil && (!said || runtime == "gvisor") {
				t.Errorf("%s: got %v: %s", name, err, output)
			}
		}
	})
}

// tree is a root filesystem of these entries and of the usual directories.
func tree(t *testing.T, entries []entry) []byte {
	t.Helper()
	var usual []entry
	for _, dir := range []string{"bin", "usr", "etc", "tmp"} {
		usual = append(usual, entry{tar.Header{Name: dir + "/", Typeflag: tar.TypeDir, Mode: 0o755}, nil})
	}
	return pack(t, append(usual, entries...))
}
