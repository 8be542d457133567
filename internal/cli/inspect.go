package cli

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/covehq/cove"
)

func (p *program) inspectVerb() *cobra.Command {
	return &cobra.Command{
		Use:   "inspect ID",
		Short: "Show what a sandbox is",
		Long: `Show what a sandbox was asked to be, how it stands, what isolates it, and how far
each of its limits and protections holds on this machine.

With --json, prints the sandbox as GET /v1/sandboxes/{id} does.`,
		Example: `  cove inspect build
  cove inspect build --json | jq .expires_at`,
		Args:              arguments("ID"),
		ValidArgsFunction: p.completeSandbox,
		RunE:              verb(p.inspect),
	}
}

func (p *program) inspect(ctx context.Context, args []string) error {
	s, err := p.sandbox(ctx, args[0])
	if err != nil {
		return err
	}
	if p.json {
		return p.writeJSON(s.Sandbox)
	}
	spec := s.Spec
	rows := [][]string{
		{"name", dash(s.Name)},
		{"state", stateText(s.Sandbox)},
		{"created", s.CreatedAt.Format(time.RFC3339) + ", " + span(time.Since(s.CreatedAt)) + " ago, " + string(s.Acquired)},
		{"expires", until(s.ExpiresAt) + ", when idle for: " + spec.Idle.String()},
		{"runtime", s.Runtime + ", isolation: " + string(s.Isolation)},
		{"image", spec.Image},
		{"limits", fmt.Sprintf("%g cpus, %v memory, %d processes, %v disk", spec.Limits.CPUs, spec.Limits.Memory, spec.Limits.Pids, spec.Limits.Disk)},
		{"commands", fmt.Sprintf("as %s in %s, for at most %v", spec.User, spec.Workdir, spec.Timeout)},
		{"network", reach(spec.Network)},
		{"ports", dash(ports(spec.Ports))},
		{"mounts", dash(mounts(spec.Mounts))},
		{"read-only", fmt.Sprint(spec.ReadOnly)},
		{"labels", dash(pairs(spec.Labels))},
		// Values of variables are often secrets; --json has them for who wants them.
		{"variables", dash(strings.Join(slices.Sorted(maps.Keys(spec.Env)), " "))},
	}
	if s.Message != "" {
		rows = append(rows, []string{"message", s.Message})
	}
	for _, degree := range []cove.Enforcement{cove.Enforced, cove.Degraded, cove.Unsupported} {
		rows = append(rows, []string{string(degree), dash(controls(s.Controls, degree))})
	}
	return p.table([]string{"id", s.ID}, rows)
}

func pairs(m map[string]string) string {
	var words []string
	for _, key := range slices.Sorted(maps.Keys(m)) {
		words = append(words, key+"="+m[key])
	}
	return strings.Join(words, " ")
}

// ports lists what is open on the daemon's machine, as in 127.0.0.1:8080->80.
func ports(list []cove.Port) string {
	var words []string
	for _, port := range list {
		words = append(words, fmt.Sprintf("%s->%d", portText(port), port.Port))
	}
	return strings.Join(words, " ")
}

// mounts lists what is mounted, as in /srv->/data:ro.
func mounts(list []cove.Mount) string {
	var words []string
	for _, mount := range list {
		word := mount.Source
		if mount.Type == cove.MountTmpfs {
			word = "tmpfs"
		}
		if word += "->" + mount.Target; mount.ReadOnly {
			word += ":ro"
		}
		if mount.Remove {
			word += ":remove"
		}
		words = append(words, word)
	}
	return strings.Join(words, " ")
}
