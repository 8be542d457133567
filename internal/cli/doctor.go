package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/covehq/cove"
	"github.com/covehq/cove/client"
)

func (p *program) doctorVerb() *cobra.Command {
	d := &doctor{program: p}
	cmd := &cobra.Command{
		Use:   "doctor [RUNTIME…]",
		Short: "Check what this machine can do, and say how to mend what it can't",
		Long: `Check every runtime on this machine, or those that are named: whether it can run, what
it isolates with, how far each limit and protection holds, what is known to be wrong
with its version, and what would make it work where it does not. Each that can run
boots a sandbox that is removed at once. With --deep, it also has to keep every promise
that Cove's drivers give, which takes a minute or two for each. Without names, presets of
the network that can't be used here are told too.

The exit code is 1 when a runtime that is named, or else the default one, does not work,
or a promise is broken.`,
		Example: "  cove doctor\n  cove doctor --deep gvisor",
		RunE:    verb(d.run),
	}
	cmd.Flags().BoolVar(&d.deep, "deep", false, "run the conformance checks too")
	return cmd
}

type doctor struct {
	*program
	deep bool
}

// Examination is what the doctor found out about a runtime.
type Examination struct {
	cove.Runtime
	Trial  *Trial    `json:"trial,omitempty"`  // of a runtime that says it can run
	Checks []Outcome `json:"checks,omitempty"` // with --deep
}

// Findings is what the doctor says.
type Findings struct {
	Runtimes []Examination        `json:"runtimes"`
	Presets  []cove.NetworkPreset `json:"presets,omitempty"`
}

// Trial is how a sandbox of the runtime came and went.
type Trial struct {
	CreateMS float64 `json:"create_ms"`
	ExecMS   float64 `json:"exec_ms"` // of true, through the API
	Error    string  `json:"error,omitempty"`
	Hint     string  `json:"hint,omitempty"`
}

// Outcome is what became of one conformance check.
type Outcome struct {
	Name    string `json:"name"`              // group/name
	Clause  string `json:"clause"`            // the promise
	Skipped string `json:"skipped,omitempty"` // why it does not apply
	Error   string `json:"error,omitempty"`   // how it is broken
}

func (d *doctor) run(ctx context.Context, args []string) error {
	c, err := d.connect(ctx)
	if err != nil {
		return err
	}
	runtimes, err := c.Runtimes(ctx)
	if err != nil {
		return err
	}
	if runtimes, err = chosen(runtimes, args); err != nil {
		return err
	}
	found := make([]Examination, len(runtimes))
	sick := false
	for i, r := range runtimes {
		found[i] = d.examine(ctx, c, r)
		if err := ctx.Err(); err != nil {
			return err
		}
		sick = sick || (len(args) > 0 || r.Default) && !found[i].well() || found[i].broken()
		if !d.json {
			if _, err := io.WriteString(d.Stdout, found[i].text()); err != nil {
				return err
			}
		}
	}
	var presets []cove.NetworkPreset
	if len(args) == 0 {
		if presets, err = c.NetworkPresets(ctx); err != nil {
			return err
		}
	}
	if d.json {
		err = d.writeJSON(Findings{found, presets})
	} else {
		_, err = io.WriteString(d.Stdout, presetsText(presets))
	}
	if err != nil {
		return err
	}
	if !sick {
		return nil
	}
	return &cove.Error{
		Code: cove.Unavailable, Op: "doctor", Err: errors.New("a runtime that is needed does not work on this machine"),
		Hint: "do what is said above, or choose another runtime: --runtime, or cove serve --default-runtime",
	}
}

// presetsText tells which presets can be used, and of the others why not.
func presetsText(presets []cove.NetworkPreset) string {
	if len(presets) == 0 {
		return ""
	}
	var usable []string
	var b strings.Builder
	for _, preset := range presets {
		if preset.Error == "" {
			usable = append(usable, preset.Name)
		} else {
			fmt.Fprintf(&b, "    %-12s %s\n", "without", clean(preset.Name+": "+preset.Error, ""))
		}
		for _, warning := range preset.Warnings {
			fmt.Fprintf(&b, "    %-12s %s\n", "warning", clean(preset.Name+": "+warning, ""))
		}
	}
	return fmt.Sprintf("network presets: %s\n%s", dash(clean(strings.Join(usable, " "), "")), b.String())
}

