package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/covehq/cove"
	"github.com/covehq/cove/client"
)

// maxCopy is the default of --max-size.
const maxCopy = 16 * cove.GiB

func (p *program) cpVerb() *cobra.Command {
	most := maxCopy
	cmd := &cobra.Command{
		Use:   "cp SOURCE DESTINATION",
		Short: "Copy files and directories into a sandbox, or out of it",
		Long: `Copy a file or directory into a sandbox, or out of it. One side is ID:PATH; a PATH that
is not absolute is below the sandbox's working directory. The other side is a path of
this machine, or - for standard input or output.

A file goes to the path that is given, or into it where that is a directory; after a
path that ends in / a directory must be there. A directory becomes the path that is
given where there is nothing yet, and goes into it where that is a directory. A SOURCE
that ends in /. stands for what is in that directory, and goes into DESTINATION itself.
Permissions and times are kept; owners are not: inside, files belong to the sandbox's
user, and outside to you. Symbolic links are copied as such. Devices, sockets and pipes
are left out, and so are the bits that let a program run as its owner.

With --json, prints what GET …/files/stat replies for the path inside.`,
		Example: `  cove cp ./project build:/workspace
  cove cp build:/workspace/report.html .
  git archive HEAD | cove cp - build:/tmp/src.tar
  cove cp build:/workspace/out.csv - | sort`,
		Args:              arguments("SOURCE", "DESTINATION"),
		ValidArgsFunction: p.completePath,
		RunE: verb(func(ctx context.Context, args []string) error {
			return p.copy(ctx, args[0], args[1], most)
		}),
	}
	cmd.Flags().Var(bytesFlag(&most), "max-size", "most that is copied out of a sandbox, which may send without end")
	return cmd
}

func (p *program) copy(ctx context.Context, source, destination string, most cove.Bytes) error {
	ignoreBrokenPipe()
	from, err := parsePlace(source)
	if err != nil {
		return err
	}
	to, err := parsePlace(destination)
	if err != nil {
		return err
	}
	var id string
	switch {
	case from.sandbox != "" && to.sandbox != "":
		return usage("both sides are in sandboxes", "copy out of one, then into the other: cove cp A:/file - | cove cp - B:/file")
	case from.sandbox == "" && to.sandbox == "":
		return usage("neither side is in a sandbox", "write one of them as ID:/path")
	default:
		id = from.sandbox + to.sandbox
	}
	sandbox, err := p.sandbox(ctx, id)
	if err != nil {
		return err
	}
	progress := p.newProgress()
	defer progress.finish()
	transfer := transfer{program: p, files: sandbox.Files(), progress: progress, most: int64(most)}
	var inside string
	if to.sandbox != "" {
		inside, err = transfer.upload(ctx, from, to, sandbox.Spec.Workdir)
	} else {
		inside = from.in(sandbox.Spec.Workdir)
		err = transfer.download(ctx, inside, from, to)
	}
	if errors.Is(err, syscall.EPIPE) {
		return &statusError{status: exitSignal + int(syscall.SIGPIPE)}
	}
	if err != nil || !p.json || to.stream() {
		return err
	}
	info, err := transfer.files.Stat(ctx, inside)
	if err != nil {
		return err
	}
	return p.writeJSON(info)
}

// transfer is one run of cp.
type transfer struct {
	*program
	files    *client.Files
	progress *progress
	most     int64
}

// kindInside is what a path leads to in the sandbox, "" where there is nothing. A
// symlink counts as what it leads to.
func (t transfer) kindInside(ctx context.Context, name string) (cove.FileType, error) {
	info, err := t.files.Stat(ctx, name)
	switch {
	case errors.Is(err, cove.NotFound):
		return "", nil
	case err != nil:
		return "", err
	case info.Type != cove.TypeSymlink:
		return info.Type, nil
	}
	// Listing a directory follows symlinks; on anything else it fails.
	if _, err := t.files.List(ctx, name+"/.", 1); err == nil {
		return cove.TypeDirectory, nil
	}
	return cove.TypeFile, nil
}

// target decides where a file or directory called name goes: to the path itself, or into
// it. kind is what is at the path.
func target(at string, kind cove.FileType, directory bool, from, to place, name string) (string, error) {
	switch {
	case directory && kind == cove.TypeDirectory && from.inside:
		return at, nil
	case kind == cove.TypeDirectory:
		return path.Join(at, name), nil
	case directory && kind != "":
		return "", problem("copy", at, "it is not a directory, and the source is one", "name a directory, or a path where there is nothing")
	case !directory && to.dir && kind == "":
		return "", problem("copy", at, "there is no such directory", "leave the final / out to make a file of that name")
	case !directory && to.dir:
		return "", problem("copy", at, "it is not a directory", "leave the final / out to replace the file")
	}
	return at, nil
}

// progress shows how much was copied, on a terminal and once it takes longer.
type progress struct {
	to    io.Writer // nil: nobody looks
	begin time.Time
	last  time.Time
	bytes int64
	shown bool
}

func (p *program) newProgress() *progress {
	progress := &progress{begin: time.Now()}
	if isTerminal(p.Stderr) && !p.json {
		progress.to = p.Stderr
	}
	return progress
}

// Write counts data.
func (p *progress) Write(data []byte) (int, error) {
	p.bytes += int64(len(data))
	const patience = 500 * time.Millisecond
	if now := time.Now(); p.to != nil && now.Sub(p.begin) > patience && now.Sub(p.last) > patience/5 {
		p.last, p.shown = now, true
		rate := float64(p.bytes) / now.Sub(p.begin).Seconds() / float64(cove.MiB)
		fmt.Fprintf(p.to, "\r\x1b[Kcopied %.1f MiB, %.0f MiB/s", float64(p.bytes)/float64(cove.MiB), rate)
	}
	return len(data), nil
}

// finish wipes what was shown.
func (p *progress) finish() {
	if p.shown {
		io.WriteString(p.to, "\r\x1b[K")
	}
}
