package daiv

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/covehq/cove"
	"github.com/covehq/cove/internal/httpapi"
	"github.com/covehq/cove/patch"
	"github.com/covehq/cove/run"
)

// maxOutput is what is kept of a command's output, its head and tail.
const maxOutput = 16 * cove.MiB

// result is how a command ended.
type result struct {
	Command  string `json:"command"`
	Output   string `json:"output"`
	ExitCode int    `json:"exit_code"`
}

// caches are what tools leave behind, and what nobody wants to have back.
func caches() []string {
	return []string{"__pycache__", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".cache"}
}

// commands answers POST /run/commands/.
func (s *Server) commands(w http.ResponseWriter, r *http.Request) {
	running, err := s.runs.Begin()
	if err != nil {
		s.fail(w, r, err)
		return
	}
	defer running.Close()
	f, ok := read(w, r)
	if !ok {
		return
	}
	f.id()
	image, commands, archive := f.text("base_image", true), f.texts("commands", true), f.bytes("archive")
	request := cove.RunRequest{Spec: s.spec(image), Cwd: strings.TrimLeft(f.text("workdir", false), "/"), FailFast: f.flag("fail_fast")}
	if !f.fine(w) {
		return
	}
	f.values = nil // the archive in base64 is not needed any more
	for _, command := range commands {
		request.Commands = append(request.Commands, merged(command))
	}
	if err := s.do(r.Context(), running, request, bytes.NewReader(archive)); err != nil {
		s.fail(w, r, err)
		return
	}
	if err := s.replyCommands(w, running, commands, request.Cwd); err != nil {
		s.options.Logger.ErrorContext(r.Context(), "a reply broke off", "error", err.Error())
		panic(http.ErrAbortHandler) // so that nobody takes a part for the whole
	}
}

// do runs, for as long as it may take.
func (s *Server) do(ctx context.Context, running *run.Run, request cove.RunRequest, archive io.Reader) error {
	running.Limit, request.MaxOutput = s.options.MaxTime, maxOutput
	return running.Do(ctx, request, archive)
}

// spec is what a sandbox of an image is.
func (s *Server) spec(image string) cove.Spec {
	spec := s.options.Spec
	spec.Image = image
	if ttl := cove.Duration(2 * s.options.MaxTime); ttl > cove.DefaultTTL {
		spec.TTL = ttl
	}
	return spec
}

// merged is a command whose outputs are one, as it comes.
func merged(line string) cove.Command {
	return cove.Command{Argv: []string{"/bin/sh", "-c", `exec "$@" 2>&1`, "sh", "/bin/sh", "-c", line}}
}

func resultOf(command string, r cove.CommandResult) result {
	out := result{command, r.Stdout + r.Stderr, r.ExitCode}
	switch {
	case r.TimedOut:
		out.ExitCode = 124
		out.Output += "\nthe time for all commands is over\n"
	case r.Signal != "":
		out.ExitCode = 128 + int(unix.SignalNum(r.Signal))
	}
	return out
}

// replyCommands answers with results and the archive of what changed, piece by piece.
func (s *Server) replyCommands(w http.ResponseWriter, running *run.Run, commands []string, below string) error {
	results := make([]result, 0, len(running.Results))
	for i, r := range running.Results {
		results = append(results, resultOf(commands[i], r))
	}
	spool, err := running.File()
	if err != nil {
		return err
	}
	count, err := running.Changes.WriteArchive(spool, patch.Selection{Below: below, Files: true, Not: caches()})
	if err != nil {
		return err
	}
	if count == 0 {
		reply(w, http.StatusOK, map[string]any{"results": results, "archive": nil})
		return nil
	}
	if _, err := spool.Seek(0, io.SeekStart); err != nil {
		return err
	}
	head, err := json.Marshal(results)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", httpapi.TypeJSON)
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if _, err := fmt.Fprintf(w, `{"results":%s,"archive":"`, head); err != nil {
		return err
	}
	encoder := base64.NewEncoder(base64.StdEncoding, w)
	if _, err := io.Copy(encoder, spool); err != nil {
		return err
	}
	if err := encoder.Close(); err != nil {
		return err
	}
	_, err = io.WriteString(w, "\"}\n")
	return err
}

// script is the file that run/code runs.
const script = "main.py"

// code answers POST /run/code/.
func (s *Server) code(w http.ResponseWriter, r *http.Request) {
	running, err := s.runs.Begin()
	if err != nil {
		s.fail(w, r, err)
		return
	}
	defer running.Close()
	f, ok := read(w, r)
	if !ok {
		return
	}
	f.id()
	if language := f.text("language", true); language != "python" && language != "" {
		f.wrong("literal_error", "Input should be 'python'", "language")
	}
	dependencies, text := f.texts("dependencies", false), f.text("code", true)
	for i, dependency := range dependencies {
		if dependency == "" || strings.HasPrefix(dependency, "-") || strings.ContainsFunc(dependency, func(c rune) bool { return c < ' ' }) {
			f.wrong("value_error", "Input should be a requirement as in requests==2.32", "dependencies", i)
		}
	}
	if !f.fine(w) {
		return
	}
	archive, err := project(text, dependencies)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	request := cove.RunRequest{Spec: s.spec(s.options.CodeImage), Commands: []cove.Command{merged(python(dependencies))}, Return: cove.ReturnNone}
	if len(dependencies) > 0 && request.Spec.Network.Mode != cove.NetworkOpen {
		request.Spec.Network.Mode = cove.NetworkAllow
		request.Spec.Network.Allow = append([]string{"pip"}, request.Spec.Network.Allow...)
	}
	if err := s.do(r.Context(), running, request, archive); err != nil {
		s.fail(w, r, err)
		return
	}
	if out := resultOf(script, running.Results[0]); out.ExitCode != 0 {
		refuse(w, http.StatusBadRequest, out.Output)
	} else {
		reply(w, http.StatusOK, map[string]string{"output": out.Output})
	}
}

// python is the line that runs the script: by uv where the image has it, which reads the
// requirements in the script, else by python3 and pip.
func python(dependencies []string) string {
	plain := "exec python3 " + script
	if len(dependencies) > 0 {
		plain = "python3 -m pip install --quiet --disable-pip-version-check --no-input --target .requirements -r requirements.txt && PYTHONPATH=.requirements " + plain
	}
	return "command -v uv >/dev/null 2>&1 && exec uv run --quiet --script " + script + "\n" + plain
}

// project is a tar of the script and its requirements. These are written at the end of the
// script, where they don't change the numbers of its lines.
func project(code string, dependencies []string) (io.Reader, error) {
	var meta strings.Builder
	if len(dependencies) > 0 {
		list, err := json.Marshal(dependencies) // TOML writes strings as JSON does
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&meta, "\n\n# /// script\n# dependencies = %s\n# ///\n", list)
	}
	var b bytes.Buffer
	archive := tar.NewWriter(&b)
	for _, file := range []struct{ name, content string }{
		{script, code + meta.String()}, {"requirements.txt", strings.Join(dependencies, "\n") + "\n"},
	} {
		if err := archive.WriteHeader(&tar.Header{Name: path.Clean(file.name), Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(file.content))}); err != nil {
			return nil, err
		}
		if _, err := io.WriteString(archive, file.content); err != nil {
			return nil, err
		}
	}
	return &b, archive.Close()
}
