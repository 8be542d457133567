package docker

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/moby/moby/client"

	"github.com/covehq/cove"
	"github.com/covehq/cove/guest/dial"
)

// bareImage puts an image without any program into an engine.
func bareImage(t *testing.T, d *Driver) string {
	t.Helper()
	return importImage(t, d, "cove-test/bare", "")
}

// shellImage puts one with a shell and sleep into it, and nothing else.
func shellImage(t *testing.T, d *Driver) string {
	t.Helper()
	program, err := exec.LookPath("busybox")
	if err != nil {
		t.Skip("makes an image with a shell: install busybox-static")
	}
	return importImage(t, d, "cove-test/shell", program)
}

// importImage imports an image of a few files, with a program of this machine as its shell.
func importImage(t *testing.T, d *Driver, repository, shell string, changes ...string) string {
	t.Helper()
	const passwd = "root:x:0:0::/root:/bin/sh\n"
	var archive bytes.Buffer
	out := tar.NewWriter(&archive)
	put := func(name string, mode int64, content string) {
		header := &tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: mode, Size: int64(len(content))}
		if strings.HasSuffix(name, "/") {
			header.Typeflag = tar.TypeDir
		}
		if err := out.WriteHeader(header); err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(out, content)
	}
	put("etc/", 0o755, "")
	put("etc/passwd", 0o644, passwd)
	if shell != "" {
		program, err := os.ReadFile(shell)
		if err != nil {
			t.Fatal(err)
		}
		put("bin/", 0o755, "")
		put("bin/sh", 0o755, string(program))
		put("bin/sleep", 0o755, string(program))
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	name := repository + ":1"
	err := d.engine.call(t.Context(), func(ctx context.Context, c *client.Client) error {
		reply, err := c.ImageImport(ctx, client.ImageImportSource{Source: &archive, SourceName: "-"}, name, client.ImageImportOptions{
			Changes: append([]string{"ENV GREETING=hello", "ENV GOMEMLIMIT=1", "VOLUME /kept", "WORKDIR /work", "EXPOSE 80", `CMD ["/nothing"]`}, changes...),
		})
		if err != nil {
			return err
		}
		defer reply.Close()
		_, err = io.Copy(io.Discard, reply)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = removeImage(d, name) })
	return name
}

// removeImage removes an image past the driver.
func removeImage(d *Driver, name string) error {
	return d.engine.call(context.Background(), func(ctx context.Context, c *client.Client) error {
		_, err := c.ImageRemove(ctx, name, client.ImageRemoveOptions{Force: true})
		return err
	})
}

func TestAnImageOfTheEnginesIsDescribed(t *testing.T) {
	d := anyEngine(t)
	name := bareImage(t, d)
	found, err := d.Image(t.Context(), &cove.Spec{Image: name, Pull: cove.PullNever}, nil)
	if err != nil {
		t.Fatal(err)
	}
	c := found.Config
	if found.Reference != name || c.Workdir != "/work" || strings.Join(c.Ports, " ") != "80/tcp" || strings.Join(c.Volumes, " ") != "/kept" || strings.Join(c.Cmd, " ") != "/nothing" {
		t.Errorf("got %+v", found)
	}
	for reference, want := range map[string]cove.Code{
		"cove-test/absent:1": cove.NotFound, "docker-daemon:cove-test/absent:1": cove.NotFound, "oci:/dir": cove.NotSupported, "UPPER//": cove.Invalid,
	} {
		if _, err := d.Image(t.Context(), &cove.Spec{Image: reference, Pull: cove.PullNever}, nil); !errors.Is(err, want) {
			t.Errorf("%s: got %v, want %s", reference, err, want)
		}
	}
	if _, err := d.Image(t.Context(), &cove.Spec{Image: "127.0.0.1:1/nobody:1"}, nil); !errors.Is(err, cove.Unavailable) || cove.HintOf(err) == "" {
		t.Errorf("a registry that is not there: got %v, want unavailable", err)
	}
	if _, err := d.Image(t.Context(), &cove.Spec{Image: name, Platform: "linux/s390x", Pull: cove.PullNever}, nil); !errors.Is(err, cove.NotFound) {
		t.Errorf("another platform: got %v, want not found", err)
	}
}

// read returns what a file inside says.
func read(t *testing.T, guest *dial.Client, path string) string {
	t.Helper()
	response, err := guest.ReadFile(t.Context(), path, "root", nil)
	if err != nil {
		t.Errorf("read %s: %v", path, err)
		return ""
	}
	defer response.Body.Close()
	content, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err != nil {
		t.Error(err)
	}
	return string(content)
}

func TestASandboxOfABareImageHasWhatWasAskedFor(t *testing.T) {
	first := anyEngine(t)
	name := bareImage(t, first)
	for _, runtime := range []string{"docker", "docker:gvisor"} {
		t.Run(runtime, func(t *testing.T) {
			d, err := rig{t.TempDir(), binaries(t), engines()[0], runtime}.open()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := d.Probe(t.Context()); err != nil {
				t.Skip(err)
			}
			s := spec()
			s.Image, s.Hosts, s.Limits.Shm = name, map[string]string{"db": "10.1.2.3"}, cove.MiB
			s.Mounts = []cove.Mount{{Type: cove.MountVolume, Source: "cove-test-named", Target: "/named"}, {Type: cove.MountTmpfs, Target: "/fast", Size: 2 * cove.MiB}}
			m, err := d.Create(t.Context(), "bare1", s)
			if err != nil {
				t.Fatal(err)
			}
			guest := dial.New(m.Dial)
			defer guest.Close()
			for variable := range strings.SplitSeq(read(t, guest, "/proc/1/environ"), "\x00") {
				if name, value, _ := strings.Cut(variable, "="); name == "GOMEMLIMIT" && value != "" {
					t.Errorf("the agent has %s, which is the image's", variable)
				}
			}
			if hosts := read(t, guest, "/etc/hosts"); !strings.Contains(hosts, "10.1.2.3\tdb") {
				t.Errorf("/etc/hosts: got %q", hosts)
			}
			if resolv := read(t, guest, "/etc/resolv.conf"); !strings.Contains(resolv, "nameserver 198.18.0.1\nnameserver 127.0.0.1") {
				t.Errorf("/etc/resolv.conf: got %q, want nothing of this machine's", resolv)
			}
			mounts := read(t, guest, "/proc/self/mounts")
			for _, want := range []string{" /kept tmpfs ", " /fast tmpfs ", " /named ", " /dev/shm tmpfs "} {
				if !strings.Contains(mounts, want) {
					t.Errorf("mounts: got no%sin\n%s", want, mounts)
				}
			}
			if info, err := guest.Stat(t.Context(), "/workspace", ""); err != nil || info.Type != cove.TypeDirectory {
				t.Errorf("/workspace: got %+v, %v; want a directory", info, err)
			}
			stats, err := m.(*machine).Stats(t.Context())
			if err != nil || stats.Memory == nil || stats.CPUTime == nil || *stats.CPUTime <= 0 {
				t.Errorf("stats: got %+v, %v", stats, err)
			}
			if err := m.Destroy(t.Context()); err != nil {
				t.Fatal(err)
			}
			err = d.engine.call(t.Context(), func(ctx context.Context, c *client.Client) error {
				_, err := c.VolumeInspect(ctx, "cove-test-named", client.VolumeInspectOptions{})
				if err == nil {
					_, err = c.VolumeRemove(ctx, "cove-test-named", client.VolumeRemoveOptions{})
				}
				return err
			})
			if err != nil {
				t.Errorf("the named volume: %v, want it to stay", err)
			}
		})
	}
}
