package cli

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/covehq/cove"
	"github.com/covehq/cove/client"
)

func (p *program) cpVerb() *cobra.Command {
	return &cobra.Command{
		Use:   "cp SOURCE DESTINATION",
		Short: "Copy files and directories into a sandbox, or out of it",
		Long: `Copy a file or directory into a sandbox, or out of it. One side is ID:PATH; a PATH that
is not absolute is below the sandbox's working directory. The other side is a path of
this machine, or - for standard input or output.

What is copied gets the name that is given; where that is a directory already, it goes
into it. A file that is copied to a name ending in / needs a directory there. A SOURCE
that ends in /. stands for what that directory holds, which goes into DESTINATION itself.

Permissions, times and symbolic links are kept; owners are not: inside, files belong to
the sandbox's user, and outside to you. Devices, sockets and pipes are left out, and out
of a sandbox also links that lead away from the copy: these are listed as an error after
everything else was copied.

With --json, prints what GET …/files/stat replies for the path inside.`,
		Example: `  cove cp ./project build:/workspace
  cove cp build:/workspace/report.html .
  git archive HEAD | cove cp - build:/tmp/src.tar
  cove cp build:/workspace/out.csv - | sort`,
		Args:              arguments("SOURCE", "DESTINATION"),
		ValidArgsFunction: p.completePath,
		RunE:              verb(p.copy),
	}
}

func (p *program) copy(ctx context.Context, args []string) error {
	ignoreBrokenPipe()
	from, err := parsePlace(args[0])
	if err != nil {
		return err
	}
	to, err := parsePlace(args[1])
	if err != nil {
		return err
	}
	switch {
	case from.sandbox != "" && to.sandbox != "":
		return usage("both sides are in sandboxes", "copy a file through this machine: cove cp A:/file - | cove cp - B:/file")
	case from.sandbox == "" && to.sandbox == "":
		return usage("neither side is in a sandbox", "write one of them as ID:/path")
	}
	inside := from.sandbox != ""
	sandbox, err := p.sandbox(ctx, from.sandbox+to.sandbox)
	if err != nil {
		return err
	}
	at := to.path
	if inside {
		at = from.path
		err = p.copyOut(ctx, sandbox.Files(), from, to)
	} else {
		err = p.copyIn(ctx, sandbox.Files(), from, to)
	}
	if errors.Is(err, syscall.EPIPE) {
		return &statusError{status: exitSignal + int(syscall.SIGPIPE)}
	}
	if err != nil || !p.json || to.stream() {
		return err
	}
	info, err := sandbox.Files().Stat(ctx, at)
	if err != nil {
		return err
	}
	return p.writeJSON(info)
}

func (p *program) copyIn(ctx context.Context, files *client.Files, from, to place) error {
	if from.stream() {
		return p.writeInside(ctx, files, p.Stdin, to)
	}
	info, err := os.Stat(from.path)
	if err != nil {
		return hostProblem(from.path, err)
	}
	if !info.IsDir() && from.directory() {
		return problem("copy", from.path, "it is not a directory", "leave the final / out")
	}
	if !info.IsDir() && to.directory() {
		if there, err := files.Stat(ctx, to.path+"."); err != nil || there.Type != cove.TypeDirectory {
			return noDirectory(to.path)
		}
	}
	if info.IsDir() || info.Mode().IsRegular() {
		return files.CopyIn(ctx, from.path, to.path)
	}
	// A pipe, as a shell makes for <(…), or a device: what it yields is copied.
	file, err := os.Open(from.path)
	if err != nil {
		return hostProblem(from.path, err)
	}
	defer file.Close()
	return p.writeInside(ctx, files, file, to)
}

func (p *program) writeInside(ctx context.Context, files *client.Files, content io.Reader, to place) error {
	if to.directory() || strings.HasSuffix(to.path, "/.") || to.path == "." {
		return problem("copy", to.path, "what is read from a stream has no name to be copied into a directory", "name the file that it becomes")
	}
	_, err := files.WriteFile(ctx, to.path, content, 0)
	return err
}

func (p *program) copyOut(ctx context.Context, files *client.Files, from, to place) error {
	if to.stream() {
		return copyStream(ctx, files, from.path, p.Stdout)
	}
	info, err := os.Stat(to.path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && to.directory():
		// A directory becomes one; a file would need it.
		if inside, err := files.Stat(ctx, path.Clean(from.path)); err == nil && inside.Type == cove.TypeFile {
			return noDirectory(to.path)
		}
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return hostProblem(to.path, err)
	case !info.IsDir() && !info.Mode().IsRegular():
		// A device or a pipe takes the bytes, and nothing else.
		file, err := os.OpenFile(to.path, os.O_WRONLY, 0)
		if err != nil {
			return hostProblem(to.path, err)
		}
		defer file.Close()
		return copyStream(ctx, files, from.path, file)
	}
	return files.CopyOut(ctx, from.path, to.path)
}

func copyStream(ctx context.Context, files *client.Files, name string, to io.Writer) error {
	content, err := files.OpenFile(ctx, name)
	if err != nil {
		return err
	}
	defer content.Close()
	_, err = io.Copy(to, content)
	return err
}

func noDirectory(name string) error {
	return problem("copy", name, "there is no such directory", "leave the final / out to make a file of that name")
}

func hostProblem(name string, err error) error {
	var atPath *fs.PathError
	if errors.As(err, &atPath) {
		err = atPath.Err
	}
	return &cove.Error{Code: cove.Invalid, Op: "copy", ID: name, Err: err, Hint: "check the path on this machine"}
}
