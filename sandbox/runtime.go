package sandbox

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/sandbox/driver"
)

const (
	// probeTimeout bounds how long a driver may look at the host.
	probeTimeout = 15 * time.Second
	// refusalKept is how long a failed probe is believed: long enough for a burst of
	// creates, too short for a user who has just fixed the cause to notice.
	refusalKept = 2 * time.Second
)

// runtime is a driver under the name that specs have for it, with what it last said
// about this host.
type runtime struct {
	name   string
	driver driver.Driver

	turn chan struct{} // holds a token while somebody probes; guards what follows
	at   time.Time     // of the last conclusive probe
	info driver.Info
	err  error
}

// always, as an age, believes a successful probe for as long as nothing contradicts it.
const always time.Duration = 1<<63 - 1

// probe returns what the driver says about this host, from a conclusive answer that is
// no older than age where there is one. The error is cove.Unavailable.
func (r *runtime) probe(ctx context.Context, age time.Duration) (driver.Info, error) {
	select {
	case r.turn <- struct{}{}:
		defer func() { <-r.turn }()
	case <-ctx.Done():
		return driver.Info{}, context.Cause(ctx)
	}
	if r.err != nil {
		age = min(age, refusalKept)
	}
	if !r.at.IsZero() && time.Since(r.at) <= age {
		return r.info, r.err
	}
	bounded, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	info, err := r.driver.Probe(bounded)
	if ctx.Err() != nil {
		return driver.Info{}, context.Cause(ctx) // of the caller's end, not of the host
	}
	if err != nil {
		err = unavailable(r.name, err)
	}
	r.info, r.err, r.at = info, err, time.Now()
	return info, err
}

// forget makes the next probe ask the driver again. Where one is under way, that is as
// good.
func (r *runtime) forget() {
	select {
	case r.turn <- struct{}{}:
		r.at = time.Time{}
		<-r.turn
	default:
	}
}

func unavailable(name string, err error) error {
	hint := cove.HintOf(err)
	if hint == "" {
		hint = "choose another runtime, or run cove doctor to see what this host lacks"
	}
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("the driver did not answer within %v", probeTimeout)
	}
	if e, ok := err.(*cove.Error); ok && e.Err != nil {
		err = e.Err // without the operation: the name of the runtime is said here
	}
	return &cove.Error{Code: cove.Unavailable, ID: name, Err: fmt.Errorf("runtime %s can't run here: %w", name, err), Hint: hint}
}

// runtime returns the runtime with that name. The error is cove.Invalid for one that
// can't exist.
func (h *Host) runtime(name string) (*runtime, error) {
	h.mu.Lock()
	known := h.runtimes[name]
	h.mu.Unlock()
	if known != nil {
		return known, nil
	}
	family, variant, _ := strings.Cut(name, ":")
	opener, ok := h.openers[family]
	if !ok {
		return nil, &cove.Error{
			Code: cove.Invalid,
			Err:  fmt.Errorf("runtime %s is unknown", quote(name)),
			Hint: "use one of " + strings.Join(h.choices(), ", "),
		}
	}
	opened, err := opener(variant)
	if err != nil {
		return nil, err
	}
	return &runtime{name: name, driver: opened, turn: make(chan struct{}, 1)}, nil
}

// keep remembers a runtime that is of use, and returns the one to use: names come from
// callers, and the host does not grow with every name that somebody makes up.
func (h *Host) keep(r *runtime) *runtime {
	h.mu.Lock()
	defer h.mu.Unlock()
	if known := h.runtimes[r.name]; known != nil {
		return known
	}
	h.runtimes[r.name] = r
	return r
}

// families returns the names of the drivers, sorted.
func (h *Host) families() []string {
	return slices.Sorted(maps.Keys(h.openers))
}

// choices returns the names that a spec can have for a runtime: a family that is nothing
// without a variant has NAME in its place.
func (h *Host) choices() []string {
	names := h.families()
	for i, name := range names {
		if _, err := h.openers[name](""); cove.CodeOf(err) == cove.Invalid {
			names[i] = name + ":NAME"
		}
	}
	return names
}

// Runtimes describes every runtime family and the variants of Options.Variants, sorted by
// name, as this host can run them now.
func (h *Host) Runtimes(ctx context.Context) []cove.Runtime {
	names := slices.Concat(h.families(), h.variants)
	slices.Sort(names)
	runtimes := make([]cove.Runtime, len(names))
	var group sync.WaitGroup
	for i, name := range names {
		group.Go(func() { runtimes[i] = h.describe(ctx, name) })
	}
	group.Wait()
	// A family without a member of its own name, as oci is, has nothing to describe.
	return slices.DeleteFunc(runtimes, func(r cove.Runtime) bool { return r.Name == "" })
}

