package cli

import (
	"context"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/covehq/cove"
)

func (p *program) versionVerb() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Show the versions of this program and of the daemon",
		Long: `Show the versions of this program and of the daemon, which is not started for that.

With --json, prints {"client": …, "daemon": …}, each as GET /v1/version replies;
daemon is null when none runs.`,
		Example: "  cove version",
		Args:    arguments(),
		RunE:    verb(p.version),
	}
}

func (p *program) version(ctx context.Context, _ []string) error {
	c, err := p.running(ctx)
	if err != nil {
		return err
	}
	var builds struct {
		Client cove.Build  `json:"client"`
		Daemon *cove.Build `json:"daemon"`
	}
	builds.Client = cove.Build{Version: cove.Version, API: "v1", Go: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH}
	if c != nil {
		build, err := c.Version(ctx)
		if err != nil {
			return err
		}
		builds.Daemon = &build
	}
	if p.json {
		return p.writeJSON(builds)
	}
	rows := [][]string{buildRow("client", builds.Client)}
	if builds.Daemon != nil {
		rows = append(rows, buildRow("daemon", *builds.Daemon))
	} else {
		rows = append(rows, []string{"daemon", "not running"})
	}
	return p.table([]string{"", "VERSION", "API", "GO", "PLATFORM"}, rows)
}

func buildRow(what string, build cove.Build) []string {
	return []string{what, build.Version, build.API, build.Go, build.OS + "/" + build.Arch}
}
