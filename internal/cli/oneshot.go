package cli

import (
	"context"
	"encoding/base64"
	"errors"
	"io"
	"os"

	"github.com/spf13/pflag"

	"github.com/covehq/cove"
	"github.com/covehq/cove/client"
)

// carried is what run carries into its sandbox and back.
type carried struct {
	in    string // directory or tar, "-" for standard input
	out   string // directory
	patch string // file, "-" for standard output
}

func (c *carried) flags(flags *pflag.FlagSet) {
	flags.StringVar(&c.in, "in", "", "directory or tar that the command works on; - is a tar on standard input")
	flags.StringVar(&c.out, "out", "", "directory in which to change what the command changed; it may be that of --in")
	flags.StringVar(&c.patch, "patch", "", "write what the command changed as a patch for git apply to this file; without one, print it")
	flags.Lookup("patch").NoOptDefVal = "-"
}

func (c *carried) any() bool { return c.in+c.out+c.patch != "" }

// back is what the run has to give back.
func (c *carried) back() cove.RunReturn {
	switch {
	case c.out != "" && c.patch != "":
		return cove.ReturnBoth
	case c.out != "":
		return cove.ReturnArchive
	case c.patch != "":
		return cove.ReturnPatch
	}
	return cove.ReturnNone
}

// maxRunOutput is what is kept of each stream of a command that is shown when it has ended.
const maxRunOutput = 64 * cove.MiB

// runFiles runs the command on files, in one request.
func (p *program) runFiles(ctx context.Context, spec cove.Spec, c command, files carried) error {
	if c.interactive || c.tty {
		return usage("-i and -t exclude --in, --out and --patch", "leave them out: the command is shown when it has ended")
	}
	if len(c.argv) == 0 {
		return usage("missing command", "write it after --, as in: -- make test")
	}
	daemon, err := p.connect(ctx)
	if err != nil {
		return err
	}
	request := cove.RunRequest{
		Spec: spec, Commands: []cove.Command{{Argv: c.argv}}, Return: files.back(),
		MaxOutput: maxRunOutput, Encoding: cove.EncodingBase64,
	}
	result, err := p.send(ctx, daemon, request, files)
	if len(result.Results) == 0 {
		return err
	}
	// What could not be carried is told after the command was shown.
	if wrong := p.showRun(result, files); wrong != nil {
		return wrong
	}
	if err != nil {
		return err
	}
	last := result.Results[0]
	exit := cove.Exit{Code: last.ExitCode, Signal: last.Signal, TimedOut: last.TimedOut}
	status := statusOf(exit)
	if exit.TimedOut {
		return &statusError{status: status, err: &cove.Error{
			Code: cove.Timeout, Op: "run", Err: errors.New("the command timed out and was killed"), Hint: "give it longer with --timeout, or never",
		}}
	}
	if status != 0 {
		return &statusError{status: status}
	}
	return nil
}

// send sends the request with its files, and takes over what comes back.
func (p *program) send(ctx context.Context, daemon *client.Client, request cove.RunRequest, files carried) (cove.RunResult, error) {
	var archive io.Reader
	if files.in == "-" {
		archive = p.Stdin
	} else if info, err := os.Stat(files.in); files.in == "" || err != nil || info.IsDir() {
		return daemon.RunFiles(ctx, request, files.in, files.out)
	} else {
		file, err := os.Open(files.in)
		if err != nil {
			return cove.RunResult{}, problem("run", files.in, err.Error(), "name a directory or a tar that can be read")
		}
		defer file.Close()
		archive = file
	}
	result, err := daemon.Run(ctx, request, archive)
	if err != nil || files.out == "" {
		return result, err
	}
	return result, client.Apply(result, files.out)
}

// showRun writes the patch, and what the command wrote.
func (p *program) showRun(result cove.RunResult, files carried) error {
	patch := ""
	if result.Patch != nil {
		patch = *result.Patch
	}
	if files.patch != "" && files.patch != "-" {
		if err := os.WriteFile(files.patch, []byte(patch), 0o666); err != nil {
			return problem("run", files.patch, err.Error(), "choose another file for --patch")
		}
	}
	if p.json {
		return p.writeJSON(result)
	}
	to := p.Stdout
	if files.patch == "-" {
		to = p.Stderr
	}
	for _, stream := range []struct {
		to   io.Writer
		text string
	}{{to, result.Results[0].Stdout}, {p.Stderr, result.Results[0].Stderr}} {
		data := []byte(stream.text)
		if result.Results[0].Encoding == cove.EncodingBase64 {
			var err error
			if data, err = base64.StdEncoding.DecodeString(stream.text); err != nil {
				return err
			}
		}
		if _, err := stream.to.Write(data); err != nil {
			return err
		}
	}
	if files.patch == "-" {
		_, err := io.WriteString(p.Stdout, patch)
		return err
	}
	return nil
}