func (h *Host) describe(ctx context.Context, name string) cove.Runtime {
	described := cove.Runtime{Name: name, Default: name == h.fallback}
	opened, err := h.runtime(name)
	if cove.CodeOf(err) == cove.Invalid {
		return cove.Runtime{}
	}
	var info driver.Info
	if err == nil {
		info, err = opened.probe(ctx, refusalKept)
	}
	if err != nil {
		described.Reason, described.Hint = plain(reason(err)), cove.HintOf(err)
		return described
	}
	h.keep(opened)
	described.Available = true
	described.Isolation = info.Isolation
	described.Version = info.Version
	described.Controls = controls(info)
	described.Features = info.Features
	described.Warnings = info.Warnings
	return described
}

// reason is an error without the operations around it.
func reason(err error) string {
	if e, ok := err.(*cove.Error); ok && e.Err != nil {
		return e.Err.Error()
	}
	return err.Error()
}

// controls says for every control how far it holds; one that a driver leaves out does
// not hold.
func controls(info driver.Info) map[cove.Control]cove.Enforcement {
	complete := make(map[cove.Control]cove.Enforcement, len(cove.Controls))
	for _, control := range cove.Controls {
		complete[control] = cove.Unsupported
		if degree, ok := info.Controls[control]; ok {
			complete[control] = degree
		}
	}
	return complete
}

// checkRuntime notes what a complete spec asks of a runtime that this one can't give. asked
// are the limits that are not defaults.
func checkRuntime(p *problems, s *cove.Spec, asked cove.Limits, info driver.Info) {
	checkFloor(p, s, info.Floor)
	if !info.Isolation.RootInside() && isRoot(s.User) {
		p.add(cove.NotSupported, "use another user, or a runtime with a kernel of its own, such as gvisor",
			"user %s is root or of its group, which the isolation class %s does not allow", quote(s.User), info.Isolation)
	}
	for _, feature := range s.Features() {
		if !slices.Contains(info.Features, feature) {
			p.add(cove.NotSupported, "leave it out, or choose a runtime that has it: see cove runtime ls",
				"%s does not know %s", s.Runtime, feature)
		}
	}
	if s.BestEffort {
		return
	}
	for _, control := range required(s, info.Isolation) {
		degree := controls(info)[control]
		if degree == cove.Degraded && isDefault(control, asked) {
			continue // nobody relies on it, and the reply says so
		}
		if degree != cove.Enforced {
			p.add(cove.NotSupported, "set best_effort to accept that, or choose a runtime that enforces all of it",
				"control %s is %s on %s here", control, degree, s.Runtime)
		}
	}
}

// isDefault reports whether control is a limit that was not asked for.
func isDefault(control cove.Control, asked cove.Limits) bool {
	switch control {
	case cove.ControlCPU:
		return asked.CPUs == 0
	case cove.ControlMemory:
		return asked.Memory == 0
	case cove.ControlPids:
		return asked.Pids == 0
	case cove.ControlDisk:
		return asked.Disk == 0
	}
	return false
}

func checkFloor(p *problems, s *cove.Spec, floor cove.Limits) {
	below := func(name string, asked, least any) {
		p.invalid("raise the limit, or leave it out for its default",
			"%s %v is below the least that %s starts with, %v", name, asked, s.Runtime, least)
	}
	// A limit that is wrong anyway has been noted already.
	if s.Limits.CPUs > 0 && s.Limits.CPUs < floor.CPUs {
		below("cpus", s.Limits.CPUs, floor.CPUs)
	}
	if s.Limits.Memory > 0 && s.Limits.Memory < floor.Memory {
		below("memory", s.Limits.Memory, floor.Memory)
	}
	if s.Limits.Pids > 0 && s.Limits.Pids < floor.Pids {
		below("pids", s.Limits.Pids, floor.Pids)
	}
	if s.Limits.Disk > 0 && s.Limits.Disk < floor.Disk {
		below("disk", s.Limits.Disk, floor.Disk)
	}
}

// required lists the controls that a spec relies on. System call filters count only where
// the host's own kernel serves the sandbox.
func required(s *cove.Spec, class cove.Isolation) []cove.Control {
	needed := []cove.Control{
		cove.ControlCPU, cove.ControlMemory, cove.ControlPids, cove.ControlDisk, cove.ControlNetwork,
		cove.ControlUser, cove.ControlCapabilities, cove.ControlNoNewPrivilege,
	}
	if s.ReadOnly {
		needed = append(needed, cove.ControlReadOnly)
	}
	if class == cove.IsolationSharedKernel || class == cove.IsolationProcess {
		needed = append(needed, cove.ControlSeccomp)
	}
	return needed
}
