package cli

import (
	"testing"

	"github.com/covehq/cove"
)

func TestTheDoctorTellsWhatHoldsAndWhatToDo(t *testing.T) {
	works := cove.Runtime{
		Name: "gvisor", Default: true, Available: true, Isolation: cove.IsolationUserspaceKernel, Version: "20260101",
		Controls: map[cove.Control]cove.Enforcement{cove.ControlNetwork: cove.Enforced, cove.ControlMemory: cove.Degraded, cove.ControlCPU: cove.Degraded, cove.ControlSeccomp: cove.Unsupported},
		Warnings: []string{"runc 1.1.5 can be escaped: install 1.2.8"},
	}
	for name, test := range map[string]struct {
		found Examination
		want  string
	}{
		"one that works": {
			Examination{Runtime: works, Trial: &Trial{CreateMS: 120.4, ExecMS: 1.26}},
			"gvisor (default): works\n    version      20260101\n    isolation    userspace-kernel\n    enforced     network\n    degraded     cpu memory\n" +
				"    unsupported  seccomp\n    warning      runc 1.1.5 can be escaped: install 1.2.8\n    trial        created in 120 ms, true in 1.3 ms\n",
		},
		"one that can't": {
			Examination{Runtime: cove.Runtime{Name: "kata", Reason: "there is no /dev/kvm", Hint: "load kvm_intel\x1b[2J"}},
			"kata: can't run here\n    reason       there is no /dev/kvm\n    hint         load kvm_intel [2J\n",
		},
		"one whose trial failed": {
			Examination{Runtime: cove.Runtime{Name: "runc", Available: true}, Trial: &Trial{Error: "no space", Hint: "make some"}},
			"runc: does not work here\n    trial        no space\n    hint         make some\n",
		},
		"one that breaks a promise": {
			Examination{Runtime: cove.Runtime{Name: "runc", Available: true}, Trial: &Trial{}, Checks: []Outcome{
				{Name: "exec/user", Clause: "it is 1000"}, {Name: "exec/streams", Clause: "there are two", Error: "one"}, {Name: "limits/disk", Skipped: "no quota"},
			}},
			"runc: breaks promises\n    trial        created in 0 ms, true in 0.0 ms\n    broken       exec/streams: there are two: one\n" +
				"    checks       1 kept, 1 broken, 1 do not apply\n",
		},
	} {
		t.Run(name, func(t *testing.T) {
			if got := test.found.text(); got != test.want {
				t.Errorf("got\n%s\nwant\n%s", got, test.want)
			}
		})
	}
}
