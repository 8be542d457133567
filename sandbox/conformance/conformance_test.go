package conformance

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/covehq/cove"
	"github.com/covehq/cove/sandbox/driver"
)

func TestChecksAreNamedOnceAndSayWhatTheyHold(t *testing.T) {
	checks := Checks()
	if len(checks) < 50 {
		t.Errorf("number of checks: got %d, want at least 50", len(checks))
	}
	seen, last := map[string]bool{}, 0
	for _, c := range checks {
		name := c.Group + "/" + c.Name
		if seen[name] {
			t.Errorf("%s: named twice", name)
		}
		seen[name] = true
		if group := slices.Index(Groups, c.Group); group < last {
			t.Errorf("%s: its group is not in the order of Groups", name)
		} else {
			last = group
		}
		if !strings.HasSuffix(c.Clause, ".") || strings.ToLower(c.Name) != c.Name || strings.Contains(c.Name, " ") {
			t.Errorf("%s: clause %q is not a sentence, or the name is not words joined by hyphens", name, c.Clause)
		}
	}
	for _, group := range Groups {
		if !slices.ContainsFunc(checks, func(c Check) bool { return c.Group == group }) {
			t.Errorf("group %s has no check", group)
		}
	}
}

// probed is a driver that only declares.
type probed struct {
	driver.Driver
	info driver.Info
	err  error
}

func (p probed) Probe(context.Context) (driver.Info, error) { return p.info, p.err }

func TestAChecksSkipQuotesTheDeclaration(t *testing.T) {
	run := func(context.Context, *bench) error { return errors.New("it ran") }
	memory := map[cove.Control]cove.Enforcement{cove.ControlMemory: cove.Degraded}
	for _, test := range []struct {
		name   string
		driver driver.Driver
		needs  Needs
		want   string
	}{
		{"a host that can't run it", probed{err: errors.New("no such kernel")}, Needs{}, "skipped: probe says: no such kernel"},
		{"a degraded control", probed{info: driver.Info{Controls: memory}}, Needs{Control: cove.ControlMemory}, "skipped: probe declares the control memory degraded"},
		{"a feature that it has not", probed{info: driver.Info{Features: []cove.Feature{cove.FeatureBind}}}, Needs{Feature: cove.FeatureTmpfs}, "skipped: probe does not declare the feature mounts.tmpfs"},
		{"a feature that it has", probed{info: driver.Info{Features: []cove.Feature{cove.FeatureTmpfs}}}, Needs{Feature: cove.FeatureTmpfs}, "it ran"},
		{"a driver that lists nothing", probed{}, Needs{Lister: true}, "skipped: the driver declares no driver.Lister"},
		{"no way to restart", probed{}, Needs{Reopen: true}, "skipped: Options.Reopen is not given"},
		{"no way to crash", probed{}, Needs{Crash: true}, "skipped: Options.Crash is not given"},
		{"nothing in the way", probed{}, Needs{Alone: true}, "it ran"},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := check{needs: test.needs, run: run}.runOn(t.Context(), test.driver, Options{})
			if err == nil || err.Error() != test.want {
				t.Errorf("error: got %v, want %s", err, test.want)
			}
		})
	}
}

func TestTracesAreFoundByTheID(t *testing.T) {
	id, dir := newID(), t.TempDir()
	if found, err := traces(id, nil, []string{dir}); err != nil || len(found) > 0 {
		t.Fatalf("before anything was made: got %q, %v, want nothing", found, err)
	}
	path := filepath.Join(dir, "a", "b-"+id+".json")
	if err := os.MkdirAll(path, 0o700); err != nil {
		t.Fatal(err)
	}
	mark, stop, err := canaryProcess(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	for name, want := range map[string]string{id: path, mark: "process"} {
		found, err := traces(name, nil, []string{dir})
		if err != nil || len(found) != 1 || !strings.HasPrefix(found[0], want) {
			t.Errorf("traces of %s: got %q, %v, want one of %s", name, found, err, want)
		}
	}
}

func TestKillProcessesEndsWhatCarriesTheID(t *testing.T) {
	id := newID()
	cmd := exec.CommandContext(t.Context(), "sh", "-c", "read line; exit 0", id)
	input, err := cmd.StdinPipe() // which keeps it waiting
	if err != nil {
		t.Fatal(err)
	}
	defer input.Close()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := KillProcesses(t.Context(), id); err != nil {
		t.Errorf("kill: %v", err)
	}
	if err := cmd.Wait(); err == nil {
		t.Error("the process ended by itself, want a kill")
	}
	if err := KillProcesses(t.Context(), id); err == nil {
		t.Error("kill of what is gone: got no error, want one")
	}
}
