// Package cli provides the verbs of the cove program. They speak to the daemon through
// package client alone, and start one where none runs.
package cli

import (
	"context"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/covehq/cove"
	"github.com/covehq/cove/internal/daemon"
)

// App is the cove program: where it reads and writes, and how it serves.
type App struct {
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer
	// Serve runs the daemon until ctx ends.
	Serve func(ctx context.Context, o ServeOptions) error
	// Conform runs the checks of what a runtime promises, on this machine and without a
	// daemon, and tells the outcome of each.
	Conform func(ctx context.Context, runtime string, tell func(Outcome)) error
	// Install plans what makes a runtime available on this machine, and changes nothing.
	Install func(name string) (Installation, error)
}

// Installation is a change to this machine that was planned.
type Installation struct {
	Changes []string // what will change, for people; none: it is there already
	Apply   func() error
	Then    string // what is to be done after that
}

// Run executes the program with the arguments after its name, and returns the status
// that it is to exit with. It says on Stderr what went wrong.
func (a App) Run(ctx context.Context, args []string) int {
	p := &program{App: a}
	root := p.root()
	root.SetArgs(args)
	root.SetIn(a.Stdin)
	root.SetOut(a.Stdout)
	root.SetErr(a.Stderr)
	return p.report(root.ExecuteContext(ctx))
}

// program is one execution of an App.
type program struct {
	App
	json     bool
	host     string
	config   string
	stateDir string
	dataDir  string
}

// The groups of verbs in the help text.
const (
	groupSandboxes = "sandboxes"
	groupCommands  = "commands"
	groupMachine   = "machine"
	groupAgents    = "agents"
)

func (p *program) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "cove",
		Short: "Give every agent a computer of its own that it may wreck",
		Long: `Cove runs commands in sandboxes: isolated computers that boot in a fraction of a
second and are thrown away afterwards. Nothing needs to run beforehand: cove starts
its daemon when none answers, and the daemon leaves when it is of no use any more.

Exit codes: that of the command for run and exec; 124 when it timed out; 125 when
Cove failed to run it; 126 when its program can't be executed, and 127 when there is
none; else 1 for an error and 2 for a mistake in the command line.`,
		Example: `  cove run -- python3 -c 'print(6*7)'
  cat data.csv | cove run --memory 1g -- sort -u > sorted.csv
  id=$(cove create) && cove cp ./project $id:/workspace && cove exec -it $id -- bash`,
		Args:                       p.verbIsKnown,
		RunE:                       func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		PersistentPreRunE:          func(cmd *cobra.Command, _ []string) error { return p.configure(cmd.Flags()) },
		SuggestionsMinimumDistance: 2,
		SilenceErrors:              true,
		SilenceUsage:               true,
	}
	flags := root.PersistentFlags()
	flags.StringVar(&p.host, "host", "", "daemon to talk to, as unix:///path or https://host:port (COVE_URL), which needs a key in COVE_API_KEY; default this user's own, started when needed")
	flags.BoolVar(&p.json, "json", false, "write what the API replies, as JSON")
	flags.StringVar(&p.config, "config", "", "configuration file (COVE_CONFIG); default /etc/cove/cove.yaml for root, else ~/.config/cove/cove.yaml")
	flags.StringVar(&p.stateDir, "state-dir", "", "directory of the daemon's socket and log (COVE_STATE_DIR)")
	flags.StringVar(&p.dataDir, "data-dir", "", "directory of what the daemon keeps (COVE_DATA_DIR)")
	root.SetFlagErrorFunc(flagError)
	root.AddGroup(
		&cobra.Group{ID: groupCommands, Title: "Run commands:"},
		&cobra.Group{ID: groupSandboxes, Title: "Sandboxes:"},
		&cobra.Group{ID: groupAgents, Title: "Agents:"},
		&cobra.Group{ID: groupMachine, Title: "This machine:"},
	)
	add := func(group string, verbs ...*cobra.Command) {
		for _, verb := range verbs {
			verb.GroupID = group
			root.AddCommand(verb)
		}
	}
	add(groupCommands, p.runVerb(), p.execVerb(), p.psVerb(), p.logsVerb(), p.cpVerb(), p.portVerb(), p.portsVerb())
	add(groupAgents, p.mcpVerb(), p.toolsVerb())
	add(groupSandboxes, p.createVerb(), p.lsVerb(), p.inspectVerb(), p.statsVerb(), p.eventsVerb(), p.networkVerb(), p.rmVerb())
	add(groupMachine, p.imageVerb(), p.secretVerb(), p.keyVerb(), p.runtimeVerb(), p.doctorVerb(), p.serveVerb(), p.versionVerb())
	return root
}

func (p *program) verbIsKnown(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	hint := "run cove --help for the list of verbs"
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		hint = "did you mean cove " + near[0] + "?"
	}
	return usage("unknown verb "+quote(args[0]), hint)
}

// dirs is where the daemon lives that this program serves, or starts.
func (p *program) dirs() (daemon.Dirs, error) {
	return daemon.Locate(os.Geteuid(), func(name string) string {
		switch {
		case name == "COVE_STATE_DIR" && p.stateDir != "":
			return p.stateDir
		case name == "COVE_DATA_DIR" && p.dataDir != "":
			return p.dataDir
		}
		return os.Getenv(name)
	})
}

// arguments returns a check that there are as many arguments as names; a last name
// that ends in "…" stands for one or more, and one in brackets may be missing.
func arguments(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		hint := "as in: " + firstLine(cmd.Example)
		if len(args) < len(names) && names[len(args)][0] != '[' {
			return usage("missing "+names[len(args)], hint)
		}
		if last := len(names); len(args) > last && (last == 0 || !isList(names[last-1])) {
			return usage("unexpected argument "+quote(args[last]), hint)
		}
		return nil
	}
}

func isList(name string) bool { return len(name) > len("…") && name[len(name)-len("…"):] == "…" }

// problem makes an error of the command line's values, which are the caller's mistake.
func problem(op, id, message, hint string) error {
	return cove.Errorf(cove.Invalid, op, id, message, hint)
}
