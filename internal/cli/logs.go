package cli

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"strconv"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/covehq/cove"
	"github.com/covehq/cove/client"
)

func (p *program) logsVerb() *cobra.Command {
	var follow, onlyStderr bool
	cmd := &cobra.Command{
		Use:   "logs [flags] ID PID",
		Short: "Show what a command in a sandbox has written",
		Long: `Show what a command in a sandbox has written, also after its end: its output on
standard output, and its errors on standard error. The last 64MiB of each are kept.
A terminal gets the text alone, without the sequences that terminals obey.

With --json, prints one JSON object a line, each an event of GET …/output.`,
		Example: `  cove logs build 42
  cove logs -f build 42
  cove logs --stderr build 42 | grep error`,
		Args:              arguments("ID", "PID"),
		ValidArgsFunction: p.completeSandbox,
		RunE: verb(func(ctx context.Context, args []string) error {
			return p.logs(ctx, args[0], args[1], follow, onlyStderr)
		}),
	}
	flags := cmd.Flags()
	flags.BoolVarP(&follow, "follow", "f", false, "go on until the command ends")
	flags.BoolVar(&onlyStderr, "stderr", false, "show its standard error alone, on standard output")
	return cmd
}

func (p *program) logs(ctx context.Context, id, pid string, follow, onlyStderr bool) error {
	ignoreBrokenPipe()
	number, err := strconv.Atoi(pid)
	if err != nil || number <= 0 {
		return usage("pid "+quote(pid)+" is not a number", "see cove ps "+quote(id)+" for those that there are")
	}
	sandbox, err := p.sandbox(ctx, id)
	if err != nil {
		return err
	}
	output, err := sandbox.Process(number).Output(ctx, cove.FromStart(), follow)
	if err != nil {
		return err
	}
	defer output.Close()
	err = copyOutput(output, p.logWriter(onlyStderr))
	if errors.Is(err, syscall.EPIPE) {
		return &statusError{status: exitSignal + int(syscall.SIGPIPE)}
	}
	return err
}

// logWriter returns what writes one piece of output as the flags have it.
func (p *program) logWriter(onlyStderr bool) func(cove.Output) error {
	if p.json {
		encoder := json.NewEncoder(p.Stdout)
		return func(piece cove.Output) error {
			if onlyStderr && piece.Stream != cove.Stderr {
				return nil
			}
			return encoder.Encode(piece)
		}
	}
	stdout, stderr := printable(p.Stdout), printable(p.Stderr)
	return func(piece cove.Output) (err error) {
		switch {
		case onlyStderr && piece.Stream == cove.Stderr:
			_, err = stdout.Write(piece.Data)
		case onlyStderr:
		case piece.Stream == cove.Stderr:
			_, err = stderr.Write(piece.Data)
		default:
			_, err = stdout.Write(piece.Data)
		}
		return err
	}
}

// printable is w, behind a filter where it is a terminal.
func printable(w io.Writer) io.Writer {
	if isTerminal(w) {
		return &filter{to: w}
	}
	return w
}

func copyOutput(output *client.Output, write func(cove.Output) error) error {
	for {
		piece, err := output.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if err := write(piece); err != nil {
			return err
		}
	}
}
