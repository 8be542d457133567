package cli

import (
	"context"
	"fmt"
	"net"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/covehq/cove"
)

func (p *program) portsVerb() *cobra.Command {
	return &cobra.Command{
		Use:   "ports ID",
		Short: "List the ports inside a sandbox that are listened on",
		Long: `List the TCP ports inside a sandbox on which something listens, as the sandbox tells it.
Open one on this machine with cove port.

With --json, prints what GET /v1/sandboxes/{id}/ports replies.`,
		Example:           "  cove ports build",
		Args:              arguments("ID"),
		ValidArgsFunction: p.completeSandbox,
		RunE:              verb(p.ports),
	}
}

func (p *program) ports(ctx context.Context, args []string) error {
	s, err := p.sandbox(ctx, args[0])
	if err != nil {
		return err
	}
	ports, err := s.Ports(ctx)
	if err != nil {
		return err
	}
	if p.json {
		return p.writeJSON(map[string][]cove.ListeningPort{"ports": append([]cove.ListeningPort{}, ports...)})
	}
	var rows [][]string
	for _, port := range ports {
		pid := ""
		if port.PID > 0 {
			pid = strconv.Itoa(port.PID)
		}
		rows = append(rows, []string{strconv.Itoa(port.Port), dash(port.Address), dash(pid), dash(port.Command)})
	}
	return p.table([]string{"PORT", "ADDRESS", "PID", "COMMAND"}, rows)
}

// listens says in one line what listens where: "0.0.0.0:8000  python3 (7)".
func listens(port cove.ListeningPort) string {
	line := net.JoinHostPort(port.Address, strconv.Itoa(port.Port))
	if port.Command != "" {
		line += "  " + port.Command
	}
	if port.PID > 0 {
		line += fmt.Sprintf(" (%d)", port.PID)
	}
	return line
}
