// Package conformance provides the driver contract as checks: each holds one promise of
// package driver, or of what a sandbox is inside, against a driver that claims to keep it.
// Checks return errors and need no test framework, so that a driver's test, the suite's
// own test and a command line run the same code.
package conformance

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/sandbox/driver"
)

// Check holds one promise.
type Check struct {
	Name   string // unique within its group, in words joined by hyphens
	Group  string // one of Groups
	Clause string // the promise
	Needs  Needs  // what must be declared or given for it to apply

	// Run returns nil where the promise is kept, a *Skip where it does not apply, and
	// otherwise what was got and what was wanted. What it made is gone when it returns.
	Run func(ctx context.Context, d driver.Driver, o Options) error
}

// Groups lists the groups in the order in which they build on each other.
var Groups = []string{"create", "attach", "exec", "files", "cancel", "timeout", "limits", "isolation", "network", "features", "destroy", "hammer"}

// Needs says when a check applies. The zero value: always.
type Needs struct {
	Control cove.Control // Probe declares it enforced
	Feature cove.Feature // Probe declares it
	Lister  bool         // the driver implements driver.Lister
	Reopen  bool         // Options.Reopen is given
	Crash   bool         // Options.Crash is given
	// Alone: nothing else uses the driver, or creates sandboxes on this host, meanwhile.
	Alone bool
}

// Options is what checks need beside the driver. The zero value works, with the checks
// skipped that Needs name.
type Options struct {
	// Spec is what sandboxes are asked to be where a check has no wish of its own. Its
	// zero fields get the defaults.
	Spec cove.Spec
	// Reopen returns another driver on the same state, as a restarted daemon has.
	Reopen func() (driver.Driver, error)
	// Crash creates a sandbox in another process and kills that with SIGKILL: when
	// `after` has passed since it called Create or, with a negative one, when Create
	// has returned. It returns the handle where Create did return.
	Crash func(ctx context.Context, id string, spec *cove.Spec, after time.Duration) (handle []byte, err error)
	// Kill ends a sandbox from outside, as a crash does, and returns when it is dead.
	// Nil: KillProcesses.
	Kill func(ctx context.Context, id string) error
	// StateDirs are where the driver keeps files on this host.
	StateDirs []string
	// Groups are the cgroup directories below which the driver makes its own, in every
	// hierarchy. Nil: all of /sys/fs/cgroup; empty: it makes none.
	Groups []string
	// Census counts what the driver has on this host, by kind. It is compared before and
	// after, so it should count nothing that others change. Nil: nothing is counted.
	Census func() map[string]int
	// Shared is used by the checks that leave a sandbox as it was. Nil: each of them
	// makes one of its own.
	Shared *Shared
}

// Skip is the error of a check that does not apply.
type Skip struct {
	Reason string // quotes the declaration, or names the option that is missing
	// Optional: the runtime does not have the feature, and so promises nothing.
	Optional bool
}

// Error returns the reason.
func (s *Skip) Error() string { return "skipped: " + s.Reason }

// Checks returns all checks, in the order of Groups. Those that need to be alone come
// first in their group.
func Checks() []Check {
	var checks []Check
	for _, group := range []struct {
		name   string
		checks []check
	}{
		{"create", createChecks()}, {"attach", attachChecks()}, {"exec", execChecks()}, {"files", filesChecks()},
		{"cancel", cancelChecks()}, {"timeout", timeoutChecks()}, {"limits", limitsChecks()},
		{"isolation", isolationChecks()}, {"network", networkChecks()}, {"features", featuresChecks()}, {"destroy", destroyChecks()}, {"hammer", hammerChecks()},
	} {
		for _, c := range group.checks {
			checks = append(checks, Check{Name: c.name, Group: group.name, Clause: c.clause, Needs: c.needs, Run: c.runOn})
		}
	}
	return checks
}

// checkTimeout bounds one check, so that a promise of an end that is not kept ends too.
const checkTimeout = 60 * time.Second

// check is a Check before it is bound to a driver.
type check struct {
	name   string
	clause string
	needs  Needs
	run    func(ctx context.Context, b *bench) error
}

func (c check) runOn(ctx context.Context, d driver.Driver, o Options) error {
	ctx, cancel := context.WithTimeoutCause(ctx, checkTimeout, fmt.Errorf("the check did not end within %v", checkTimeout))
	defer cancel()
	info, err := d.Probe(ctx)
	if err != nil {
		return &Skip{Reason: "probe says: " + err.Error()}
	}
	if skip := c.needs.unmet(d, info, o); skip != nil {
		return skip
	}
	b := &bench{driver: d, options: o, info: info}
	defer b.clear(context.WithoutCancel(ctx))
	if err := c.run(ctx, b); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return fmt.Errorf("%w: %w", cause, err)
		}
		return err
	}
	return nil
}

// unmet returns why a check does not apply, or nil.
func (n Needs) unmet(d driver.Driver, info driver.Info, o Options) error {
	_, lists := d.(driver.Lister)
	switch {
	case n.Control != "" && info.Controls[n.Control] != cove.Enforced:
		return &Skip{Reason: fmt.Sprintf("probe declares the control %s %s", n.Control, info.Controls[n.Control])}
	case n.Feature != "" && !slices.Contains(info.Features, n.Feature):
		return &Skip{Reason: fmt.Sprintf("probe does not declare the feature %s", n.Feature), Optional: true}
	case n.Lister && !lists:
		return &Skip{Reason: "the driver declares no driver.Lister"}
	case n.Reopen && o.Reopen == nil:
		return &Skip{Reason: "Options.Reopen is not given"}
	case n.Crash && o.Crash == nil:
		return &Skip{Reason: "Options.Crash is not given"}
	}
	return nil
}

// equal is the error of a wrong value.
func equal[T comparable](what string, got, want T) error {
	if got != want {
		return fmt.Errorf("%s: got %#v, want %#v", what, got, want)
	}
	return nil
}

// isCode is the error of an error that is not of a kind.
func isCode(what string, got error, want cove.Code) error {
	if !errors.Is(got, want) {
		return fmt.Errorf("%s: got error %v (%s), want one that is cove.%s", what, got, cove.CodeOf(got), want)
	}
	return nil
}

// eventually tries until it gets no error, and returns the last one when time is up.
func eventually(ctx context.Context, within time.Duration, try func() error) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("after %v: %w", within, err)
		case <-time.After(pause):
		}
	}
}
