package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/covehq/cove/tools"
)

func (p *program) toolsVerb() *cobra.Command {
	var format string
	var names []string
	for _, f := range tools.Formats() {
		names = append(names, string(f))
	}
	cmd := &cobra.Command{
		Use:   "tools [flags]",
		Short: "Show the tools that a model can use in a sandbox",
		Long: `Show the tools that a model can use in a sandbox, with what they do.

With --format, prints their definitions as JSON: openai for Chat Completions,
openai-responses, anthropic for the Messages API, mcp, or cove for all that there is to
say. --json is --format cove.`,
		Example: "  cove tools\n  cove tools --format openai > tools.json",
		Args:    arguments(),
		RunE: func(*cobra.Command, []string) error {
			if format == "" && !p.json {
				return p.listTools()
			}
			if format == "" {
				format = string(tools.FormatCove)
			}
			data, err := tools.Export(tools.Format(format), tools.All())
			if err != nil {
				return err
			}
			_, err = p.Stdout.Write(data)
			return err
		},
	}
	cmd.Flags().StringVar(&format, "format", "", "openai, openai-responses, anthropic, mcp or cove")
	must(cmd.RegisterFlagCompletionFunc("format", cobra.FixedCompletions(names, cobra.ShellCompDirectiveNoFileComp)))
	return cmd
}

func (p *program) listTools() error {
	for _, tool := range tools.All() {
		if _, err := fmt.Fprintf(p.Stdout, "%-11s %s\n", tool.Name, tool.Title); err != nil {
			return err
		}
	}
	return nil
}
