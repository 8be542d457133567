package cli

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/covehq/cove"
)

func (p *program) psVerb() *cobra.Command {
	return &cobra.Command{
		Use:   "ps ID",
		Short: "List what was started in a sandbox",
		Long: `List the commands that were started in a sandbox, ended ones included for as long as
their output is kept. What those commands started in turn is not listed.

With --json, prints what GET /v1/sandboxes/{id}/processes replies.`,
		Example:           "  cove ps build",
		Args:              arguments("ID"),
		ValidArgsFunction: p.completeSandbox,
		RunE:              verb(p.processes),
	}
}

func (p *program) processes(ctx context.Context, args []string) error {
	s, err := p.sandbox(ctx, args[0])
	if err != nil {
		return err
	}
	processes, err := s.Processes(ctx)
	if err != nil {
		return err
	}
	if p.json {
		return p.writeJSON(map[string][]cove.Process{"processes": append([]cove.Process{}, processes...)})
	}
	var rows [][]string
	for _, process := range processes {
		rows = append(rows, []string{
			strconv.Itoa(process.PID), processState(process), dash(process.User), span(time.Since(process.StartedAt)),
			strconv.FormatUint(process.StdoutBytes+process.StderrBytes, 10), commandLine(process.Command),
		})
	}
	return p.table([]string{"PID", "STATE", "USER", "AGE", "OUTPUT", "COMMAND"}, rows)
}

func processState(process cove.Process) string {
	switch exit := process.Exit; {
	case process.Running:
		return "running"
	case exit == nil:
		return "ended"
	case exit.TimedOut:
		return "timed out"
	case exit.Signal != "":
		return exit.Signal
	default:
		return fmt.Sprintf("exit %d", exit.Code)
	}
}
