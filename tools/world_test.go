package tools

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/covehq/cove"
)

// disk is a sandbox that is a directory of this machine.
type disk struct{ dir string }

func (d disk) at(path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(d.dir, path)
}

func (d disk) Exec(ctx context.Context, r cove.ExecRequest) (cove.ExecResult, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(r.Timeout))
	defer cancel()
	args := r.Command.Args()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir, cmd.WaitDelay = d.at(r.Cwd), time.Second
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewBufferString(r.Stdin), &stdout, &stderr
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		return cove.ExecResult{}, err
	}
	return cove.ExecResult{
		ExitCode: cmd.ProcessState.ExitCode(), Stdout: stdout.String(), Stderr: stderr.String(),
		TimedOut: errors.Is(ctx.Err(), context.DeadlineExceeded),
	}, nil
}

func (d disk) List(_ context.Context, path string) ([]cove.FileInfo, error) {
	entries, err := os.ReadDir(d.at(path))
	if err != nil {
		return nil, coded(err)
	}
	var list []cove.FileInfo
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			return nil, err
		}
		kind := cove.TypeFile
		switch {
		case e.IsDir():
			kind = cove.TypeDirectory
		case info.Mode()&fs.ModeSymlink != 0:
			kind = cove.TypeSymlink
		}
		list = append(list, cove.FileInfo{
			Name: e.Name(), Path: filepath.Join(d.at(path), e.Name()), Type: kind, Size: info.Size(),
			Mode: uint32(info.Mode().Perm()), ModifiedAt: info.ModTime(),
		})
	}
	return list, nil
}

func (d disk) Open(_ context.Context, path string) (io.ReadCloser, error) {
	file, err := os.Open(d.at(path))
	return file, coded(err)
}

func (d disk) Write(_ context.Context, path string, r io.Reader, mode fs.FileMode) error {
	path = d.at(path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	data, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	if err := os.WriteFile(path, data, 0o644); err != nil || mode == 0 {
		return err
	}
	return os.Chmod(path, mode)
}

func (d disk) Remove(_ context.Context, path string) error { return os.Remove(d.at(path)) }

func coded(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return &cove.Error{Code: cove.NotFound, Err: err, Hint: "list the directory"}
	}
	return err
}

// call calls a tool by its name.
func call(t *testing.T, on Sandbox, name, arguments string) Result {
	t.Helper()
	for _, tool := range All() {
		if tool.Name == name {
			return checked(t, tool, tool.Call(t.Context(), on, json.RawMessage(arguments)))
		}
	}
	t.Fatalf("there is no tool %s", name)
	return Result{}
}

// checked fails the test where the data of a result is not what the tool's schema says.
func checked(t *testing.T, tool Tool, result Result) Result {
	t.Helper()
	if _, ok := result.Data.(Failure); ok {
		return result
	}
	data, err := json.Marshal(result.Data)
	if err != nil {
		t.Fatal(err)
	}
	var value any
	if err := json.Unmarshal(data, &value); err != nil {
		t.Fatal(err)
	}
	schema, err := tool.Result.Resolve(nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := schema.Validate(value); err != nil {
		t.Errorf("%s returned %s, which its schema does not allow: %v", tool.Name, data, err)
	}
	return result
}

// files makes a sandbox with these files.
func files(t *testing.T, content map[string]string) disk {
	t.Helper()
	d := disk{t.TempDir()}
	for name, text := range content {
		if err := d.Write(t.Context(), name, bytes.NewBufferString(text), 0); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

func (d disk) content(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(d.at(name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
