package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"

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
	cmd.AddCommand(p.toolsCallVerb())
	return cmd
}

func (p *program) toolsCallVerb() *cobra.Command {
	return &cobra.Command{
		Use:   "call ID TOOL [ARGUMENTS]",
		Short: "Call a tool in a sandbox, as a model would",
		Long: `Call a tool in a sandbox, as a model would, and print what the model would read.

ARGUMENTS is a JSON object; without it, it is read from standard input. The exit status
is 1 where the tool could not do what it was asked. With --json, prints the whole result.`,
		Example: `  cove tools call build shell '{"command": "make test"}'
  cove tools call build read_file '{"filename": "main.py"}' --json | jq .data`,
		Args:              arguments("ID", "TOOL", "[ARGUMENTS]"),
		ValidArgsFunction: p.completeSandbox,
		RunE:              verb(p.callTool),
	}
}

// maxToolArguments is what the daemon takes, in bytes.
const maxToolArguments = 16 << 20

func (p *program) callTool(ctx context.Context, args []string) error {
	var given []byte
	if len(args) == 3 {
		given = []byte(args[2])
	} else {
		var err error
		if given, err = io.ReadAll(io.LimitReader(p.Stdin, maxToolArguments+1)); err != nil {
			return err
		}
	}
	if !json.Valid(given) {
		return usage("the arguments are not JSON", `write them as in '{"command": "ls"}'`)
	}
	s, err := p.sandbox(ctx, args[0])
	if err != nil {
		return err
	}
	result, err := s.CallTool(ctx, args[1], json.RawMessage(given))
	if err != nil {
		return err
	}
	if p.json {
		err = p.writeJSON(map[string]any{"text": result.Text, "is_error": result.IsError, "data": result.Data})
	} else {
		_, err = fmt.Fprintln(p.Stdout, strings.TrimSuffix(result.Text, "\n"))
	}
	if err == nil && result.IsError {
		return &statusError{status: exitError}
	}
	return err
}

func (p *program) listTools() error {
	for _, tool := range tools.All() {
		if _, err := fmt.Fprintf(p.Stdout, "%-11s %s\n", tool.Name, tool.Title); err != nil {
			return err
		}
	}
	return nil
}
