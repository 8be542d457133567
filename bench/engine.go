package main

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/client"
)

// stepNames are what is measured on a Docker engine, in columns.
var stepNames = []string{"create", "exec true", "write 1 MB", "read 1 MB", "destroy"}

// steps are the samples of one way to use an engine.
type steps struct {
	name string
	of   map[string]samples
}

func newSteps(name string) steps { return steps{name, map[string]samples{}} }

// measure takes a sample of a step.
func (s steps) measure(step string, f func() error) error {
	at := time.Now()
	if err := f(); err != nil {
		return fmt.Errorf("%s by %s: %w", step, s.name, err)
	}
	s.of[step] = append(s.of[step], time.Since(at))
	return nil
}

const (
	engineImage = "cove-bench:1"
	execsEach   = 10 // of each sandbox; as in peers.py
)

// engine measures the ways to use one Docker engine beside each other, where one answers:
// Cove, the docker program, and Python libraries that stand on Docker, where
// COVE_BENCH_PYTHON is a Python that has them.
func (b *bench) engine(ctx context.Context) error {
	version, err := b.docker(ctx, nil, "version", "--format", "{{.Server.Version}}")
	if err != nil {
		b.table.note("No Docker engine answered (`docker version`), so nothing on Docker is beside these figures.")
		return nil
	}
	b.table.note("Docker engine %s; the image has a static busybox.", strings.TrimSpace(version))
	image, err := busyboxImage()
	if err != nil {
		b.table.note("Nothing was measured on Docker: %v.", err)
		return nil
	}
	if _, err := b.docker(ctx, image, "import", "-", engineImage); err != nil {
		return err
	}
	defer b.docker(context.WithoutCancel(ctx), nil, "rmi", "-f", engineImage)
	for _, measure := range []func(context.Context) (steps, error){b.coveOnDocker, b.dockerProgram} {
		s, err := measure(ctx)
		if err != nil {
			return err
		}
		b.table.steps = append(b.table.steps, s)
	}
	python := os.Getenv("COVE_BENCH_PYTHON")
	if python == "" {
		b.table.note("COVE_BENCH_PYTHON names no Python with dokapy and axio-tools-docker, so they are not beside these figures.")
		return nil
	}
	for _, library := range []string{"dokapy", "axio-tools-docker"} {
		s, err := b.pythonLibrary(ctx, python, library)
		if err != nil {
			return err
		}
		b.table.steps = append(b.table.steps, s)
	}
	return nil
}

// docker runs the docker program and returns what it printed.
func (b *bench) docker(ctx context.Context, stdin []byte, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "docker", args...)
	cmd.WaitDelay = time.Second
	if stdin != nil {
		cmd.Stdin = bytes.NewReader(stdin)
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("docker %s: %w: %s", args[0], err, stderr.String())
	}
	return stdout.String(), nil
}

// busyboxImage returns a root filesystem of one static program.
func busyboxImage() ([]byte, error) {
	program, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return nil, err
	}
	var image bytes.Buffer
	w := tar.NewWriter(&image)
	headers := []tar.Header{
		{Name: "bin/", Typeflag: tar.TypeDir, Mode: 0o755}, {Name: "tmp/", Typeflag: tar.TypeDir, Mode: 0o1777},
		{Name: "bin/busybox", Typeflag: tar.TypeReg, Mode: 0o755, Size: int64(len(program))},
	}
	for _, applet := range []string{"sh", "true", "sleep", "cat", "test", "mkdir", "rm", "tar"} {
		headers = append(headers, tar.Header{Name: "bin/" + applet, Typeflag: tar.TypeSymlink, Linkname: "busybox"})
	}
	for _, h := range headers {
		if err := w.WriteHeader(&h); err != nil {
			return nil, err
		}
		if h.Size > 0 {
			if _, err := w.Write(program); err != nil {
				return nil, err
			}
		}
	}
	return image.Bytes(), w.Close()
}