// chosen returns the runtimes with these names, or all.
func chosen(runtimes []cove.Runtime, names []string) ([]cove.Runtime, error) {
	if len(names) == 0 {
		return runtimes, nil
	}
	byName, known := map[string]cove.Runtime{}, []string{}
	for _, r := range runtimes {
		byName[r.Name], known = r, append(known, r.Name)
	}
	var some []cove.Runtime
	for _, name := range names {
		r, ok := byName[name]
		if !ok {
			return nil, cove.Errorf(cove.Invalid, "doctor", name, "no such runtime", "use one of "+strings.Join(known, ", "))
		}
		some = append(some, r)
	}
	return some, nil
}

func (d *doctor) examine(ctx context.Context, c *client.Client, r cove.Runtime) Examination {
	found := Examination{Runtime: r}
	if !r.Available {
		return found
	}
	found.Trial = try(ctx, c, r.Name)
	if !d.deep || found.Trial.Error != "" {
		return found
	}
	if err := d.Conform(ctx, r.Name, func(o Outcome) { found.Checks = append(found.Checks, o) }); err != nil {
		found.Checks = append(found.Checks, Outcome{Name: "conformance", Clause: "the checks can be run here", Error: err.Error()})
	}
	return found
}

// try boots a sandbox, runs a command in it, and removes it.
func try(ctx context.Context, c *client.Client, runtime string) *Trial {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	failed := func(err error) *Trial { return &Trial{Error: err.Error(), Hint: cove.HintOf(err)} }
	spec := cove.Spec{
		Runtime: runtime, TTL: cove.Duration(time.Minute), BestEffort: true,
		Labels: map[string]string{"cove.doctor": "trial"},
	}
	began := time.Now()
	box, err := c.Create(ctx, spec, client.CreateOptions{})
	if err != nil {
		return failed(err)
	}
	trial := &Trial{CreateMS: milliseconds(time.Since(began))}
	began = time.Now()
	result, err := box.Exec(ctx, cove.ExecRequest{Command: cove.Command{Argv: []string{"true"}}})
	trial.ExecMS = milliseconds(time.Since(began))
	if err == nil && result.ExitCode != 0 {
		err = fmt.Errorf("true ended with code %d", result.ExitCode)
	}
	if err := errors.Join(err, box.Remove(context.WithoutCancel(ctx))); err != nil {
		return failed(err)
	}
	return trial
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// well reports whether the runtime works.
func (e Examination) well() bool { return e.Available && e.Trial != nil && e.Trial.Error == "" }

// broken reports whether a promise is.
func (e Examination) broken() bool {
	for _, o := range e.Checks {
		if o.Error != "" {
			return true
		}
	}
	return false
}

func (e Examination) text() string {
	var b strings.Builder
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(&b, "    %-12s %s\n", name, clean(value, ""))
		}
	}
	name, verdict := e.Name, "works"
	if e.Default {
		name += " (default)"
	}
	switch {
	case !e.Available:
		verdict = "can't run here"
	case !e.well():
		verdict = "does not work here"
	case e.broken():
		verdict = "breaks promises"
	}
	fmt.Fprintf(&b, "%s: %s\n", clean(name, ""), verdict)
	line("version", e.Version)
	line("isolation", string(e.Isolation))
	for _, degree := range []cove.Enforcement{cove.Enforced, cove.Degraded, cove.Unsupported} {
		line(string(degree), controls(e.Controls, degree))
	}
	for _, warning := range e.Warnings {
		line("warning", warning)
	}
	line("reason", e.Reason)
	line("hint", e.Hint)
	if t := e.Trial; t != nil && t.Error == "" {
		line("trial", fmt.Sprintf("created in %.0f ms, true in %.1f ms", t.CreateMS, t.ExecMS))
	} else if t != nil {
		line("trial", t.Error)
		line("hint", t.Hint)
	}
	e.outcomes(line)
	return b.String()
}

// outcomes tells how many checks passed, and which did not.
func (e Examination) outcomes(line func(name, value string)) {
	kept, skipped := 0, 0
	for _, o := range e.Checks {
		switch {
		case o.Error != "":
			line("broken", o.Name+": "+o.Clause+": "+o.Error)
		case o.Skipped != "":
			skipped++
		default:
			kept++
		}
	}
	if len(e.Checks) > 0 {
		line("checks", fmt.Sprintf("%d kept, %d broken, %d do not apply", kept, len(e.Checks)-kept-skipped, skipped))
	}
}
