package cli

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/covehq/cove"
)

func (p *program) doctorVerb() *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "Check what this machine can do, and say how to mend what it can't",
		Long: `Check every runtime on this machine: whether it can run, what it isolates with, how
far each limit and protection holds, and what would make it work where it does not.
The exit code is 1 when the default runtime can't run.

With --json, prints what GET /v1/runtimes replies.`,
		Example: "  cove doctor",
		Args:    arguments(),
		RunE:    verb(p.doctor),
	}
}

func (p *program) doctor(ctx context.Context, _ []string) error {
	runtimes, err := p.probe(ctx)
	if err != nil {
		return err
	}
	if p.json {
		err = p.writeJSON(map[string][]cove.Runtime{"runtimes": runtimes})
	} else {
		_, err = io.WriteString(p.Stdout, diagnosis(runtimes))
	}
	if err != nil {
		return err
	}
	for _, r := range runtimes {
		if r.Default && r.Available {
			return nil
		}
	}
	return &cove.Error{
		Code: cove.Unavailable, Op: "doctor", Err: fmt.Errorf("the default runtime can't run on this machine"),
		Hint: "do what is said above, or choose another default: cove serve --default-runtime",
	}
}

func diagnosis(runtimes []cove.Runtime) string {
	var b strings.Builder
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(&b, "    %-12s %s\n", name, clean(value, ""))
		}
	}
	for _, r := range runtimes {
		name, verdict := r.Name, "ok"
		if r.Default {
			name += " (default)"
		}
		if !r.Available {
			verdict = "can't run here"
		}
		fmt.Fprintf(&b, "%s: %s\n", clean(name, ""), verdict)
		line("version", r.Version)
		line("isolation", string(r.Isolation))
		for _, degree := range []cove.Enforcement{cove.Enforced, cove.Degraded, cove.Unsupported} {
			line(string(degree), controls(r.Controls, degree))
		}
		line("reason", r.Reason)
		line("hint", r.Hint)
	}
	return b.String()
}