func (b *bench) coveOnDocker(ctx context.Context) (steps, error) {
	s := newSteps("Cove, runtime docker")
	content := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	for i := range b.rounds + 1 {
		if i == 1 {
			s = newSteps(s.name) // the first round does not count
		}
		var box *client.Sandbox
		err := s.measure("create", func() (err error) {
			box, err = b.client.Create(ctx, cove.Spec{Runtime: "docker", Image: engineImage, BestEffort: true}, client.CreateOptions{})
			return err
		})
		if err != nil {
			return s, err
		}
		err = b.useOnDocker(ctx, s, box, content)
		if destroy := s.measure("destroy", func() error { return box.Remove(ctx) }); err == nil {
			err = destroy
		}
		if err != nil {
			return s, err
		}
	}
	return s, nil
}

func (b *bench) useOnDocker(ctx context.Context, s steps, box *client.Sandbox, content []byte) error {
	for range execsEach {
		err := s.measure("exec true", func() error {
			_, err := box.Exec(ctx, cove.ExecRequest{Command: cove.Command{Argv: []string{"true"}}})
			return err
		})
		if err != nil {
			return err
		}
	}
	err := s.measure("write 1 MB", func() error {
		_, err := box.Files().WriteFile(ctx, "/tmp/large", bytes.NewReader(content), 0o644)
		return err
	})
	if err != nil {
		return err
	}
	return s.measure("read 1 MB", func() error {
		r, err := box.Files().OpenFile(ctx, "/tmp/large")
		if err != nil {
			return err
		}
		defer r.Close()
		n, err := io.Copy(io.Discard, r)
		if err == nil && n != int64(len(content)) {
			err = fmt.Errorf("got %d bytes", n)
		}
		return err
	})
}

func (b *bench) dockerProgram(ctx context.Context) (steps, error) {
	s := newSteps("`docker run`, `exec`, `cp`")
	large := filepath.Join(b.dir, "large")
	if err := os.WriteFile(large, bytes.Repeat([]byte("0123456789abcdef"), 1<<16), 0o644); err != nil {
		return s, err
	}
	for i := range b.rounds + 1 {
		if i == 1 {
			s = newSteps(s.name)
		}
		name := "cove-bench-" + strconv.Itoa(i)
		docker := func(args ...string) func() error {
			return func() error { _, err := b.docker(ctx, nil, args...); return err }
		}
		err := s.measure("create", docker("run", "-d", "--rm", "--network", "none", "--memory", "512m", "--name", name, engineImage, "/bin/sleep", "600"))
		for range execsEach {
			if err == nil {
				err = s.measure("exec true", docker("exec", name, "true"))
			}
		}
		if err == nil {
			err = s.measure("write 1 MB", docker("cp", large, name+":/tmp/large"))
		}
		if err == nil {
			err = s.measure("read 1 MB", docker("cp", name+":/tmp/large", large))
		}
		if destroy := s.measure("destroy", docker("rm", "-f", name)); err == nil {
			err = destroy
		}
		if err != nil {
			return s, err
		}
	}
	return s, nil
}

// pythonLibrary runs peers.py, whose names of steps are its own.
func (b *bench) pythonLibrary(ctx context.Context, python, library string) (steps, error) {
	s := newSteps(library)
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, python, "bench/peers/peers.py", library, engineImage, strconv.Itoa(b.rounds))
	cmd.WaitDelay = time.Second
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	output, err := cmd.Output()
	if err != nil {
		return s, fmt.Errorf("%s: %w: %s", library, err, stderr.String())
	}
	var found map[string][]float64
	if err := json.Unmarshal(output, &found); err != nil {
		return s, fmt.Errorf("%s: %w", library, err)
	}
	for step, key := range map[string]string{"create": "create", "exec true": "exec", "write 1 MB": "write", "read 1 MB": "read", "destroy": "destroy"} {
		for _, ms := range found[key] {
			s.of[step] = append(s.of[step], time.Duration(ms*float64(time.Millisecond)))
		}
	}
	return s, nil
}
