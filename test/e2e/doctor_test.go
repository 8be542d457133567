package e2e

import (
	"context"
	"encoding/json"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/covehq/cove/internal/cli"
	"github.com/covehq/cove/sandbox/conformance"
)

// TestTheDoctorHoldsARuntimeToItsContract has the conformance checks run as their users do.
func TestTheDoctorHoldsARuntimeToItsContract(t *testing.T) {
	oneByOne(t, []string{"runc"}, func(t *testing.T, runtime string) {
		w := newWorld(t, runtime)
		ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute) // some checks wait, one after the other
		defer cancel()
		line := w.command(t, "doctor", "--deep", "--json", runtime)
		cmd := exec.CommandContext(ctx, line.Path, line.Args[1:]...)
		cmd.Env = append(line.Env, "TMPDIR="+filepath.Dir(w.dirs.State))
		cmd.WaitDelay = line.WaitDelay
		output, err := cmd.Output()
		if err != nil {
			t.Errorf("cove doctor --deep: %v", err)
		}
		var reply struct{ Runtimes []cli.Examination }
		if err := json.Unmarshal(output, &reply); err != nil || len(reply.Runtimes) != 1 {
			t.Fatalf("%v; it says %s", err, output)
		}
		found := reply.Runtimes[0]
		if found.Name != runtime || found.Trial == nil || found.Trial.Error != "" || found.Trial.CreateMS <= 0 {
			t.Errorf("the trial of %s: %+v", found.Name, found.Trial)
		}
		want := conformance.Checks()
		if len(found.Checks) != len(want) {
			t.Errorf("%d checks, want %d", len(found.Checks), len(want))
		}
		kept := 0
		for i, o := range found.Checks {
			if i < len(want) && o.Name != want[i].Group+"/"+want[i].Name {
				t.Errorf("check %d is %s, want %s/%s", i, o.Name, want[i].Group, want[i].Name)
			}
			switch {
			case o.Error != "":
				t.Errorf("%s: %s", o.Name, o.Error)
			case o.Skipped == "":
				kept++
			}
		}
		if kept < 100 {
			t.Errorf("only %d checks were kept", kept)
		}
		// Nothing of it is left in the world's own directory, but its daemon's.
		if left, err := filepath.Glob(filepath.Join(filepath.Dir(w.dirs.State), "cove-doctor-*")); err != nil || len(left) > 0 {
			t.Errorf("left: %v, %v", left, err)
		}
	})
}
